"""Compare the outputs of an artifact with those of the reference."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.evaluation.maps import MapAgreement, map_agreement
from clinreadnet.metrics import Correlations, Interval, correlations
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, Parity
from clinreadnet.runtime.comparison import compare_outputs
from clinreadnet.runtime.scores import Outputs
from clinreadnet.verify.reference import SliceSource

METRICS = ("PLCC", "SROCC", "KROCC")

MAP_METRICS = ("correlation", "rmse_ratio")
"""Metrics of quality maps, as named in `MapAgreement`."""


@dataclass(frozen=True)
class LocalTruth:
    """Tile labels of n slices.

    Attributes:
        quality: [n], noiseless quality of the image.
        tile_quality: [n, 16, 16], quality of each tile.
        tile_weight: [n, 16, 16], share of body; 0 for a slice without tile labels.
    """

    quality: NDArray[np.floating]
    tile_quality: NDArray[np.floating]
    tile_weight: NDArray[np.floating]


@dataclass(frozen=True)
class TaskMetrics:
    """Agreement of outputs with labels and tile labels; None if there are none."""

    scores: Correlations | None
    maps: MapAgreement | None


@dataclass(frozen=True)
class Evidence:
    """Data for the comparison of artifacts.

    Attributes:
        slices: n slices.
        reference: float64 outputs of the reference.
        labels: [n], scores of the radiologists. Slices with NaN are excluded from the metrics.
        truth: tile labels, if known.
        threshold: novelty above which a slice is out of domain, or None.
    """

    slices: SliceSource
    reference: Outputs
    labels: NDArray[Any]
    truth: LocalTruth | None = None
    threshold: float | None = None

    @functools.cached_property
    def reference_metrics(self) -> TaskMetrics:
        """Metrics of the reference, shared by all artifacts."""
        return self.metrics(self.reference)

    def metrics(self, outputs: Outputs) -> TaskMetrics:
        """Return metrics of outputs, with bootstrap intervals."""
        labelled = np.isfinite(self.labels)
        score, maps, truth = np.asarray(outputs["score"]), outputs["quality_map"], self.truth
        scores = agreement = None
        if labelled.sum() > 1 and np.isfinite(score).all():
            scores = correlations(score[labelled], self.labels[labelled])
        if truth is not None and np.isfinite(maps).all():
            agreement = map_agreement(maps, truth.tile_quality, truth.tile_weight, truth.quality)
        return TaskMetrics(scores, agreement)


def compare(precision: str, outputs: Outputs, evidence: Evidence) -> Parity:
    """Compare the outputs of an artifact with those of the reference on the same slices.

    Args:
        precision: precision, which selects the budgets.
        outputs: outputs of the artifact.
        evidence: slices, reference outputs and labels.

    Returns:
        The record; ``reason`` lists the failed checks. A slice whose novelty is within the budget
        of the threshold can be in domain for only one of the two. Such slices are counted but are
        not a failure.
    """
    reference, labels = evidence.reference, evidence.labels
    row = PRECISIONS[precision]
    comparison = compare_outputs(outputs, reference, row.limits())
    failures = comparison.failures("budget")
    differences: dict[str, float | None] = {}
    details: dict[str, Any] = {
        "slices": len(labels),
        "labelled_slices": int(np.isfinite(labels).sum()),
        "metric_budget": row.metric_budget,
        "slice_error": dict(comparison.slice_errors),
    }
    for name, budget in (("tile", row.tile_budget), ("novelty", row.novelty_budget)):
        if getattr(comparison, f"worst_{name}_difference") is not None:
            details[f"{name}_budget"] = budget
    found_here, known = evidence.metrics(outputs), evidence.reference_metrics
    ours, theirs = found_here.scores, known.scores
    if not np.isfinite(outputs["score"]).all():
        failures.append("scores are not finite")
    elif ours is not None and theirs is not None:
        metrics, reference_metrics = _upper(ours), _upper(theirs)
        details |= {"metrics": metrics, "reference_metrics": reference_metrics}
        for name in METRICS:
            difference = abs(metrics[name]["value"] - reference_metrics[name]["value"])
            differences[name] = difference
            if np.isnan(difference):
                failures.append(f"{name} is undefined: all scores or all labels are equal")
            elif not difference <= row.metric_budget:
                failures.append(
                    f"{name} differs by {difference:.1e} (budget {row.metric_budget:.0e})"
                )
    map_differences: dict[str, float | None] = {}
    our_map, their_map = found_here.maps, known.maps
    if our_map is not None and their_map is not None:
        details |= {"map": our_map, "reference_map": their_map, "map_budgets": row.map_budgets}
        for name in MAP_METRICS:
            difference = abs(_of_map(our_map, name) - _of_map(their_map, name))
            map_differences[name] = difference
            if not difference <= row.map_budgets[name]:
                failures.append(
                    f"{name} of the maps differs by {difference:.1e} "
                    f"(budget {row.map_budgets[name]:.0e})"
                )
    return Parity(
        status="failed" if failures else "passed",
        reason="; ".join(failures) or None,
        budget=row.budget,
        relative_error=dict(comparison.errors),
        metric_difference=differences,
        map_difference=map_differences,
        worst_score_difference=comparison.worst_score_difference,
        worst_tile_difference=comparison.worst_tile_difference,
        worst_novelty_difference=comparison.worst_novelty_difference,
        in_domain_flips=_flips(outputs, reference, evidence.threshold),
        details=details,
    )


def _flips(outputs: Outputs, reference: Outputs, threshold: float | None) -> int | None:
    if threshold is None or "novelty" not in outputs:
        return None
    ours, theirs = (np.asarray(o["novelty"]) <= threshold for o in (outputs, reference))
    return int((ours != theirs).sum())


def _of_map(agreement: MapAgreement, name: str) -> float:
    interval: Interval = agreement[name]  # type: ignore[literal-required]
    return interval["value"]


def not_run(artifact: Artifact, reason: str | None = None) -> Parity:
    """Return the record of an artifact that this machine cannot run."""
    needs = (
        "the compiled CPU engine (`clinreadnet doctor` says what it takes)"
        if artifact.kind == "checkpoint"
        else f"a GPU of architecture {artifact.target}"
    )
    return Parity(
        NOT_RUN,
        reason=reason or f"needs {needs}",
        budget=PRECISIONS[artifact.precision].budget,
    )


def failed(artifact: Artifact, error: Exception) -> Parity:
    """Return the record of an artifact that failed to run."""
    return Parity("failed", reason=str(error), budget=PRECISIONS[artifact.precision].budget)


def _upper(metrics: Correlations) -> dict[str, Interval]:
    return {"PLCC": metrics["plcc"], "SROCC": metrics["srocc"], "KROCC": metrics["krocc"]}
