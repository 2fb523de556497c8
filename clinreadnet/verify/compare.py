"""Compare an artifact's outputs with the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.metrics import Correlations, Interval, correlations, relative_error
from clinreadnet.precision import BUDGETS
from clinreadnet.runtime.bundle.manifest import Artifact, Parity
from clinreadnet.runtime.scores import Outputs
from clinreadnet.spec import OUTPUTS

METRICS = ("PLCC", "SROCC", "KROCC")

METRIC_BUDGETS = dict.fromkeys(BUDGETS, 1e-3) | {"int8": 5e-3, "fp8": 5e-3}
"""Largest accepted difference of each metric from the reference's, by precision."""


def compare(precision: str, outputs: Outputs, reference: Outputs, labels: NDArray[Any]) -> Parity:
    """Compare an artifact's outputs with the reference's on the same slices.

    Args:
        precision: selects the budgets.
        outputs: outputs of the artifact.
        reference: float64.
        labels: [n], the readers' scores.

    Returns:
        The parity; ``reason`` names each failed check.
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


def not_run(artifact: Artifact, reason: str | None = None) -> Parity:
    """Return the parity of an artifact that this machine cannot run, with the reason."""
    return Parity(
        "not run",
        reason=reason or f"built, not run: needs a GPU of architecture {artifact.target}",
        budget=BUDGETS[artifact.precision],
    )


def _value(metrics: Correlations, name: str) -> float:
    return _upper(metrics)[name]["value"]


def _upper(metrics: Correlations) -> dict[str, Interval]:
    return {"PLCC": metrics["plcc"], "SROCC": metrics["srocc"], "KROCC": metrics["krocc"]}
