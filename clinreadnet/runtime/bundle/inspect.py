"""What a bundle holds, for which machines, and how each file was verified."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from clinreadnet.console import Column, fitted_table, print_lines
from clinreadnet.errors import InputError, visible
from clinreadnet.runtime.bundle.files import load_manifest, read_listed
from clinreadnet.runtime.bundle.graph import read_graph
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, Parity, listed_files
from clinreadnet.runtime.bundle.trust import SIGNATURE_NAME, KeyFile

_GENERATIONS = {
    "sm75": "Turing",
    "sm80": "Ampere",
    "sm86": "Ampere",
    "sm89": "Ada",
    "sm90": "Hopper",
    "sm100": "Blackwell",
    "sm120": "Blackwell",
}
_KINDS = {"onnx": "ONNX graph", "tensorrt-engine": "engine", "checkpoint": "checkpoint"}


@dataclass(frozen=True)
class Run:
    """One comparison of a file with the float64 reference.

    Attributes:
        status: "passed" or "failed".
        backend: what ran it.
        hardware: the GPU or processor.
        date: when, UTC.
        error: largest relative error of an output; None if there is none.
        budget: largest that is accepted.
        reason: the checks that failed.
    """

    status: str
    backend: str
    hardware: str
    date: str
    error: float | None
    budget: float | None
    reason: str | None


@dataclass(frozen=True)
class Entry:
    """One artifact of a bundle.

    Attributes:
        file: its name.
        kind: "ONNX graph", "engine" or "checkpoint".
        precision: a name of the table in `clinreadnet.precision`.
        runs_on: the machines that it is for.
        size: bytes.
        batch: smallest and largest batch.
        layers: operators of a graph or layers of an engine's network; None of a checkpoint.
        layer_types: layers by type of output of an engine, operators by name of a graph.
        runs: where it was verified; empty where nobody has.
        problem: why the file cannot be used; None if it is the one in the manifest.
    """

    file: str
    kind: str
    precision: str
    runs_on: str
    size: int
    batch: tuple[int, int]
    layers: int | None
    layer_types: dict[str, int]
    runs: tuple[Run, ...]
    problem: str | None

    @property
    def verified(self) -> str:
        """How it was verified, in a few words."""
        failed = [run for run in self.runs if run.status == "failed"]
        if failed:
            return "failed: " + "; ".join(f"{run.backend}, {run.hardware}" for run in failed)
        return ", ".join(dict.fromkeys(run.backend for run in self.runs)) or "not run yet"


@dataclass(frozen=True)
class Contents:
    """A bundle as `inspect_bundle` found it."""

    bundle: str
    created: str
    clinreadnet_version: str
    verified: bool
    signed: bool
    preset: str
    parameters: int
    weights_sha256: str
    novelty_threshold: float | None
    golden_slices: int
    bytes: int
    entries: tuple[Entry, ...]
    problems: tuple[str, ...]
    research_use: str


def inspect_bundle(
    bundle: str | os.PathLike[str], trusted_keys: Sequence[KeyFile] | None = None
) -> Contents:
    """Return what a bundle holds; every file is compared with the manifest, and none is loaded.

    Args:
        bundle: the folder.
        trusted_keys: as of `clinreadnet.runtime.bundle.files.load_manifest`.

    Raises:
        InputError, Untrusted: the manifest cannot be used.
    """
    folder = Path(bundle)
    manifest = load_manifest(folder, trusted_keys)
    contents: dict[str, bytes] = {}
    problems: dict[str, str] = {}
    for listed in listed_files(manifest):
        try:
            contents[listed.file] = read_listed(folder, listed)
        except InputError as error:
            problems[listed.file] = str(error)
    sizes = {listed.file: listed.size for listed in listed_files(manifest)}
    return Contents(
        bundle=str(folder),
        created=manifest.created,
        clinreadnet_version=manifest.clinreadnet_version,
        verified=manifest.verified,
        signed=(folder / SIGNATURE_NAME).exists(),
        preset=manifest.model.preset,
        parameters=manifest.model.parameters,
        weights_sha256=manifest.model.weights_sha256,
        novelty_threshold=manifest.model.novelty_threshold,
        golden_slices=manifest.golden.slices,
        bytes=sum(sizes.values()),
        entries=tuple(_entry(a, contents, problems) for a in manifest.artifacts),
        problems=tuple(problems.values()),
        research_use=manifest.research_use,
    )


def entries(manifest: Manifest) -> tuple[Entry, ...]:
    """Return what a manifest says of its artifacts, without a look at the files."""
    return tuple(_entry(artifact, {}, {}) for artifact in manifest.artifacts)


def runs_on(artifact: Artifact) -> str:
    """Return the machines that an artifact is for, in a few words."""
    if artifact.kind == "checkpoint":
        return "any processor, by the package's CPU engine"
    if artifact.kind == "onnx":
        if artifact.plugins is not None:
            return "TensorRT with this package's kernels as plugins"
        return "ONNX Runtime, OpenVINO; any TensorRT builds from it"
    flavour = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[str(artifact.flavour)]
    version = artifact.toolchain.get(str(artifact.flavour), "")
    if artifact.hardware_compatible:
        where = "GPUs since Ampere"
    else:
        generation = _GENERATIONS.get(str(artifact.target))
        where = f"{artifact.target} GPUs" + (f" ({generation})" if generation else "")
    return f"{flavour} {version} on {where}, {artifact.built_on.platform.split('-')[0]}"


def print_contents(contents: Contents, console: Console) -> None:
    """Print the bundle as a table, then what is wrong with it."""
    state = "verified" if contents.verified else "NOT verified"
    judged = (
        "no slice is judged to be in domain"
        if contents.novelty_threshold is None
        else f"novel above {contents.novelty_threshold:.3g}"
    )
    for line in (
        f"{contents.bundle}: {state}, {'' if contents.signed else 'not '}signed, "
        f"{megabytes(contents.bytes)}, made {contents.created} by clinreadnet "
        f"{contents.clinreadnet_version}",
        f"preset {contents.preset}, {contents.parameters / 1e6:.1f} M parameters, weights "
        f"{contents.weights_sha256[:12]}, {judged}, {contents.golden_slices} golden slices",
    ):
        print_lines(console, visible(line))
    listed = contents.entries
    names = [visible(entry.file) for entry in listed]
    columns = [
        Column("precision", [entry.precision for entry in listed], justify="left"),
        Column("size", [megabytes(entry.size) for entry in listed], 2),
        Column("layers", ["" if e.layers is None else str(e.layers) for e in listed], 4),
        Column(
            "verified by",
            [visible(entry.verified).replace(", ", "\n") for entry in listed],
            3,
            "left",
        ),
        Column("error / budget", [worst(entry) for entry in listed], 1),
    ]
    console.print(fitted_table(console, "file", names, columns, most=max(map(len, names))))
    for file, machines in dict.fromkeys((entry.file, entry.runs_on) for entry in contents.entries):
        print_lines(console, visible(f"{file}: {machines}"))
    failed = [
        f"{entry.file}, {entry.precision}: failed with {run.backend} on {run.hardware}: "
        f"{run.reason}"
        for entry in contents.entries
        for run in entry.runs
        if run.status == "failed"
    ]
    print_lines(console, *map(visible, (*failed, *contents.problems)))
    console.print(contents.research_use, highlight=False)


def worst(entry: Entry) -> str:
    """Return the largest error of an entry's runs beside its budget."""
    known = [run for run in entry.runs if run.error is not None and run.budget is not None]
    if not known:
        return ""
    most = max(known, key=lambda run: float(run.error or 0))
    return f"{most.error:.0e} / {most.budget:.0e}"


def megabytes(size: int) -> str:
    """Return a size for a person."""
    return f"{size / 1e6:.1f} MB"


def _entry(artifact: Artifact, contents: dict[str, bytes], problems: dict[str, str]) -> Entry:
    layers, types = _layers(artifact, contents)
    return Entry(
        file=artifact.file,
        kind=_KINDS[artifact.kind],
        precision=artifact.precision,
        runs_on=runs_on(artifact),
        size=artifact.size,
        batch=(artifact.batch.min, artifact.batch.max),
        layers=layers,
        layer_types=types,
        runs=tuple(_run(parity) for parity in artifact.runs),
        problem=problems.get(artifact.file)
        or (None if artifact.layers is None else problems.get(artifact.layers.file)),
    )


def _layers(artifact: Artifact, contents: dict[str, bytes]) -> tuple[int | None, dict[str, int]]:
    """Return how many layers an artifact has, and of which types; None where nothing tells."""
    if artifact.kind == "onnx" and artifact.file in contents:
        operators = read_graph(contents[artifact.file]).operators
        return operators.total(), dict(operators.most_common())
    if artifact.layers is None or artifact.layers.file not in contents:
        return None, {}
    try:
        by_kind = json.loads(contents[artifact.layers.file])["layers"]
        types: Counter[str] = Counter()
        for counts in by_kind.values():
            types.update({str(name): int(count) for name, count in counts.items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, {}
    return types.total(), dict(types.most_common())


def _run(parity: Parity) -> Run:
    assert parity.ran_on is not None
    errors = [error for error in parity.relative_error.values() if error is not None]
    return Run(
        status=parity.status,
        backend=parity.ran_on.backend,
        hardware=parity.ran_on.hardware,
        date=parity.ran_on.date,
        error=max(errors) if errors else None,
        budget=parity.budget,
        reason=parity.reason,
    )
