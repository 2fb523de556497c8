"""Table of an ablation, from `ablation.json`."""

from __future__ import annotations

import math
from typing import Any, TypedDict

METRICS = ("plcc", "srocc", "krocc", "sum", "map_correlation")
COMPARED = ("sum", "map_correlation")
"""Metrics with a column for the difference from the full network."""


class Mean(TypedDict):
    """A mean over seeds and its 95 % interval, which is null with one seed."""

    mean: float
    low: float | None
    high: float | None


def scale_line(result: dict[str, Any]) -> str:
    """Return the scale of an ablation as a sentence."""
    scale, config = result["scale"], result["config"]
    least, most = scale["steps"]
    steps = f"{least}" if least == most else f"{least} to {most}"
    on = "test" if result["test"] else "held-out"
    data = f"{scale['training_slices']} slices of {scale['training_anatomies']} anatomies"
    work = f"{steps} steps in {scale['training_minutes']:.1f} minutes of training a run"
    return (
        f"Scale: preset `{config['preset']}`, crops of {config['crop']}, batches of "
        f"{config['batch_size']}, {data}, {work}; {scale['device']}, processes: "
        f"{scale['processes']}, threads: {scale['threads']}; measured on "
        f"{scale['measured_slices']} {on} slices; seeds: {result['seeds']}."
    )


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table, heading first."""
    names = ("PLCC", "SROCC", "KROCC", "sum", "map correlation")
    out = [["network", *names, "sum, difference from full", "map, difference from full"]]
    patients = bool(result.get("patients"))
    if patients:
        out[0] += ["order of patients' copies, SROCC", "denoised copies above their source"]
    for name, variant in result["variants"].items():
        cells = [_shown(variant[metric]) for metric in METRICS]
        cells += [
            "" if name == "full" else _shown(variant["differences"][metric]) for metric in COMPARED
        ]
        if patients:
            own = variant["patients"]
            above = ", ".join(str(count) for count in own["denoised_above_clean"])
            cells += [_shown(own["mean_srocc"]), f"{above} of {own['denoised']}"]
        out.append([name, *cells])
    return out


def _shown(value: Mean) -> str:
    if math.isnan(value["mean"]):
        return "none"
    if value["low"] is None or value["high"] is None:
        return f"{value['mean']:.4f}"
    return f"{value['mean']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


def markdown(result: dict[str, Any]) -> str:
    """Return the table, followed by the scale of the ablation."""
    head, *body = rows(result)
    lines = [head, ["---"] * len(head), *body]
    table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    intervals = "[] is the 95 % interval over seeds (Student's t)"
    if result.get("paired"):
        intervals += "; that of a difference is over seeds and slices (paired bootstrap)"
    return f"{table}\n{scale_line(result)} {intervals}.\n"
