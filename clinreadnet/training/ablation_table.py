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
        source = "the clean slice" if result["patients"].get("clean") else "the scan of least noise"
        out[0] += [f"order of patients' copies, {which} SROCC" for which in ("lowest", "mean")]
        out[0] += [f"denoised copies above {source}, by seed"]
    for name, variant in result["variants"].items():
        cells = [_shown(variant[metric]) for metric in METRICS]
        apart = [variant["differences"][metric] for metric in COMPARED]
        cells += ["" if name == "full" or gap is None else _shown(gap) for gap in apart]
        if patients:
            own = variant["patients"]
            above = ", ".join(str(count) for count in own["denoised_above_clean"])
            cells += [f"{own['lowest_srocc']:.3f}"]
            cells += [_shown(own["mean_srocc"]), f"{above} of {own['denoised']}"]
        missing = result.get("unfinished", {}).get(name, 0)
        seeds = f", {result['seeds'] - missing} of {result['seeds']} seeds" if missing else ""
        out.append([f"{name}{seeds}", *cells])
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
    notes = [scale_line(result)]
    if any("[" in cell for cells in body for cell in cells):
        intervals = "[] is the 95 % interval over seeds (Student's t)"
        if result.get("paired"):
            intervals += "; that of a difference is over seeds and slices (paired bootstrap, or "
            intervals += "Student's t where that is wider)"
        notes.append(f"{intervals}.")
    if any(len(variant["steps"]) == 1 for variant in result["variants"].values()):
        notes.append("One seed has no interval.")
    if absent := [name for name in result.get("unfinished", {}) if name not in result["variants"]]:
        notes.append(f"Not finished: {', '.join(absent)}.")
    return f"{table}\n{' '.join(notes)}\n"
