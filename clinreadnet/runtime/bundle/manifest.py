"""The bundle's `manifest.json`: its types, and reading it as untrusted input.

A bundle is one folder: `manifest.json`, the artifacts it lists (ONNX graphs, TensorRT engines) and
`golden.npz`. A manifest holds file names, not paths, so it cannot point outside its folder. Each
file is read once, and the bytes that are hashed are the bytes that are used.

`manifest.schema.json` in this folder is the same format as a JSON Schema (draft 2020-12).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import types
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from clinreadnet import limits
from clinreadnet.errors import InputError, Untrusted, first_line
from clinreadnet.files import whole_file
from clinreadnet.precision import CHECKPOINT_PRECISIONS, PRECISIONS
from clinreadnet.runtime.bundle.graph import check_graph
from clinreadnet.runtime.bundle.plugins import Plugins, PtxFile
from clinreadnet.runtime.bundle.trust import (
    MANIFEST_NAME,
    SIGNATURE_NAME,
    KeyFile,
    read_inside,
    read_manifest,
)
from clinreadnet.spec import FINE_GRADES, HU_MIN, HU_RANGE, MAP_SIDE, RESEARCH_USE, SIZE

SCHEMA_VERSION = 2
"""Version of the manifest that this package writes, and the newest that it reads. Older ones are
read too: version 2 knows no plugins, and the graphs of version 1 have no ``novelty``."""

GOLDEN_NAME = "golden.npz"
CHECKPOINT_NAME = "clinreadnet.safetensors"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BatchRange:
    """Batch sizes an artifact accepts (``min``...``max``) and is tuned for (``opt``)."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class ModelInfo:
    """The network that the artifacts were made from.

    A slice with more novelty than ``novelty_threshold`` is out of domain; None where the network
    has no threshold.
    """

    preset: str
    parameters: int
    weights_sha256: str
    novelty_threshold: float | None = None
    name: str = "ClinReadNet"


@dataclass(frozen=True)
class Encoding:
    """The clip and scale inside the graph: ``clip((hu - hu_min) / hu_range, 0, 1)``."""

    hu_min: float = HU_MIN
    hu_range: float = HU_RANGE


@dataclass(frozen=True)
class InputInfo:
    """The one graph input: ``hu`` [batch, 1, 512, 512], Hounsfield units."""

    batch: BatchRange
    name: str = "hu"
    units: str = "HU"
    shape: tuple[str | int, ...] = ("batch", 1, SIZE, SIZE)
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

_OUTPUTS = {1: OUTPUT_INFOS[:3], SCHEMA_VERSION: OUTPUT_INFOS}
"""The same, by version of the manifest."""


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
        ran_on: where and when it ran; None where it did not run, and in bundles without records.
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


@dataclass(frozen=True)
class LayerReport:
    """The file beside an engine that lists the types of its layers."""

    file: str
    sha256: str
    size: int


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

    file: str
    kind: Literal["onnx", "tensorrt-engine", "checkpoint"]
    precision: str
    sha256: str
    size: int
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
    records: tuple[Parity, ...] = ()

    @property
    def title(self) -> str:
        """Its file, and of a checkpoint its precision too: no other entry has both."""
        return f"{self.file} {self.precision}" if self.kind == "checkpoint" else self.file

    @property
    def runs(self) -> tuple[Parity, ...]:
        """Every record of a run, ``parity`` among them."""
        found = (*self.records, *([] if self.parity is None else [self.parity]))
        return tuple(one for one in found if one.ran_on is not None)


@dataclass(frozen=True)
class Golden:
    """The file of reference inputs and outputs."""

    file: str
    sha256: str
    size: int
    slices: int


@dataclass(frozen=True)
class Manifest:
    """Everything `manifest.json` says."""

    clinreadnet_version: str
    created: str
    model: ModelInfo
    input: InputInfo
    artifacts: tuple[Artifact, ...]
    golden: Golden
    verified: bool
    outputs: tuple[OutputInfo, ...] = OUTPUT_INFOS
    research_use: str = RESEARCH_USE
    schema_version: int = SCHEMA_VERSION

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graphs' outputs, in order."""
        return tuple(output.name for output in self.outputs)

    @property
    def unjudged(self) -> str | None:
        """Why no slice is judged to be in domain or not; None where slices are judged."""
        if "novelty" not in self.output_names:
            return (
                f"manifest schema {self.schema_version}, made before `novelty`: this bundle cannot "
                "judge whether a slice is in domain; export it again"
            )
        if self.model.novelty_threshold is None:
            return "its network has no novelty threshold: no slice is judged to be in domain"
        return None

    def to_json(self) -> str:
        """Return the manifest as JSON text; numbers that are not finite become null."""
        return json.dumps(_finite(dataclasses.asdict(self)), indent=2, allow_nan=False) + "\n"

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


def write_manifest(manifest: Manifest, bundle: str | os.PathLike[str]) -> Path:
    """Check ``manifest`` and write it atomically into the folder ``bundle``.

    The signature of a replaced manifest is removed, because it is no longer valid.

    Raises:
        InputError: a field is invalid, the folder does not exist, or the manifest is too large to
            be read again.
    """
    path = Path(bundle) / MANIFEST_NAME
    text = manifest.to_json()
    parse_manifest(text, path)
    if len(text.encode()) > limits.MANIFEST:
        raise InputError(f"{path}: would be larger than {limits.MANIFEST} bytes; export it again")
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        # Not before there is room for the new manifest, and not after it is in place.
        path.with_name(SIGNATURE_NAME).unlink(missing_ok=True)
    return path


def load_manifest(
    bundle: str | os.PathLike[str], trusted_keys: Sequence[KeyFile] | None = None
) -> Manifest:
    """Read and check the manifest of the folder ``bundle``; the files it lists are not read.

    Args:
        bundle: the folder.
        trusted_keys: public keys, PEM files. If given, one of them must have signed the
            manifest; the signature is checked before the manifest is parsed.

    Raises:
        InputError: no such bundle, not JSON, a newer schema, or an invalid field.
        Untrusted: not signed by a trusted key, a link out of the bundle, or too large.
    """
    folder = Path(bundle)
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such bundle; make one with `clinreadnet export --out {folder}`"
        )
    try:
        text = read_manifest(folder, trusted_keys).decode("utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing, so this is not a bundle; make one with `clinreadnet export`"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from None
    return parse_manifest(text, path)


def parse_manifest(text: str, path: str | os.PathLike[str] = MANIFEST_NAME) -> Manifest:
    """Return the manifest in ``text``; ``path`` is used only in errors.

    Raises:
        InputError: as in `load_manifest`.
    """
    try:
        raw = json.loads(text, object_pairs_hook=_once)
    except _FormatError as error:
        raise InputError(f"{path}: {error}; export the bundle again") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({first_line(error)}); export the bundle again") from (
            None
        )
    if not isinstance(raw, dict):
        raise InputError(f"{path}: holds no JSON object; export the bundle again")
    if _is_deeper(raw, limits.NESTING):
        raise InputError(f"{path}: nested more than {limits.NESTING} deep; export the bundle again")
    version = raw.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema version {version} is newer than this clinreadnet reads "
            f"({SCHEMA_VERSION}); install a newer clinreadnet"
        )
    try:
        raw = _completed(_upgraded(raw) if version == 1 else raw)
        manifest = _decode_object(Manifest, raw, "")
        _check(manifest)
    except _FormatError as error:
        raise InputError(f"{path}: {error}; export the bundle again") from None
    return manifest


def now() -> str:
    """Return the time in UTC as manifests write it, such as 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(content: bytes) -> str:
    """Return the SHA-256 of ``content``, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read_listed(bundle: str | os.PathLike[str], listed: Listed) -> bytes:
    """Return the bytes of a listed file after a check of its size and SHA-256.

    Of an ONNX graph it is also checked that it is in the precision that the manifest says, and that
    it names no other file (see `clinreadnet.runtime.bundle.graph`).

    Raises:
        InputError: the file is missing.
        Untrusted: it is not the file in the manifest, a link out of the bundle, or a graph that
            needs another file or is in another precision.
    """
    path = Path(bundle) / listed.file
    try:
        content = read_inside(Path(bundle), listed.file, size=listed.size)
    except FileNotFoundError:
        raise InputError(
            f"{path}: listed in the manifest but missing; copy the whole bundle or export it again"
        ) from None
    if digest(content) != listed.sha256:
        raise Untrusted(
            f"{path}: SHA-256 differs from the manifest; copy the bundle again or export it again"
        )
    if isinstance(listed, Artifact) and listed.kind == "onnx":
        check_graph(content, str(path), listed.precision)
    return content


class _FormatError(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; a repeated key is an error, because readers differ on which counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in found if counts[key] > 1)
        raise _FormatError(f"{twice!r} is there twice in an object")
    return found


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether parsed JSON is nested more than ``levels`` deep, without recursion."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(layer)


_T = TypeVar("_T")
_JSON_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    types.NoneType: "null",
}


def _decode(wanted: Any, value: Any, where: str) -> Any:
    """Return ``value`` (parsed JSON) as ``wanted``, a dataclass or one of the types it uses."""
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
        return _decode_object(wanted, value, where)
    origin = typing.get_origin(wanted)
    arguments = typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise _FormatError(f"{where}: {value!r} is none of {choices}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        choices_left = [a for a in arguments if a is not types.NoneType]
        if len(choices_left) == 1:
            return _decode(choices_left[0], value, where)
        for choice in choices_left:
            if type(value) is choice:
                return value
        raise _FormatError(f"{where}: {value!r} has the wrong type")
    if origin is tuple:
        if not isinstance(value, list):
            raise _FormatError(f"{where}: expected a list")
        return tuple(_decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise _FormatError(f"{where}: expected an object")
        return {k: _decode(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if wanted is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise _FormatError(f"{where}: a number beyond any measure") from None
    if type(value) is not wanted:
        raise _FormatError(f"{where}: expected {_JSON_NAMES[wanted]}, found {value!r}")
    return value


_ADDED_TO_MODEL: dict[str, Any] = {"novelty_threshold": None}
_ADDED_TO_PARITY: dict[str, Any] = {
    "map_difference": {},
    "worst_tile_difference": None,
    "worst_novelty_difference": None,
    "in_domain_flips": None,
}


def _upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of version 1 with the fields that version 2 added; ``raw`` stays."""

    def add(value: Any, added: dict[str, Any], where: str) -> Any:
        if not isinstance(value, dict):
            return value  # wrong, or a null parity: not this function's to say
        early = [name for name in added if name in value]
        if early:
            raise _FormatError(f"{where}.{early[0]} is not a field of this schema version")
        return value | added

    artifacts = raw.get("artifacts")
    if isinstance(artifacts, list):
        artifacts = [
            artifact
            | {"parity": add(artifact["parity"], _ADDED_TO_PARITY, f"artifacts[{i}].parity")}
            if isinstance(artifact, dict) and "parity" in artifact
            else artifact
            for i, artifact in enumerate(artifacts)
        ]
        raw = raw | {"artifacts": artifacts}
    return raw | {"model": add(raw["model"], _ADDED_TO_MODEL, "model")} if "model" in raw else raw


def _completed(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with the fields of records and plugins, which version 2 was first without.

    ``raw`` stays.
    """
    if not isinstance(raw.get("artifacts"), list):
        return raw
    artifacts = []
    for artifact in raw["artifacts"]:
        if isinstance(artifact, dict):
            artifact = {"plugins": None, "records": [], **artifact}
            if isinstance(parity := artifact.get("parity"), dict):
                status = parity.get("status")
                written = {"status": NOT_RUN if status == "not run" else status}
                artifact["parity"] = {"ran_on": None, **parity, **written}
        artifacts.append(artifact)
    return raw | {"artifacts": artifacts}


@functools.cache
def _hints(wanted: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(wanted)


def _decode_object(wanted: type[_T], value: Any, where: str) -> _T:
    if not isinstance(value, dict):
        raise _FormatError(f"{where or 'manifest'}: expected an object")
    hints = _hints(typing.cast(Any, wanted))
    prefix = f"{where}." if where else ""
    missing = [name for name in hints if name not in value]
    if missing:
        raise _FormatError(f"{prefix}{missing[0]} is missing")
    unknown = [name for name in value if name not in hints]
    if unknown:
        raise _FormatError(f"{prefix}{unknown[0]} is not a field of this schema version")
    return wanted(**{n: _decode(hint, value[n], prefix + n) for n, hint in hints.items()})


def _check(manifest: Manifest) -> None:
    """Check the constraints that the types do not express."""
    outputs = _OUTPUTS.get(manifest.schema_version)
    if outputs is None:
        known = " or ".join(map(str, _OUTPUTS))
        raise _FormatError(f"schema_version {manifest.schema_version} is not {known}")
    if not manifest.artifacts:
        raise _FormatError("artifacts is empty")
    default = InputInfo(manifest.input.batch)
    if manifest.input != default:
        raise _FormatError("input differs from hu [batch, 1, 512, 512] in HU, -1000 and 1400")
    if manifest.outputs != outputs:
        raise _FormatError(f"outputs differ from {', '.join(output.name for output in outputs)}")
    threshold = manifest.model.novelty_threshold
    if threshold is not None and not 0 < threshold < math.inf:
        raise _FormatError(f"model.novelty_threshold {threshold} is not a positive number")
    _check_sha256(manifest.model.weights_sha256, "model.weights_sha256")
    _check_batch(manifest.input.batch, "input.batch")
    names: dict[str, Listed] = {}
    files: list[tuple[Listed, str]] = [(manifest.golden, "golden")]
    for i, artifact in enumerate(manifest.artifacts):
        files.append((artifact, f"artifacts[{i}]"))
        if artifact.layers is not None:
            files.append((artifact.layers, f"artifacts[{i}].layers"))
        if artifact.kind == "onnx" and artifact.plugins is not None:
            for j, ptx in enumerate(artifact.plugins.ptx):
                files.append((ptx, f"artifacts[{i}].plugins.ptx[{j}]"))
    for listed, where in files:
        reserved = listed.file in (MANIFEST_NAME, SIGNATURE_NAME)
        if reserved or not _PLAIN_NAME.fullmatch(listed.file):
            raise _FormatError(
                f"{where}.file {listed.file!r} is not a plain file name inside the bundle"
            )
        if listed.file in names and not _same_checkpoint(names[listed.file], listed):
            raise _FormatError(f"{where}.file {listed.file!r} is listed twice")
        names[listed.file] = listed
        _check_sha256(listed.sha256, f"{where}.sha256")
        if listed.size < 1:
            raise _FormatError(f"{where}.size {listed.size} is not positive")
        if listed.size > limits.BUNDLE_FILE:
            raise _FormatError(f"{where}.size {listed.size} is above {limits.BUNDLE_FILE}")
        if isinstance(listed, Artifact):
            _check_precision(listed.precision, f"{where}.precision")
            _check_batch(listed.batch, f"{where}.batch")
            engine = listed.kind == "tensorrt-engine"
            if engine != (listed.flavour is not None) or engine != (listed.target is not None):
                raise _FormatError(f"{where}: an engine names flavour and target, a graph does not")
            if listed.kind == "checkpoint":
                if listed.sha256 != manifest.model.weights_sha256:
                    raise _FormatError(f"{where}.sha256 differs from model.weights_sha256")
                if listed.precision not in CHECKPOINT_PRECISIONS:
                    known = ", ".join(CHECKPOINT_PRECISIONS)
                    raise _FormatError(f"{where}: a checkpoint runs in {known} alone")
            if not engine and (listed.graph is not None or listed.layers is not None):
                raise _FormatError(f"{where}: only an engine names a graph and a layers report")
            for j, record in enumerate(listed.records):
                if record.ran_on is None or record.status == NOT_RUN:
                    raise _FormatError(f"{where}.records[{j}]: says not where it ran, or did not")
    graphs = {a.file: a for a in manifest.artifacts if a.kind == "onnx"}
    for i, artifact in enumerate(manifest.artifacts):
        if artifact.graph is not None and artifact.graph not in graphs:
            raise _FormatError(f"artifacts[{i}].graph {artifact.graph!r} is no listed ONNX graph")
        if artifact.kind != "onnx" and artifact.plugins is not None:
            source = graphs[artifact.graph].plugins if artifact.graph is not None else None
            if not set(artifact.plugins.ptx) <= set(source.ptx if source is not None else ()):
                raise _FormatError(f"artifacts[{i}].plugins.ptx: not among those of its graph")
    if not 1 <= manifest.golden.slices <= limits.GOLDEN_SLICES:
        raise _FormatError(f"golden.slices is not 1 to {limits.GOLDEN_SLICES}")
    failed = [a.file for a in manifest.artifacts if a.parity and a.parity.status == "failed"]
    if manifest.verified and failed:
        raise _FormatError(f"verified is true, but the parity of {failed[0]} failed")


def _same_checkpoint(one: Listed, other: Listed) -> bool:
    """Return whether two entries are one checkpoint in two precisions."""
    return (
        isinstance(one, Artifact)
        and isinstance(other, Artifact)
        and one.kind == other.kind == "checkpoint"
        and (one.sha256, one.size) == (other.sha256, other.size)
        and one.precision != other.precision
    )


def _check_batch(batch: BatchRange, where: str) -> None:
    if not 1 <= batch.min <= batch.opt <= batch.max:
        raise _FormatError(f"{where}: needs 1 <= min <= opt <= max")
    if batch.min > limits.LEAST_BATCH or batch.max > limits.LARGEST_BATCH:
        raise _FormatError(
            f"{where}: min is at most {limits.LEAST_BATCH} and max at most {limits.LARGEST_BATCH}"
        )


def _check_precision(value: str, where: str) -> None:
    if value not in PRECISIONS:
        raise _FormatError(f"{where}: {value!r} is none of {', '.join(map(repr, PRECISIONS))}")


def _check_sha256(value: str, where: str) -> None:
    if not _SHA256.fullmatch(value):
        raise _FormatError(f"{where} is not 64 lower-case hexadecimal digits")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
