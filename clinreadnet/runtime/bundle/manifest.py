"""Types of a bundle's `manifest.json`.

A bundle is a folder with `manifest.json`, the listed artifacts (checkpoint, ONNX graphs, TensorRT
engines) and `golden.npz`. A manifest contains file names, not paths, so it cannot refer to files
outside the folder.

The types define the format: `clinreadnet.runtime.bundle.format` checks their constraints when it
reads a manifest, and generates `manifest.schema.json` from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.plugins import Plugins, PtxFile
from clinreadnet.runtime.bundle.types import FileName, FileSize, Sha256
from clinreadnet.spec import FINE_GRADES, HU_MIN, HU_RANGE, MAP_SIDE, RESEARCH_USE

SCHEMA_VERSION: Final = 1
"""Schema version that this package reads and writes."""

GOLDEN_NAME = "golden.npz"
CHECKPOINT_NAME = "clinreadnet.safetensors"

PrecisionName = Annotated[str, Meta(extra_json_schema={"enum": list(PRECISIONS)})]


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes that an artifact accepts (``min``...``max``) and is optimised for (``opt``)."""

    min: Annotated[int, Meta(ge=1, le=limits.LEAST_BATCH)]
    opt: Annotated[int, Meta(ge=1)]
    max: Annotated[int, Meta(ge=1, le=limits.LARGEST_BATCH)]

    def __str__(self) -> str:
        """Return the range in the form ``1:4:16``."""
        return f"{self.min}:{self.opt}:{self.max}"


@dataclass(frozen=True)
class ModelInfo:
    """The network of the artifacts.

    A slice with a novelty above ``novelty_threshold`` is out of domain; None if the network has no
    threshold.
    """

    preset: str
    parameters: int
    weights_sha256: Sha256
    novelty_threshold: Annotated[float, Meta(gt=0)] | None = None
    name: str = "ClinReadNet"


@dataclass(frozen=True)
class Encoding:
    """Encoding inside the graph: ``clip((hu - hu_min) / hu_range, 0, 1)``."""

    hu_min: Annotated[float, Meta(ge=HU_MIN, le=HU_MIN)] = HU_MIN
    hu_range: Annotated[float, Meta(ge=HU_RANGE, le=HU_RANGE)] = HU_RANGE


@dataclass(frozen=True)
class InputInfo:
    """Graph input: ``hu`` [batch, 1, 512, 512] Hounsfield units."""

    batch: BatchRange
    name: Literal["hu"] = "hu"
    units: Literal["HU"] = "HU"
    shape: tuple[Literal["batch"], Literal[1], Literal[512], Literal[512]] = ("batch", 1, 512, 512)
    encoding: Encoding = field(default_factory=Encoding)


@dataclass(frozen=True)
class OutputInfo:
    """A graph output. ``shape`` contains integers and the word ``batch``."""

    name: str
    shape: tuple[str | int, ...]


OUTPUT_INFOS = (
    OutputInfo("score", ("batch",)),
    OutputInfo("probs", ("batch", FINE_GRADES)),
    OutputInfo("quality_map", ("batch", MAP_SIDE, MAP_SIDE)),
    OutputInfo("novelty", ("batch",)),
)
"""The outputs of every ClinReadNet graph."""


@dataclass(frozen=True)
class BuiltOn:
    """Machine that built an artifact. ``gpu`` and ``driver`` are null without a GPU."""

    platform: str
    gpu: str | None = None
    driver: str | None = None


@dataclass(frozen=True)
class RanOn:
    """Machine and time of a run. ``gpu``, ``target`` and ``driver`` are null on a CPU.

    Attributes:
        backend: backend of the runtime, such as "onnxruntime-cpu".
        date: UTC, ISO 8601.
        platform: operating system and processor architecture.
        processor: name of the processor.
        gpu: name of the GPU.
        target: architecture of the GPU, such as "sm89".
        driver: version of the NVIDIA driver.
        libraries: versions by package.
    """

    backend: str
    date: str
    platform: str
    processor: str
    gpu: str | None
    target: str | None
    driver: str | None
    libraries: dict[str, str]

    @property
    def hardware(self) -> str:
        """Name of the GPU, or of the processor for a run on the CPU."""
        return self.gpu or self.processor


NOT_RUN: Final = "not run here"
"""Status of an artifact that the machine could not run."""


@dataclass(frozen=True)
class Parity:
    """Record of a verification: the comparison of an artifact with the float64 reference.

    A value that is not finite is written as null.

    Attributes:
        status: overall result of the checks.
        reason: failed checks, or why the artifact was not run.
        budget: largest accepted relative error.
        relative_error: relative error over all slices, by output.
        metric_difference: difference of PLCC, SROCC and KROCC of the scores, by name.
        map_difference: difference of "correlation" and "rmse_ratio" of quality maps with tile
            labels; empty without tile labels.
        worst_score_difference: largest difference of the score of a slice, in grades.
        worst_tile_difference: largest difference of a tile of a quality map, in grades.
        worst_novelty_difference: largest relative difference of the novelty of a slice.
        in_domain_flips: number of slices that are in domain for only one of artifact and reference;
            None without a novelty threshold.
        details: further values such as budgets, intervals and sample sizes.
        ran_on: machine and time of the run; None if the artifact was not run.
    """

    status: Literal["passed", "failed", "not run here"]
    reason: str | None = None
    budget: float | None = None
    relative_error: dict[str, float | None] = field(default_factory=dict)
    metric_difference: dict[str, float | None] = field(default_factory=dict)
    map_difference: dict[str, float | None] = field(default_factory=dict)
    worst_score_difference: float | None = None
    worst_tile_difference: float | None = None
    worst_novelty_difference: float | None = None
    in_domain_flips: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    ran_on: RanOn | None = None


Record = Annotated[
    Parity,
    Meta(
        extra_json_schema={
            "properties": {"status": {"enum": ["passed", "failed"]}, "ran_on": {"type": "object"}}
        }
    ),
]
"""A record of a verification that includes the machine."""

_ENGINES_ALONE: dict[str, Any] = {
    "if": {"properties": {"kind": {"const": "tensorrt-engine"}}},
    "then": {"properties": {name: {"type": "string"} for name in ("flavour", "target")}},
    "else": {
        "properties": {name: {"type": "null"} for name in ("flavour", "target", "graph", "layers")}
    },
}
"""JSON Schema of the fields that only engines have."""


@dataclass(frozen=True)
class LayerReport:
    """File beside an engine that lists the types of its layers."""

    file: FileName
    sha256: Sha256
    size: FileSize


@dataclass(frozen=True)
class Artifact:
    """A graph, engine or checkpoint file of the bundle.

    A checkpoint is listed once for each precision of the CPU engine. ``precision`` is a name of
    `clinreadnet.precision`. An engine also lists its source ``graph`` (which contains its weights
    if ``weights_stripped``) and its ``layers`` report. ``fp32_islands`` are the nodes that
    `--fp32-islands auto` kept in float32; empty if only the network's own islands are float32. A
    ``version_compatible`` engine runs on newer releases of its major version and on the lean
    runtime, a ``hardware_compatible`` engine on any GPU since Ampere. ``plugins`` are the nodes
    that TensorRT runs with this package's kernels; null without plugins.

    ``parity`` is the verification on the exporting machine; ``records`` are verifications with
    further backends, and on other machines by `clinreadnet verify --record`.
    """

    file: FileName
    kind: Literal["onnx", "tensorrt-engine", "checkpoint"]
    precision: PrecisionName
    sha256: Sha256
    size: FileSize
    batch: BatchRange
    toolchain: dict[str, str]
    built_on: BuiltOn
    flavour: Literal["tensorrt", "tensorrt-rtx"] | None = None
    target: str | None = None
    graph: str | None = None
    layers: LayerReport | None = None
    fp32_islands: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    weights_stripped: bool = False
    plugins: Plugins | None = None
    parity: Parity | None = None
    records: tuple[Record, ...] = ()

    @property
    def title(self) -> str:
        """Unique title: the file name, for a checkpoint followed by the precision."""
        return f"{self.file} {self.precision}" if self.kind == "checkpoint" else self.file

    @property
    def files(self) -> tuple[Artifact | LayerReport | PtxFile, ...]:
        """The artifact and the files beside it: an engine's report, the PTX of a graph."""
        layers = () if self.layers is None else (self.layers,)
        ptx = self.plugins.ptx if self.kind == "onnx" and self.plugins is not None else ()
        return (self, *layers, *ptx)

    @property
    def runs(self) -> tuple[Parity, ...]:
        """All verifications that ran, including ``parity``."""
        records = (*self.records, *([] if self.parity is None else [self.parity]))
        return tuple(parity for parity in records if parity.ran_on is not None)


@dataclass(frozen=True)
class Golden:
    """File of reference inputs and outputs."""

    file: FileName
    sha256: Sha256
    size: FileSize
    slices: Annotated[int, Meta(ge=1, le=limits.GOLDEN_SLICES)]


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`."""

    clinreadnet_version: str
    created: str
    model: ModelInfo
    input: InputInfo
    artifacts: Annotated[
        tuple[Annotated[Artifact, Meta(extra_json_schema=_ENGINES_ALONE)], ...], Meta(min_length=1)
    ]
    golden: Golden
    verified: bool
    outputs: tuple[OutputInfo, ...] = OUTPUT_INFOS
    research_use: str = RESEARCH_USE
    schema_version: Literal[1] = SCHEMA_VERSION

    @property
    def unjudged(self) -> str | None:
        """Why slices cannot be classified as in domain; None if they can."""
        if self.model.novelty_threshold is None:
            return (
                "its network has no novelty threshold, so slices cannot be classified as in domain"
            )
        return None

    def artifact(self, file: str) -> Artifact:
        """Return the artifact with the file name ``file``.

        Raises:
            InputError: the bundle does not list the file.
        """
        for artifact in self.artifacts:
            if artifact.file == file:
                return artifact
        listed = ", ".join(a.file for a in self.artifacts)
        raise InputError(f"{file}: not in the bundle, which lists {listed}")


Listed = Artifact | Golden | LayerReport | PtxFile
"""An entry of a manifest with a file name."""


def listed_files(manifest: Manifest) -> Iterator[Listed]:
    """Yield every file that a manifest lists."""
    yield manifest.golden
    for artifact in manifest.artifacts:
        yield from artifact.files
