"""Score a labelled folder and measure the agreement with its labels."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from clinreadnet.console import Column, fitted_table, progress_bar
from clinreadnet.data.ldctiqa import DataSource, LdctiqaFolder, check_images, read_ldctiqa
from clinreadnet.data.tiles import read_tiles
from clinreadnet.errors import InputError, counted
from clinreadnet.evaluation.maps import MapAgreement, map_agreement, map_errors
from clinreadnet.grades import coverage
from clinreadnet.metrics import Correlations, correlations, krocc, plcc, srocc
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.model.network import ClinReadNet
from clinreadnet.model.predict import predict
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.spec import INTERVAL_MASS

METRICS = ("plcc", "srocc", "krocc", "sum")

EXPERTS = ("mixture", "image")
"""Names of the experts' scores in `predict`."""

WORST = 5
"""Number of worst slices to list."""


class Part(TypedDict):
    """Agreement with the labels on a subset of the slices."""

    slices: int
    srocc: float
    """SROCC of score and label; NaN if one of them is constant, or of a single slice."""
    ceiling_srocc: float
    """SROCC of noiseless quality and label; NaN as above."""
    rmse: float
    """Root mean square error in grades."""
    bias: float
    """Mean difference of score and label in grades."""


class Worst(TypedDict):
    """A slice with its score, its label and the error."""

    name: str
    label: float
    score: float


class Evaluation(Correlations):
    """Metrics of a checkpoint on a folder."""

    data: DataSource
    rmse: float
    slices: int
    parts: dict[str, Part]
    """Agreement on scans and on the copies of each denoiser; empty unless the folder is
    simulated."""
    worst: list[Worst]
    """The slices with the largest errors, worst first."""
    ceiling: Correlations | None
    """Metrics of a perfect predictor of the noiseless quality, if it is recorded."""
    map: MapAgreement | None
    """Agreement of the quality maps with the tile labels, if the folder has them."""
    coverage: float
    """Share of labels inside the 90 % interval of their slice."""
    in_domain: float
    """Share of slices that are in domain."""
    experts: dict[str, float]
    """Sum of correlations of the mixture of votes alone, and of the head's MLP alone."""
    checkpoint_sha256: str


def evaluate(
    data: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None
) -> Evaluation:
    """Score every slice of an LDCTIQA folder with the reference network (float32).

    Args:
        data: LDCTIQA folder.
        checkpoint: safetensors file; default the shipped ``small`` one.

    Returns:
        plcc, srocc, krocc and sum, each {value, low, high} (95 % bootstrap interval over slices),
        and the other fields of `Evaluation`.

    Raises:
        InputError: unreadable data or checkpoint, or fewer than two slices.
    """
    folder = open_labelled(data)
    path = checkpoint or pretrained_path()
    model = load_checkpoint(path)
    scored = score_folder(folder, model)
    predicted, true = scored["score"], folder.scores.astype(np.float64)
    return Evaluation(
        **correlations(predicted, true),
        data=folder.source,
        rmse=float(np.sqrt(np.mean((predicted - true) ** 2))),
        slices=len(true),
        parts=parts(folder, predicted),
        worst=[
            Worst(name=folder.names[i], label=round(float(true[i]), 4), score=float(predicted[i]))
            for i in np.argsort(-np.abs(predicted - true), kind="stable")[:WORST].tolist()
        ],
        ceiling=ceiling(folder),
        map=folder_map_agreement(folder, scored["quality_map"]),
        coverage=coverage(scored["probs"], true),
        in_domain=float(np.mean(scored["novelty"] <= float(model.novelty.threshold))),
        experts={
            name: sum(abs(measure(scored[name], true)) for measure in (plcc, srocc, krocc))
            for name in EXPERTS
        },
        checkpoint_sha256=digest(Path(path).read_bytes()),
    )


def ceiling(folder: LdctiqaFolder) -> Correlations | None:
    """Correlate the recorded noiseless quality with the labels.

    Returns:
        Metrics of a perfect predictor of the quality; None if it is not recorded.
    """
    quality = folder.quality
    return None if quality is None else correlations(quality, folder.scores)


def parts(folder: LdctiqaFolder, predicted: NDArray[np.float64]) -> dict[str, Part]:
    """Compare scores [n] with labels, separately for scans and the copies of each denoiser.

    Returns:
        A part for "scans" and for each denoiser; empty unless the folder is simulated.
    """
    records, quality = folder.records, folder.quality
    if records is None or quality is None:
        return {}
    kinds = np.array([record.get("denoiser") or "scans" for record in records])
    groups: dict[str, Part] = {}
    for kind in ("scans", *sorted(set(kinds.tolist()) - {"scans"})):
        own = kinds == kind
        if not own.any():
            continue
        scores, labels = predicted[own], folder.scores[own].astype(np.float64)
        several = len(scores) > 1
        groups[kind] = Part(
            slices=int(own.sum()),
            srocc=srocc(scores, labels) if several else np.nan,
            ceiling_srocc=srocc(quality[own], labels) if several else np.nan,
            rmse=float(np.sqrt(np.mean((scores - labels) ** 2))),
            bias=float(np.mean(scores - labels)),
        )
    return groups


def open_labelled(data: str | os.PathLike[str]) -> LdctiqaFolder:
    """Open a labelled folder with at least two slices, and check the headers of all images."""
    folder = read_ldctiqa(data)
    if len(folder) < 2:
        raise InputError(f"{data}: needs at least two slices to correlate")
    check_images(folder)
    return folder


def score_folder(folder: LdctiqaFolder, model: ClinReadNet) -> dict[str, NDArray[np.float64]]:
    """Return the network's outputs for each image, and the score [n] of each of ``EXPERTS``."""
    parts = []
    with progress_bar() as bar:
        for i in bar.track(range(len(folder)), description="score"):
            parts.append(predict(model, np.rint(folder.hu(i)).astype(np.int16)[None]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def folder_map_agreement(folder: LdctiqaFolder, maps: NDArray[np.float64]) -> MapAgreement | None:
    """Compare maps [n, 16, 16] with the tile labels of a folder; None without tile labels."""
    tiles = read_tiles(folder.folder, folder.names)
    if tiles is None or folder.quality is None:
        return None
    return map_agreement(maps, tiles.quality, tiles.weight, folder.quality)


def folder_map_errors(
    folder: LdctiqaFolder, maps: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the errors [n, 4] of `map_errors` for every slice of a folder.

    A slice with little body has NaN. None without tile labels.
    """
    tiles = read_tiles(folder.folder, folder.names)
    if tiles is None or folder.quality is None:
        return None
    errors = np.full((len(folder), 4), np.nan)
    for i in range(len(folder)):
        own = slice(i, i + 1)
        rows = map_errors(maps[own], tiles.quality[own], tiles.weight[own], folder.quality[own])
        errors[i : i + len(rows)] = rows
    return errors


def table(result: Evaluation, console: Console) -> Table:
    """Return the metrics as a table that fits the console."""
    best = result["ceiling"]
    rows: list[tuple[str, str, str, str]] = []  # metric, value, interval, ceiling
    for name in METRICS:
        interval = result[name]  # type: ignore[literal-required]
        rows.append(
            (
                "|PLCC| + |SROCC| + |KROCC|" if name == "sum" else name.upper(),
                f"{interval['value']:.4f}",
                f"{interval['low']:.4f} ... {interval['high']:.4f}",
                f"{best[name]['value']:.4f}" if best else "",  # type: ignore[literal-required]
            )
        )
    for kind, part in result["parts"].items():
        label, bias = f"SROCC, {kind} ({part['slices']})", f"bias {part['bias']:+.2f}"
        ranks = [part["srocc"], part["ceiling_srocc"]]
        own, highest = ["" if np.isnan(value) else f"{value:.4f}" for value in ranks]
        rows.append((label, own, bias, highest))
    if (agreement := result["map"]) is not None:
        for label, name in (("correlation, median", "correlation"), ("RMSE / flat", "rmse_ratio")):
            value = agreement[name]  # type: ignore[literal-required]
            span = f"{value['low']:.4f} ... {value['high']:.4f}"
            rows.append((f"map {label}", f"{value['value']:.4f}", span, ""))
    rows.append((f"{INTERVAL_MASS:.0%} intervals cover", f"{result['coverage']:.1%}", "", ""))
    rows.append(("in domain", f"{result['in_domain']:.1%}", "", ""))
    labels, values, intervals, ceilings = zip(*rows, strict=True)
    columns = [
        Column("value", values, justify="left"),
        Column("95 % interval", intervals, 2, "left"),
        *([Column("ceiling", ceilings, 1, "left")] if best else []),
    ]
    out = fitted_table(console, "metric", labels, columns, most=16)
    breadth = result["data"]["breadth"]
    kind = f" of {breadth} data" if breadth else ""
    out.title = f"{counted(result['slices'], 'slice')}{kind}, RMSE {result['rmse']:.3f} grades"
    worst = ", ".join(
        f"{scan['name']} {scan['score']:.1f} for {scan['label']:.1f}"
        for scan in result["worst"][:2]
    )
    left_out = f"{out.caption}\n" if out.caption else ""
    out.caption, out.caption_justify = f"{left_out}worst: {worst}", "left"
    return out
