"""Tables of the shipped checkpoint's card, clinreadnet/weights/small.md."""

from __future__ import annotations

from typing import Any

from bench.recording import ROOT
from bench.tables.recorded import markdown, read_json

WEIGHTS = ROOT / "clinreadnet" / "weights"
TRAINING_RUNS = ROOT / "docs" / "training"
ORDERS = {
    "abdomen": WEIGHTS / "small.order.abdomen.json",
    "chest": WEIGHTS / "small.order.chest.json",
}


def training_runs_table() -> str:
    """How the shipped checkpoint was trained: size, time and speed of each run."""
    rows = []
    for path in sorted(TRAINING_RUNS.glob("small-*.json")):
        run = read_json(path)
        config = run["config"]
        flags = [
            flag
            for flag in ("--soqn", "--soqn-only", "--statistics-only")
            if config.get(flag[2:].replace("-", "_"))
        ]
        if "--statistics-only" not in flags:
            flags.append(f"--crop {config['crop']}")
        rows.append(
            [
                f"`{' '.join(flags)}`",
                f"{run['training_slices']} of {run['training_anatomies']}",
                f"{run['validation_slices']} of {run['validation_anatomies']}",
                f"{run['steps']}",
                f"{run['training_minutes']:.0f}",
                f"{run['slices_per_second']:.1f}",
                f"{100 * run['waiting_share']:.0f} %",
                f"{run['kept']['score']:.3f}",
                f"{run['device']}, processes: {run['processes']}, threads: {run['threads']}",
            ]
        )
    head = ["run", "slices of anatomies", "validated on", "steps", "minutes", "slices/s"]
    return markdown([*head, "waiting for data", "validation sum", "hardware"], rows)


def evaluations() -> dict[str, dict[str, Any]]:
    """Return the recorded evaluations of the shipped checkpoint, by test set."""
    paths = sorted(WEIGHTS.glob("small.evaluation.*.json"))
    return {path.name.split(".")[2]: read_json(path) for path in paths}


def evaluation_table() -> str:
    """Agreement of the shipped checkpoint with the labels of the recorded evaluations."""
    names = {"plcc": "PLCC", "srocc": "SROCC", "krocc": "KROCC", "sum": "sum of absolute values"}
    rows = []
    for folder, result in evaluations().items():
        for key, label in names.items():
            v, best = result[key], result["ceiling"][key]["value"]
            interval = f"{v['low']:.4f} … {v['high']:.4f}"
            what = f"{folder}, {result['slices']} slices"
            below = f"{best - v['value']:.4f}"
            rows.append([what, label, f"{v['value']:.4f}", interval, f"{best:.4f}", below])
    head = ["test set", "metric", "value", "95 % interval (bootstrap over slices)"]
    return markdown([*head, "ceiling", "below it"], rows)


def parts_table() -> str:
    """Agreement of the shipped checkpoint with the labels, scans and denoised copies apart."""
    rows = [
        [
            folder,
            name,
            f"{part['slices']}",
            f"{part['srocc']:.3f}",
            f"{part['ceiling_srocc']:.3f}",
            f"{part['rmse']:.2f}",
            f"{part['bias']:+.2f}",
        ]
        for folder, result in evaluations().items()
        for name, part in result["parts"].items()
    ]
    return markdown(
        ["test set", "", "slices", "SROCC", "ceiling", "RMSE, grades", "bias, grades"], rows
    )


def worst_table() -> str:
    """Return the slices that the shipped checkpoint scores worst."""
    rows = [
        [folder, w["name"], f"{w['label']:.1f}", f"{w['score']:.2f}"]
        for folder, result in evaluations().items()
        for w in result["worst"]
    ]
    return markdown(["test set", "slice", "label", "score"], rows)


def orders() -> dict[str, dict[str, Any]]:
    """Return the recorded comparisons with the degradation of scanned slices."""
    return {name: read_json(path) for name, path in ORDERS.items()}


def order_table() -> str:
    """Whether scores follow what was done to scanned slices."""

    def means(values: dict[str, float]) -> str:
        return " ".join(f"{mean:.2f}" for mean in values.values())

    rows = []
    for name, found in orders().items():
        above = len(found["denoised_above_clean"])
        rows.append(
            [
                f"{name}, {len(found['anatomies'])}",
                f"{found['lowest_srocc']:.3f}",
                means(found["mean_by_noise_level"]),
                means(found["mean_by_views"]),
                f"{above} of {found['denoised']}",
            ]
        )
    head = [
        "slices",
        "lowest SROCC",
        "mean score, least noise first",
        "mean score, most views first",
    ]
    return markdown([*head, "copies above the clean slice"], rows)


def order_slices_table() -> str:
    """SROCC of score and degradation order of each scanned slice."""
    rows = [
        [name, slice_name, f"{value:.3f}"]
        for name, found in orders().items()
        for slice_name, value in found["anatomies"].items()
    ]
    return markdown(["", "slice", "SROCC over its twelve scans"], rows)


TABLES = {
    "evaluation": evaluation_table,
    "evaluation-parts": parts_table,
    "evaluation-worst": worst_table,
    "order": order_table,
    "order-slices": order_slices_table,
    "training-runs": training_runs_table,
}
