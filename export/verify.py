"""Prove each artifact of a bundle against the float64 reference.

For every artifact this machine can run: ‖out − ref‖ / ‖ref‖ of each output within its precision's
budget, the task's metrics within their own, and the worst single-slice score difference. The slices
are the bundle's golden ones (no torch needed) or a labelled folder (the checkpoint is then needed).

Rank metrics jump by a whole pair when two nearly equal scores change places: one pair of n slices
moves KROCC by 4 / (n (n - 1)), more than its tolerance while n < 64. Golden slices are therefore
chosen with distinct reference scores (see `clinreadnet.export.bundle`): on them, any change of
order is an error of the artifact. In a labelled folder every slice counts; give it a few hundred.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clinreadnet.errors import BackendError, InputError
from clinreadnet.grading import RESEARCH_USE
from clinreadnet.metrics import Correlations, Interval, correlations
from clinreadnet.runtime.golden import read_golden
from clinreadnet.runtime.manifest import Artifact, Manifest, Parity, digest, read_listed
from clinreadnet.runtime.onnxruntime_backend import OnnxRuntimeBackend
from clinreadnet.runtime.parity import BUDGETS, OUTPUTS, relative_error

if TYPE_CHECKING:
    from clinreadnet.model import ClinReadNet

METRICS = ("PLCC", "SROCC", "KROCC")

METRIC_BUDGETS = dict.fromkeys(BUDGETS, 1e-3) | {"int8": 5e-3, "fp8": 5e-3}
"""Largest accepted difference of each metric from the reference's, by precision."""


CPU_HALF_NOTE = (
    "the graph is proven, half-precision arithmetic is not: "
    "on most CPUs ONNX Runtime multiplies in float32"
)


class Slices(Protocol):
    """Slices that are read when asked for: a thousand would not fit some machines' memory."""

    def __len__(self) -> int:
        """Return the number of slices."""
        ...

    def hu(self, index: int) -> NDArray[Any]:
        """Return one slice: [512, 512], Hounsfield units."""
        ...


@dataclass(frozen=True)
class GoldenSlices:
    """Slices in memory: ``images`` [n, 512, 512], Hounsfield units."""

    images: NDArray[Any]

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.images)

    def hu(self, index: int) -> NDArray[Any]:
        """Return one slice: [512, 512]."""
        return np.asarray(self.images[index])


Outputs = dict[str, NDArray[Any]]
"""score [n], probs [n, 21], quality_map [n, 16, 16]."""

Advance = Callable[[int], None]
"""Told how many slices have been computed since the last call."""


@dataclass(frozen=True)
class Report:
    """What `verify_bundle` found.

    Attributes:
        bundle: the folder.
        source: "golden" or the labelled folder.
        slices: number of slices compared; 0 where the golden file is broken.
        artifacts: the manifest's entries, each with its new parity.
        problems: what is wrong with the bundle beside its artifacts.
    """

    bundle: Path
    source: str
    slices: int
    artifacts: tuple[Artifact, ...]
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing failed and at least one artifact ran."""
        return not self.problems and all_passed(self.artifacts)

    def to_dict(self) -> dict[str, Any]:
        """Return the report ready for JSON."""
        return {
            "bundle": str(self.bundle),
            "passed": self.passed,
            "source": self.source,
            "slices": self.slices,
            "problems": list(self.problems),
            "artifacts": [
                {
                    "file": a.file,
                    "kind": a.kind,
                    "precision": a.precision,
                    "target": a.target,
                    **({} if a.parity is None else asdict(a.parity)),
                }
                for a in self.artifacts
            ],
            "research_use": RESEARCH_USE,
        }


def all_passed(artifacts: tuple[Artifact, ...]) -> bool:
    """Return whether no artifact failed and at least one passed."""
    statuses = {a.parity.status if a.parity else "not run" for a in artifacts}
    return "failed" not in statuses and "passed" in statuses


def compare(precision: str, outputs: Outputs, reference: Outputs, labels: NDArray[Any]) -> Parity:
    """Compare an artifact's outputs with the reference's on the same slices.

    Args:
        precision: decides the budgets.
        outputs: of the artifact.
        reference: float64.
        labels: [n], the readers' scores.

    Returns:
        The parity; where it failed, ``reason`` names each failed check.
    """
    budget, metric_budget = BUDGETS[precision], METRIC_BUDGETS[precision]
    errors = {name: relative_error(outputs[name], reference[name]) for name in OUTPUTS}
    # Written so that a NaN fails.
    failures = [
        f"{name} is off by {error:.1e} (budget {budget:.0e})"
        for name, error in errors.items()
        if not error <= budget
    ]
    differences: dict[str, float | None] = {}
    details: dict[str, Any] = {"slices": len(labels), "metric_budget": metric_budget}
    if np.isfinite(outputs["score"]).all():
        ours, theirs = (correlations(o["score"], labels) for o in (outputs, reference))
        details |= {"metrics": _upper(ours), "reference_metrics": _upper(theirs)}
        for name in METRICS:
            difference = abs(_value(ours, name) - _value(theirs, name))
            differences[name] = difference
            if np.isnan(difference):
                failures.append(f"{name} is undefined: all scores or all labels are equal")
            elif not difference <= metric_budget:
                failures.append(f"{name} differs by {difference:.1e} (budget {metric_budget:.0e})")
        worst = float(np.abs(outputs["score"] - reference["score"]).max())
    else:
        failures.append("scores are not finite")
        worst = float("inf")
    return Parity(
        status="failed" if failures else "passed",
        reason="; ".join(failures) or None,
        budget=budget,
        relative_error={name: float(error) for name, error in errors.items()},
        metric_difference=differences,
        worst_score_difference=worst,
        details=details,
    )


def not_run(artifact: Artifact) -> Parity:
    """Return the parity of an artifact that this machine cannot run, with the reason."""
    return Parity(
        "not run",
        reason=f"built, not run: needs a GPU of architecture {artifact.target}",
        budget=BUDGETS[artifact.precision],
    )


def reference_outputs(
    model: ClinReadNet, slices: Slices, advance: Advance = lambda n: None
) -> Outputs:
    """Run the network in float64.

    Each slice is computed by one thread, so that the number of processors changes neither the sums
    nor the bytes of a golden file.

    Args:
        model: any precision; left as it is.
        slices: what to run it on.
        advance: told of each slice.
    """
    import torch

    model = copy.deepcopy(model).double().eval()

    def run(index: int) -> list[NDArray[Any]]:
        hu = torch.from_numpy(slices.hu(index).astype(np.float64))
        with torch.inference_mode():
            return [output.numpy() for output in model(hu[None, None])]

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    parts: list[list[NDArray[Any]]] = []
    try:
        for part in pool.map(run, range(len(slices))):
            parts.append(part)
            advance(1)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
    by_output = zip(*parts, strict=True)
    return {name: np.concatenate(part) for name, part in zip(OUTPUTS, by_output, strict=True)}


def verify_artifact(
    bundle: Path,
    artifact: Artifact,
    slices: Slices,
    reference: Outputs,
    labels: NDArray[Any],
    advance: Advance = lambda n: None,
) -> Parity:
    """Check an artifact's file, run it where this machine can, and compare.

    Args:
        bundle: its folder.
        artifact: its entry in the manifest.
        slices: n slices.
        reference: float64 outputs on the same slices.
        labels: [n], the readers' scores.
        advance: told of the slices as they are computed.
    """
    try:
        content = read_listed(bundle, artifact)
        if artifact.kind != "onnx":
            return not_run(artifact)
        backend = OnnxRuntimeBackend(content, file=str(bundle / artifact.file))
        outputs = _run(backend, artifact, slices, advance)
    except (BackendError, InputError) as error:
        return Parity("failed", reason=str(error), budget=BUDGETS[artifact.precision])
    parity = compare(artifact.precision, outputs, reference, labels)
    if artifact.precision == "fp16":
        parity = replace(parity, details=parity.details | {"note": CPU_HALF_NOTE})
    return parity


def verify_golden(
    bundle: str | os.PathLike[str], manifest: Manifest, advance: Advance = lambda n: None
) -> Report:
    """Verify on the bundle's golden slices, without torch.

    Args:
        bundle: its folder.
        manifest: its manifest.
        advance: told of the slices of each graph.
    """
    folder = Path(bundle)
    try:
        golden = read_golden(folder, manifest.golden)
    except InputError as error:
        # Whether the artifacts are whole can still be said.
        artifacts = tuple(replace(a, parity=_only_hashed(folder, a)) for a in manifest.artifacts)
        return Report(folder, "golden", 0, artifacts, (str(error),))
    return _verify(
        folder, manifest, "golden", GoldenSlices(golden["hu"]), golden, golden["label"], advance
    )


def verify_folder(
    bundle: str | os.PathLike[str],
    manifest: Manifest,
    data: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    advance: Advance = lambda n: None,
) -> Report:
    """Verify on a labelled folder; the reference is computed from the checkpoint.

    Args:
        bundle: its folder.
        manifest: its manifest.
        data: an LDCTIQA folder.
        checkpoint: the one the bundle was made from; default the shipped one.
        advance: told of the slices of the reference and of each graph.

    Raises:
        InputError: the folder cannot be read or has fewer than two slices, torch is missing, or the
            checkpoint is not the one the bundle was made from.
    """
    from clinreadnet import weights
    from clinreadnet.data.ldctiqa import read_ldctiqa

    slices = read_ldctiqa(data)
    if len(slices) < 2:
        raise InputError(f"{data}: {len(slices)} labelled slices; metrics need two or more")
    preset = manifest.model.preset
    path = Path(checkpoint) if checkpoint is not None else weights.pretrained_path(preset)
    try:
        model = weights.load_checkpoint(path, preset=preset)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--data needs {error.name} to compute the reference; run "
            '`pip install "clinreadnet[export]"`, or leave --data out'
        ) from None
    if digest(path.read_bytes()) != manifest.model.weights_sha256:
        raise InputError(
            f"{path}: not the checkpoint this bundle was made from (SHA-256 differs); "
            "give that one with --checkpoint, or export again"
        )
    reference = reference_outputs(model, slices, advance)
    return _verify(Path(bundle), manifest, str(data), slices, reference, slices.scores, advance)


def passes(manifest: Manifest, *, golden: bool) -> int:
    """Return how often each slice is computed, for progress displays."""
    return sum(a.kind == "onnx" for a in manifest.artifacts) + (not golden)


def _verify(
    bundle: Path,
    manifest: Manifest,
    source: str,
    slices: Slices,
    reference: Outputs,
    labels: NDArray[Any],
    advance: Advance,
) -> Report:
    labels = labels.astype(np.float64)
    artifacts = tuple(
        replace(a, parity=verify_artifact(bundle, a, slices, reference, labels, advance))
        for a in manifest.artifacts
    )
    return Report(bundle, source, len(labels), artifacts)


def _run(
    backend: OnnxRuntimeBackend, artifact: Artifact, slices: Slices, advance: Advance
) -> Outputs:
    """Run all slices in batches of the profile's optimum; the last is filled up to its minimum."""
    parts: list[Outputs] = []
    for start in range(0, len(slices), artifact.batch.opt):
        indices = list(range(start, min(start + artifact.batch.opt, len(slices))))
        count = len(indices)
        indices += indices[-1:] * (artifact.batch.min - count)
        outputs = backend.run(np.stack([slices.hu(i) for i in indices])[:, None])
        parts.append({name: output[:count] for name, output in outputs.items()})
        advance(count)
    return {name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS}


def _only_hashed(bundle: Path, artifact: Artifact) -> Parity:
    try:
        read_listed(bundle, artifact)
    except InputError as error:
        return Parity("failed", reason=str(error), budget=BUDGETS[artifact.precision])
    return Parity(
        "not run",
        reason="there are no golden slices to run it on",
        budget=BUDGETS[artifact.precision],
    )


def _value(metrics: Correlations, name: str) -> float:
    return _upper(metrics)[name]["value"]


def _upper(metrics: Correlations) -> dict[str, Interval]:
    return {"PLCC": metrics["plcc"], "SROCC": metrics["srocc"], "KROCC": metrics["krocc"]}


def print_report(report: Report, console: Console) -> None:
    """Print the report as a table, then what failed or could not run."""
    table = Table(
        title=f"{report.bundle}: {report.slices} slices ({report.source})",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("artifact", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("error / budget", justify="right", no_wrap=True)
    for name in (*METRICS, "score"):
        table.add_column(f"Δ{name}", justify="right", no_wrap=True)
    colours = {"passed": "green", "failed": "red", "not run": "yellow"}
    notes = [(report.bundle.name, "failed", problem) for problem in report.problems]
    for artifact in report.artifacts:
        parity = artifact.parity or not_run(artifact)
        errors = [e for e in parity.relative_error.values() if e is not None]
        error = f"{max(errors):.1e} / " if errors else ""
        table.add_row(
            artifact.file.removeprefix("clinreadnet."),
            f"[{colours[parity.status]}]{parity.status}[/]",
            error + _number(parity.budget),
            *(_number(parity.metric_difference.get(name)) for name in METRICS),
            _number(parity.worst_score_difference),
        )
        for line in (parity.reason, parity.details.get("note")):
            if line:
                notes.append((artifact.file, parity.status, line))
    console.print(table)
    for file, status, reason in notes:
        console.print(
            f"[{colours[status]}]{status}[/] {escape(file)}: {escape(reason)}", soft_wrap=True
        )
    metrics = next(
        (
            a.parity.details["reference_metrics"]
            for a in report.artifacts
            if a.parity and "reference_metrics" in a.parity.details
        ),
        None,
    )
    if metrics is not None:
        shown = ", ".join(
            f"{name} {m['value']:.4f} [{m['low']:.4f}, {m['high']:.4f}]"
            for name, m in metrics.items()
        )
        console.print(
            f"reference: {escape(shown)} (95 % bootstrap)", highlight=False, soft_wrap=True
        )
    console.print(RESEARCH_USE)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"
