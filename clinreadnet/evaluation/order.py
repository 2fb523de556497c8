"""Measure whether scores follow the known degradation of each image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from clinreadnet.data.ldctiqa import LdctiqaFolder
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.errors import InputError
from clinreadnet.evaluation.labels import open_labelled, score_folder
from clinreadnet.metrics import srocc
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.model.predict import predict


class DegradationOrder(TypedDict):
    """Agreement of scores with known degradations."""

    anatomies: dict[str, float]
    """SROCC of score and noiseless quality over the scans of each anatomy, without denoised
    copies."""
    lowest_srocc: float
    mean_by_noise_level: dict[str, float]
    """Mean score by noise level, lowest noise first."""
    mean_by_views: dict[str, float]
    """Mean score of the scans with the most views of their anatomy, and so on to the fewest. If the
    numbers of views differ between anatomies, as in wide data, a key lists them: ``360 or 180``."""
    noise_monotone: bool
    views_monotone: bool
    denoised: int
    """Number of denoised copies."""
    denoised_above_clean: list[str]
    """Denoised copies that score above the clean slice of their anatomy; should be empty."""


def degradation_order(
    names: Sequence[str],
    scores: ArrayLike,
    records: Sequence[Mapping[str, Any]],
    clean: Mapping[int, float] | None = None,
) -> DegradationOrder:
    """Compare scores with the known degradation of each image.

    Args:
        names: [n] names of the images.
        scores: [n] predicted scores.
        records: [n] records of `simulation.json`: `anatomy`, `quality`, `noise_level`,
            `views`, and `denoiser` for a denoised copy.
        clean: score of each anatomy's slice before degradation; default the scan with the lowest
            noise and most views.

    Returns:
        Rank correlation by anatomy, mean scores by noise level and views, denoised copies that
        score above the clean slice. The mean scores by views compare the scans of an anatomy with
        each other, because numbers of views can differ between anatomies.
    """
    scores = np.asarray(scores, np.float64)
    anatomy, level, views, quality = (
        np.array([record[key] for record in records])
        for key in ("anatomy", "noise_level", "views", "quality")
    )
    denoised = np.array([record.get("denoiser") is not None for record in records])
    scans = ~denoised

    fewer = np.zeros(len(records), np.int64)  # 0 for the most views of the anatomy
    order: dict[str, float] = {}
    above: list[str] = []
    for number in np.unique(anatomy).tolist():
        own = anatomy == number
        fewer[own & scans] = np.unique(-views[own & scans], return_inverse=True)[1]
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

    def means(values: NDArray[Any], shown: NDArray[Any]) -> dict[str, float]:
        out = {}
        for value in np.unique(values[scans]):
            chosen = scans & (values == value)
            key = " or ".join(map(str, np.unique(shown[chosen])[::-1]))
            out[key] = float(scores[chosen].mean())
        return out

    by_noise, by_views = means(level, level), means(fewer, views)
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
    """Score a folder of `clinreadnet simulate` and compare the scores with the degradations.

    Args:
        data: LDCTIQA folder with `simulation.json`.
        checkpoint: safetensors file; default the shipped ``small`` one.
        clean: files or folders of the slices that were degraded (`simulate --anatomy`). Slices are
            identified by their recorded name.

    Raises:
        InputError: data, slices or checkpoint cannot be read, degradations are not recorded, or a
            recorded slice is not in ``clean``.
    """
    folder = open_labelled(data)
    originals = find_originals(folder, clean)
    model = load_checkpoint(checkpoint or pretrained_path())
    limits = {
        anatomy: float(predict(model, np.rint(ref.load()).astype(np.int16)[None])["score"][0])
        for anatomy, ref in originals.items()
    }
    scores = score_folder(folder, model)["score"]
    return degradation_order(folder.names, scores, folder.records or [], limits)


def find_originals(
    folder: LdctiqaFolder, clean: Sequence[str | os.PathLike[str]]
) -> dict[int, SliceRef]:
    """Return the source slice of each anatomy of a folder; empty without ``clean``.

    Raises:
        InputError: degradations are not recorded, or a recorded slice is not in ``clean``.
    """
    records = folder.records
    keys = {"anatomy", "noise_level", "views", "quality"}
    if records is None or not all(keys <= record.keys() for record in records):
        raise InputError(
            f"{folder.folder}: no simulation.json that says how each image was degraded; make the "
            "folder with `clinreadnet simulate`"
        )
    if not clean:
        return {}
    refs = {Path(ref.name).name: ref for ref in find_slices(clean)}
    originals: dict[int, SliceRef] = {}
    for record in records:
        if record.get("variant", 0):  # another view of the slice, which is not in a file
            continue
        source = record.get("slice")
        if source is None:
            raise InputError(
                f"{folder.folder}: made of phantoms, which are in no file; give a folder that was "
                "made of the slices of `clean`"
            )
        if source not in refs:
            raise InputError(
                f"{folder.folder}: anatomy {record['anatomy']} was made from {source}, which "
                "`clean` does not name"
            )
        originals[record["anatomy"]] = refs[source]
    return originals


def order_table(result: DegradationOrder) -> Table:
    """Return the comparison as a table."""
    copies, above = result["denoised"], result["denoised_above_clean"]
    count = len(result["anatomies"])
    out = Table(title=f"degradation order, {count} {'anatomy' if count == 1 else 'anatomies'}")
    out.add_column("check")
    out.add_column("result", overflow="fold")
    worst = min(result["anatomies"], key=lambda name: result["anatomies"][name])
    out.add_row("lowest SROCC of an anatomy", f"{result['lowest_srocc']:.3f}, anatomy {worst}")
    for what, means, falls in (
        ("noise level", result["mean_by_noise_level"], result["noise_monotone"]),
        ("views", result["mean_by_views"], result["views_monotone"]),
    ):
        shown = ", ".join(f"{key}: {mean:.2f}" for key, mean in means.items())
        out.add_row(f"mean score by {what}", f"{shown}; {'falls' if falls else 'does not fall'}")
    shown = f"{len(above)} of {copies}" + (f", first {above[0]}" if above else "")
    out.add_row("denoised copies above the clean slice", shown)
    return out
