"""Tables of the model card, clinreadnet/weights/small.md."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.recording import RESULTS, ROOT
from bench.tables.recorded import markdown, read_json
from clinreadnet.training.recipe import load_recipe

WEIGHTS = ROOT / "clinreadnet" / "weights"
REAL_SLICES = RESULTS / "regions" / "real-slices.json"
SCANNED = WEIGHTS / "small.scanned.json"
TRAINING_RUNS = ROOT / "docs" / "training"
ORDERS = {
    "patients of TCGA": WEIGHTS / "small.order.tcga.json",
    "abdomen": WEIGHTS / "small.order.abdomen.json",
    "chest": WEIGHTS / "small.order.chest.json",
}


def span(interval: Mapping[str, float]) -> str:
    """Return a value with its 95 % interval as text."""
    return "{value:.3f} ({low:.3f} … {high:.3f})".format(**interval)


def training_runs_table() -> str:
    """Return size, time and speed of each training stage of the shipped checkpoint."""
    rows = []
    for path in sorted(TRAINING_RUNS.glob("small-*.json"), key=_stage):
        run = read_json(path)
        config, kept = run["config"], run["kept"]
        rows.append(
            [
                _stage(path)[1],
                f"{run['training_slices']} of {run['training_anatomies']}",
                f"{run['validation_slices']} of {run['validation_anatomies']}",
                f"{run['steps']} of {config['batch_size']}",
                f"{run['training_minutes']:.0f}",
                f"{run['slices_per_second']:.1f}",
                f"{100 * run['waiting_share']:.0f} %",
                f"{kept['sum']:.3f}",
                f"{kept['map_correlation']:.3f}",
                f"{run['device']}, processes: {run['processes']}, threads: {run['threads']}",
            ]
        )
    head = ["stage", "slices of anatomies", "validated on", "steps", "minutes", "slices/s"]
    return markdown(
        [*head, "waiting for data", "validation sum", "validation map", "hardware"], rows
    )


def _stage(path: Path) -> tuple[int, str]:
    """Return index and name of a summary's stage."""
    name = path.stem.removeprefix("small-")
    return [stage.name for stage in load_recipe("small")].index(name), name


def hours_table() -> str:
    """Return validation metrics by training time, over the stages on crops."""
    rows, before = [], 0.0
    for stage in load_recipe("small"):
        if stage.config.task != "network":
            continue
        with (TRAINING_RUNS / f"small-{stage.name}.csv").open(encoding="utf-8", newline="") as file:
            epochs = list(csv.DictReader(file))
        for row in epochs:
            rows.append(
                [
                    stage.name,
                    f"{before + float(row['minutes']):.0f}",
                    row["step"],
                    f"{float(row['sum']):.3f}",
                    f"{float(row['map_correlation']):.3f}",
                    f"{float(row['map_rmse_ratio']):.2f}",
                ]
            )
        before += float(epochs[-1]["minutes"])
    head = ["stage", "minutes", "steps", "sum", "map correlation", "map RMSE / flat"]
    return markdown(head, rows)


def evaluations() -> dict[str, dict[str, Any]]:
    """Return the recorded evaluations of the shipped checkpoint, by test set."""
    paths = sorted(WEIGHTS.glob("small.evaluation.*.json"))
    return {path.name.split(".")[2]: read_json(path) for path in paths}


def evaluation_table() -> str:
    """Return the agreement of the shipped checkpoint with the labels."""
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


def local_table() -> str:
    """Return the results of maps, intervals, marks and the head's two experts."""
    rows = []
    for folder, result in evaluations().items():
        errors, joint = result["map"], result["sum"]["value"]
        intervals = errors["correlation"], errors["rmse_ratio"]
        rows.append(
            [
                folder,
                *map(span, intervals),
                f"{100 * result['coverage']:.1f} %",
                f"{100 * (1 - result['in_domain']):.1f} %",
                *(f"{joint - value:+.4f}" for value in result["experts"].values()),
            ]
        )
    head = ["test set", "map: correlation within a slice, median", "map: RMSE / flat map"]
    marks = ["90 % intervals cover", "marked as novel"]
    experts = ["sum, less that of the votes alone", "less that of the MLP alone"]
    return markdown([*head, *marks, *experts], rows)


def without_stages_table() -> str:
    """Return the metrics with the stages' output replaced by zeros."""
    measured, whole = read_json(WEIGHTS / "small.without-stages.json"), evaluations()["test-1"]
    rows = [
        ["as it is", f"{whole['sum']['value']:.3f}", f"{whole['map']['correlation']['value']:.3f}"],
        ["stages give zeros", f"{measured['sum']:.3f}", f"{measured['map_correlation']:.3f}"],
    ]
    return markdown(["test-1", "sum", "map correlation"], rows)


def opponents_table() -> str:
    """Return the agreement of the score and of measures without labels, with the labels."""
    names = {
        "network": "the score",
        "noise": "global noise level",
        "snr": "signal over noise",
        "brisque": "BRISQUE",
        "likelihood": "likelihood under a denoiser",
    }
    rows = []
    for path in sorted(WEIGHTS.glob("small.opponents.*.json")):
        result = read_json(path)
        what = f"{path.name.split('.')[2]}, {result['slices']} slices"
        for key, measure in result["measures"].items():
            cells = [span(measure[metric]) for metric in ("plcc", "srocc", "krocc", "sum")]
            rows.append([what, names[key], *cells])
    return markdown(["test set", "measure", "PLCC", "SROCC", "KROCC", "sum"], rows)


def likelihood_table() -> str:
    """Return how the denoiser of the likelihood was trained, and what its validation chose."""
    record = read_json(WEIGHTS / "small.likelihood.json")
    choice, levels = record["choice"], record["levels_hu"]
    first, last = (levels[index] for index in choice["levels"])
    trained, validated = (
        f"{record[f'{part}_anatomies']} anatomies" for part in ("training", "validation")
    )
    facts = {
        "parameters": f"{record['parameters']}",
        "trained on": f"{record['training_slices']} clean slices of {trained}",
        "steps": f"{record['steps']} in {record['training_minutes']:g} minutes of a shared core",
        "hardware": f"{record['cpu']}, threads: {record['torch_threads']}",
        "validated on": f"{record['validation_slices']} slices of {validated}",
        "chosen noise": f"{first:g} HU" if first == last else f"{first:g} to {last:g} HU",
        "chosen pixels": choice["area"],
        "chosen as best": "most likely" if choice["typical"] is None else "most typical",
        "validation sum": f"{record['validation_sum']:.3f}",
        "SHA-256 of the denoiser": record["sha256"],
    }
    return markdown(["likelihood under a denoiser", ""], list(facts.items()))


def scanned_table() -> str:
    """Return the agreement of scores of routine-dose slices with their noise."""
    document = read_json(SCANNED)
    quiet = f"{len(document['quiet_below_3'])} of {document['quiet']}"
    measured = {
        "slices": f"{document['slices']}",
        "marked as novel": f"{document['slices'] - document['in_domain']}",
        "SROCC of score and own noise": f"{document['srocc_score_own_noise']:.3f}",
        "slices of 16 HU or less below 3.0": quiet,
        "error in wide fields, grades": _grades(document["wide_error"]),
        "the same where stages give zeros": _grades(document["wide_error_without_stages"]),
    }
    head = ["slices of patients that training did not see", ""]
    return markdown(head, list(measured.items()))


def _grades(value: float | None) -> str:
    return "no such slice" if value is None else f"{value:.2f}"


def scanned_slices_table() -> str:
    """Return score, interval and novelty of each routine-dose slice."""
    rows = [
        [
            row["slice"],
            f"{row['pixel_mm']:.2f}",
            f"{100 * row['body_share']:.0f} %",
            f"{row['own_noise_hu']:.1f}",
            f"{row['score']:.2f}",
            "{:.1f} … {:.1f}".format(*row["interval"]),
            f"{row['novelty']:.2f}",
            "" if row["in_domain"] else "novel",
        ]
        for row in sorted(read_json(SCANNED)["rows"], key=lambda row: float(row["own_noise_hu"]))
    ]
    head = ["slice", "pixel, mm", "body in the frame", "own noise, HU", "score", "90 %"]
    return markdown([*head, "novelty", ""], rows)


def real_slices_table() -> str:
    """Return the number of marked slices of each real set."""
    record = read_json(REAL_SLICES)
    rows = [
        [
            row["name"],
            row["kind"],
            row["source"],
            "in sight" if row["used"] else "not used",
            f"{row['marked']} of {row['slices']}",
            f"{row['edge']}",
            f"{row['outside_without_size']}",
        ]
        for row in record["sets"]
    ]
    worse = record["degraded"]
    many = [f"{worse[name]} of {worse['slices']}" for name in ("outside", "outside_without_size")]
    what = "the abdomens and domes, degraded"
    rows.append([what, "abdomen", "`simulator.scan`", "in sight", many[0], "", many[1]])
    head = ["real slices", "kind", "source", "limits drawn with them", "marked", "edge"]
    return markdown([*head, "outside without the size of a pixel"], rows)


def parts_table() -> str:
    """Return the agreement with the labels, separately for scans and denoised copies."""
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
    """Return the slices with the largest errors."""
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
    """Return the agreement of scores with the degradations of scanned slices."""

    def means(values: dict[str, float]) -> str:
        return " ".join(f"{mean:.2f}" for mean in values.values())

    rows = []
    for name, order in orders().items():
        above = len(order["denoised_above_clean"])
        rows.append(
            [
                f"{name}, {len(order['anatomies'])}",
                f"{order['lowest_srocc']:.3f}",
                means(order["mean_by_noise_level"]),
                means(order["mean_by_views"]),
                f"{above} of {order['denoised']}",
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
    """Return the SROCC of score and degradation of each scanned slice."""
    rows = [
        [name, slice_name, f"{value:.3f}"]
        for name, order in orders().items()
        for slice_name, value in order["anatomies"].items()
    ]
    return markdown(["", "slice", "SROCC over its twelve scans"], rows)


TABLES = {
    "evaluation": evaluation_table,
    "evaluation-parts": parts_table,
    "evaluation-worst": worst_table,
    "hours": hours_table,
    "likelihood": likelihood_table,
    "local": local_table,
    "opponents": opponents_table,
    "order": order_table,
    "real-slices": real_slices_table,
    "order-slices": order_slices_table,
    "scanned": scanned_table,
    "scanned-slices": scanned_slices_table,
    "training-runs": training_runs_table,
    "without-stages": without_stages_table,
}
