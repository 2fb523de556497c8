"""Write scores as CSV and in the format of the challenge's container."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.errors import InputError
from clinreadnet.files import check_output, whole_file
from clinreadnet.physics import SliceFigures
from clinreadnet.scoring.result import SeriesReport, SliceScore

CHALLENGE_FILE = "image-quality-scores.json"


def write_csv(report: SeriesReport, target: Path) -> None:
    """Write a CSV file with a row per slice, atomically. Figures come last, if there are any.

    Raises:
        InputError: ``target`` cannot be written.
    """
    with (
        whole_file(target) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        apart = ("acquisition", "figures", "remark")
        names = [field.name for field in fields(SliceScore) if field.name not in apart]
        names += [field.name for field in fields(Acquisition)]
        if any(score.figures for score in report.slices):
            names += [*(field.name for field in fields(SliceFigures)), "remark"]
        writer.writerow(names)
        for score in report.slices:
            row = asdict(score) | {"score": f"{score.score:.4f}"}
            row |= row["acquisition"] | {
                name: f"{value:.5g}" if isinstance(value, float) else value
                for name, value in (row["figures"] or {}).items()
            }
            if score.novelty is not None:
                row["novelty"] = f"{score.novelty:.4f}"
            if score.site_score is not None:
                row["site_score"] = f"{score.site_score:.4f}"
            if score.in_domain is not None:
                row["in_domain"] = str(score.in_domain).lower()
            writer.writerow(row.get(name) for name in names)


def check_challenge_output(folder: Path) -> None:
    """Check, before scoring, that the challenge output can be written.

    Raises:
        InputError: ``folder`` is not a folder, or the file in it cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; create it first")
    check_output(folder / CHALLENGE_FILE)


def write_challenge_output(report: SeriesReport, folder: Path) -> None:
    """Write the list of scores in the format of the LDCTIQAC 2023 container, atomically.

    Args:
        report: what `score_slices` returned.
        folder: folder for ``image-quality-scores.json``, which has a number per slice, in order.

    Raises:
        InputError: as in `check_challenge_output`.
    """
    check_challenge_output(folder)
    with whole_file(folder / CHALLENGE_FILE) as temporary:
        temporary.write_text(json.dumps([score.score for score in report.slices]) + "\n")
