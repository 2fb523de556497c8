"""Score a labelled folder and report agreement with its labels, or with the degradation itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from clinreadnet.data.ldctiqa import (
    LdctiqaFolder,
    check_images,
    read_ldctiqa,
    read_simulation,
    recorded_quality,
)
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.errors import InputError
from clinreadnet.metrics import Correlations, correlations, srocc
from clinreadnet.model import ClinReadNet
from clinreadnet.progress import progress_bar
from clinreadnet.runtime.manifest import digest
from clinreadnet.train import predict
from clinreadnet.weights import load_checkpoint, pretrained_path

METRICS = ("plcc", "srocc", "krocc", "sum")

WORST = 5
"""Slices that are named as the worst."""


class Part(TypedDict):
    """Agreement with the labels on a part of the slices."""

    slices: int
    srocc: float
    """Of score and label; not a number where one of them is constant."""
    ceiling_srocc: float
    """Of noiseless quality and label."""
    rmse: float
    """Root mean square error in grades."""
    bias: float
    """Mean of score less label in grades."""


class Worst(TypedDict):
    """A slice and by how much its score is off."""

    name: str
    label: float
    score: float


class Evaluation(Correlations):
    """The metrics, and what they were measured on."""

    rmse: float
    slices: int
    parts: dict[str, Part]
    """Of a simulated folder: the scans, and the copies of each denoiser; else empty."""
    worst: list[Worst]
    """The slices with the largest errors, worst first."""
    ceiling: Correlations | None
    """What a perfect model of the noiseless quality would score, where that is recorded."""
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
        the root mean square error in grades, the number of slices, the parts of a simulated
        folder, the worst slices, the ceiling, and the checkpoint's hash.

    Raises:
        InputError: unreadable data or checkpoint, or fewer than two slices.
    """
    folder = _open(data)
    path = checkpoint or pretrained_path()
    predicted = _score(folder, load_checkpoint(path))
    true = folder.scores.astype(np.float64)
    return Evaluation(
        **correlations(predicted, true),
        rmse=float(np.sqrt(np.mean((predicted - true) ** 2))),
        slices=len(true),
        parts=parts(folder, predicted),
        worst=[
            Worst(name=folder.names[i], label=round(float(true[i]), 4), score=float(predicted[i]))
            for i in np.argsort(-np.abs(predicted - true), kind="stable")[:WORST].tolist()
        ],
        ceiling=ceiling(folder),
        checkpoint_sha256=digest(Path(path).read_bytes()),
    )


def ceiling(folder: LdctiqaFolder) -> Correlations | None:
    """Correlate the recorded noiseless quality with the labels, which are noisy.

    Returns:
        What a perfect model of the quality would score; None where it is not recorded.
    """
    quality = recorded_quality(read_simulation(folder))
    return None if quality is None else correlations(quality, folder.scores)


def parts(folder: LdctiqaFolder, predicted: NDArray[np.float64]) -> dict[str, Part]:
    """Compare scores [n] with labels, scans and the copies of each denoiser apart.

    Returns:
        "scans" and the denoisers' names; empty where the folder is not a simulated one.
    """
    records = read_simulation(folder)
    quality = recorded_quality(records)
    if records is None or quality is None:
        return {}
    kinds = np.array([record.get("denoiser") or "scans" for record in records])
    found: dict[str, Part] = {}
    for kind in ("scans", *sorted(set(kinds.tolist()) - {"scans"})):
        own = kinds == kind
        if not own.any():
            continue
        scores, labels = predicted[own], folder.scores[own].astype(np.float64)
        found[kind] = Part(
            slices=int(own.sum()),
            srocc=srocc(scores, labels),
            ceiling_srocc=srocc(quality[own], labels),
            rmse=float(np.sqrt(np.mean((scores - labels) ** 2))),
            bias=float(np.mean(scores - labels)),
        )
    return found


def _open(data: str | os.PathLike[str]) -> LdctiqaFolder:
    folder = read_ldctiqa(data)
    if len(folder) < 2:
        raise InputError(f"{data}: needs at least two slices to correlate")
    check_images(folder)
    return folder


def _score(folder: LdctiqaFolder, model: ClinReadNet) -> NDArray[np.float64]:
    """Return the predicted scores [n]."""
    predicted = []
    with progress_bar() as bar:
        for i in bar.track(range(len(folder)), description="score"):
            predicted.append(predict(model, np.rint(folder.hu(i)).astype(np.int16)[None])[0])
    return np.array(predicted)


def table(result: Evaluation) -> Table:
    """Lay the metrics out for a terminal."""
    best = result["ceiling"]
    out = Table(title=f"{result['slices']} slices, RMSE {result['rmse']:.3f} grades")
    for heading in ("metric", "value", "95 % interval", *(["ceiling"] if best else [])):
        out.add_column(heading)
    for name in METRICS:
        interval = result[name]  # type: ignore[literal-required]
        label = "|PLCC| + |SROCC| + |KROCC|" if name == "sum" else name.upper()
        out.add_row(
            label,
            f"{interval['value']:.4f}",
            f"{interval['low']:.4f} ... {interval['high']:.4f}",
            *([f"{best[name]['value']:.4f}"] if best else []),  # type: ignore[literal-required]
        )
    for kind, part in result["parts"].items():
        out.add_row(
            f"SROCC, {kind} ({part['slices']})",
            f"{part['srocc']:.4f}",
            f"bias {part['bias']:+.2f}",
            f"{part['ceiling_srocc']:.4f}",
        )
    worst = ", ".join(
        f"{one['name']} {one['score']:.1f} for {one['label']:.1f}" for one in result["worst"][:2]
    )
    out.caption = f"worst: {worst}"
    return out


class DegradationOrder(TypedDict):
    """How scores follow the degradation of known slices."""

    anatomies: dict[str, float]
    """SROCC of score and true quality over the scans of each anatomy, denoised copies left out."""
    lowest_srocc: float
    mean_by_noise_level: dict[str, float]
    """Mean score by noise level, least noise first."""
    mean_by_views: dict[str, float]
    """Mean score by number of views, most first."""
    noise_monotone: bool
    views_monotone: bool
    denoised: int
    """Number of denoised copies."""
    denoised_above_clean: list[str]
    """Those that score above the clean slice of their anatomy: there should be none."""


def degradation_order(
    names: Sequence[str],
    scores: ArrayLike,
    records: Sequence[Mapping[str, Any]],
    clean: Mapping[int, float] | None = None,
) -> DegradationOrder:
    """Compare scores with what was done to each image, whatever its label says.

    Args:
        names: [n] images.
        scores: [n] predicted scores.
        records: [n] what `simulation.json` says of each: `anatomy`, `quality`, `noise_level`,
            `views`, and `denoiser` of a denoised copy.
        clean: score of each anatomy's slice before it was degraded; where one is not given, the
            scan of least noise and most views stands for it.

    Returns:
        Rank correlation by anatomy, mean scores by noise level and views, denoised copies that
        score above the clean slice.
    """
    scores = np.asarray(scores, np.float64)
    anatomy, level, views, quality = (
        np.array([record[key] for record in records])
        for key in ("anatomy", "noise_level", "views", "quality")
    )
    denoised = np.array([record.get("denoiser") is not None for record in records])
    scans = ~denoised

    def means(values: NDArray[Any], order: Sequence[Any]) -> dict[str, float]:
        return {str(v): float(scores[scans & (values == v)].mean()) for v in order}

    by_noise = means(level, sorted(set(level[scans].tolist())))
    by_views = means(views, sorted(set(views[scans].tolist()), reverse=True))
    order: dict[str, float] = {}
    above: list[str] = []
    for number in np.unique(anatomy).tolist():
        own = anatomy == number
        first = records[int(np.flatnonzero(own)[0])]
        label = str(first.get("slice", number))
        order[f"{number}: {label}" if label in order else label] = srocc(
            scores[own & scans], quality[own & scans]
        )
        if clean is not None and number in clean:
            limit = clean[number]
        else:
            least = max(np.flatnonzero(own & scans), key=lambda i: (-level[i], views[i]))
            limit = float(scores[least])
        above += [names[i] for i in np.flatnonzero(own & denoised).tolist() if scores[i] > limit]
    return DegradationOrder(
        anatomies=order,
        lowest_srocc=float(np.min(list(order.values()))),
        mean_by_noise_level=by_noise,
        mean_by_views=by_views,
        noise_monotone=_falls(by_noise),
        views_monotone=_falls(by_views),
        denoised=int(denoised.sum()),
        denoised_above_clean=above,
    )


def _falls(means: Mapping[str, float]) -> bool:
    return bool((np.diff(list(means.values())) < 0).all())


def evaluate_order(
    data: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    clean: Sequence[str | os.PathLike[str]] = (),
) -> DegradationOrder:
    """Score a folder of `clinreadnet simulate` and compare with the degradation of each image.

    Args:
        data: LDCTIQA folder with `simulation.json`.
        checkpoint: safetensors file; default the shipped ``small`` one.
        clean: files or folders of the slices that were degraded (`simulate --anatomy`), found
            again by the name that is recorded.

    Raises:
        InputError: unreadable data, slices or checkpoint, no record of the degradations, or a
            recorded slice that is not among ``clean``.
    """
    folder = _open(data)
    records = read_simulation(folder)
    keys = {"anatomy", "noise_level", "views", "quality"}
    if records is None or not all(keys <= record.keys() for record in records):
        raise InputError(
            f"{data}: no simulation.json that says how each image was degraded; make the folder "
            "with `clinreadnet simulate`"
        )
    originals = _originals(records, clean)
    model = load_checkpoint(checkpoint or pretrained_path())
    limits = {
        anatomy: float(predict(model, np.rint(ref.load()).astype(np.int16)[None])[0])
        for anatomy, ref in originals.items()
    }
    return degradation_order(folder.names, _score(folder, model), records, limits)


def _originals(
    records: Sequence[Mapping[str, Any]], clean: Sequence[str | os.PathLike[str]]
) -> dict[int, SliceRef]:
    """Find the slice that each anatomy was made from; empty where none are named."""
    if not clean:
        return {}
    found = {Path(ref.name).name: ref for ref in find_slices(clean)}
    originals: dict[int, SliceRef] = {}
    for record in records:
        source = record.get("slice", "a phantom")
        if source not in found:
            raise InputError(
                f"anatomy {record['anatomy']} was made from {source}, which --clean does not name"
            )
        originals[record["anatomy"]] = found[source]
    return originals


def order_table(result: DegradationOrder) -> Table:
    """Lay the comparison with the degradation out for a terminal."""
    copies, above = result["denoised"], result["denoised_above_clean"]
    out = Table(title=f"degradation order, {len(result['anatomies'])} anatomies")
    out.add_column("check")
    out.add_column("result")
    worst = min(result["anatomies"], key=lambda name: result["anatomies"][name])
    out.add_row("lowest SROCC of an anatomy", f"{result['lowest_srocc']:.3f} ({worst})")
    for what, means, falls in (
        ("noise level", result["mean_by_noise_level"], result["noise_monotone"]),
        ("views", result["mean_by_views"], result["views_monotone"]),
    ):
        shown = ", ".join(f"{key}: {mean:.2f}" for key, mean in means.items())
        out.add_row(f"mean score by {what}", f"{shown}; {'falls' if falls else 'does not fall'}")
    shown = f"{len(above)} of {copies}" + (f", first {above[0]}" if above else "")
    out.add_row("denoised copies above the clean slice", shown)
    return out
