"""What a bundle's `manifest.json` says.

A bundle is one folder: `manifest.json`, the artifacts it lists (ONNX graphs, TensorRT engines) and
`golden.npz`. A manifest holds file names, not paths, so it cannot point outside its folder.

The types below are the format: their constraints are checked when a manifest is read
(`clinreadnet.runtime.bundle.format`), and `manifest.schema.json` is written from them.
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
"""Version of the manifests that this package writes and reads."""

GOLDEN_NAME = "golden.npz"
CHECKPOINT_NAME = "clinreadnet.safetensors"

PrecisionName = Annotated[str, Meta(extra_json_schema={"enum": list(PRECISIONS)})]


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes an artifact accepts (``min``...``max``) and is tuned for (``opt``)."""

    min: Annotated[int, Meta(ge=1, le=limits.LEAST_BATCH)]
    opt: Annotated[int, Meta(ge=1)]
    max: Annotated[int, Meta(ge=1, le=limits.LARGEST_BATCH)]


@dataclass(frozen=True)
class ModelInfo:
    """The network that the artifacts were made from.

    A slice with more novelty than ``novelty_threshold`` is out of domain; None where the network
    has no threshold.
    """

    preset: str
    parameters: int
    weights_sha256: Sha256
    novelty_threshold: Annotated[float, Meta(gt=0)] | None = None
    name: str = "ClinReadNet"


@dataclass(frozen=True)
class Encoding:
    """The clip and scale inside the graph: ``clip((hu - hu_min) / hu_range, 0, 1)``."""

    hu_min: Annotated[float, Meta(ge=HU_MIN, le=HU_MIN)] = HU_MIN
    hu_range: Annotated[float, Meta(ge=HU_RANGE, le=HU_RANGE)] = HU_RANGE


@dataclass(frozen=True)
class InputInfo:
    """The one graph input: ``hu`` [batch, 1, 512, 512], Hounsfield units."""

    batch: BatchRange
    name: Literal["hu"] = "hu"
    units: Literal["HU"] = "HU"
    shape: tuple[Literal["batch"], Literal[1], Literal[512], Literal[512]] = ("batch", 1, 512, 512)
    encoding: Encoding = field(default_factory=Encoding)


@dataclass(frozen=True)
class OutputInfo:
    """One graph output; ``shape`` holds integers and the word ``batch``."""

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
    """The machine that built an artifact; ``gpu`` and ``driver`` are null if it had none."""

    platform: str
    gpu: str | None = None
    driver: str | None = None


@dataclass(frozen=True)
class RanOn:
    """Where and when an artifact ran; ``gpu``, ``target`` and ``driver`` are null on a CPU.

    Attributes:
        backend: of the runtime, such as "onnxruntime-cpu".
        date: UTC, ISO 8601.
        platform: operating system and processor's kind.
        processor: its name.
        gpu: name of the GPU.
        target: its architecture, such as "sm89".
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
        """Name of what computed: the GPU, or the processor."""
        return self.gpu or self.processor


NOT_RUN: Final = "not run here"
"""Status of an artifact that the machine could not run."""


@dataclass(frozen=True)
class Parity:
    """Comparison of an artifact with the float64 reference: the record of one verification.

    A value that is not finite is written as null.

    Attributes:
        status: the result of all checks.
        reason: the checks that failed, or why it was not run.
        budget: largest relative error that is accepted.
        relative_error: by output, over all slices.
        metric_difference: by metric of the scores: PLCC, SROCC, KROCC.
        map_difference: "correlation" and "rmse_ratio" of the quality maps with local truth; empty
            where there is no truth.
        worst_score_difference: of one slice, in grades.
        worst_tile_difference: of one tile of a quality map, in grades.
        worst_novelty_difference: of one slice, relative.
        in_domain_flips: slices that only one of the artifact and the reference finds in domain;
            None where nothing is judged.
        details: the rest, such as budgets, intervals and sample sizes.
        ran_on: where and when it ran; None where it did not run.
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
"""A verification that says where it ran."""

_ENGINES_ALONE: dict[str, Any] = {
    "if": {"properties": {"kind": {"const": "tensorrt-engine"}}},
    "then": {"properties": {name: {"type": "string"} for name in ("flavour", "target")}},
    "else": {
        "properties": {name: {"type": "null"} for name in ("flavour", "target", "graph", "layers")}
    },
}
"""What an engine says, and other artifacts do not, as a JSON Schema."""


@dataclass(frozen=True)
class LayerReport:
    """The file beside an engine that lists the types of its layers."""

    file: FileName
    sha256: Sha256
    size: FileSize


@dataclass(frozen=True)
class Artifact:
    """One graph, engine or checkpoint file of the bundle.

    A checkpoint is listed once for each precision that the CPU engine runs it in. ``precision`` is
    a name of the table in `clinreadnet.precision`. An engine also names the ``graph`` it was built
    from (its weights, where ``weights_stripped``) and its ``layers`` report. ``fp32_islands`` are
    the nodes that `--fp32-islands auto` kept in float32; empty where the network's own float32
    islands stand alone. A ``version_compatible`` engine runs on newer releases of its major version
    and on the lean runtime, a ``hardware_compatible`` one on any GPU since Ampere. ``plugins`` are
    the nodes that TensorRT runs with this package's kernels; null where all layers are TensorRT's
    own.

    ``parity`` is what `export` found on the machine that exported; ``records`` are what the same
    machine found with further backends, and other machines with `clinreadnet verify --record`.
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
        """Its file, and of a checkpoint its precision too: no other entry has both."""
        return f"{self.file} {self.precision}" if self.kind == "checkpoint" else self.file

    @property
    def runs(self) -> tuple[Parity, ...]:
        """Every record of a run, ``parity`` among them."""
        records = (*self.records, *([] if self.parity is None else [self.parity]))
        return tuple(parity for parity in records if parity.ran_on is not None)


@dataclass(frozen=True)
class Golden:
    """The file of reference inputs and outputs."""

    file: FileName
    sha256: Sha256
    size: FileSize
    slices: Annotated[int, Meta(ge=1, le=limits.GOLDEN_SLICES)]


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.json` says."""

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
        """Why no slice is judged to be in domain or not; None where slices are judged."""
        if self.model.novelty_threshold is None:
            return "its network has no novelty threshold: no slice is judged to be in domain"
        return None

    def artifact(self, file: str) -> Artifact:
        """Return the artifact with the name ``file``.

        Raises:
            InputError: the bundle lists no such file.
        """
        for artifact in self.artifacts:
            if artifact.file == file:
                return artifact
        listed = ", ".join(a.file for a in self.artifacts)
        raise InputError(f"{file}: not in the bundle, which lists {listed}")


Listed = Artifact | Golden | LayerReport | PtxFile
"""An entry of a manifest that names a file."""


def listed_files(manifest: Manifest) -> Iterator[Listed]:
    """Yield every file that a manifest lists."""
    yield manifest.golden
    for artifact in manifest.artifacts:
        yield artifact
        if artifact.layers is not None:
            yield artifact.layers
        if artifact.kind == "onnx" and artifact.plugins is not None:
            yield from artifact.plugins.ptx
