"""Simulated readers of a site: grades and scores of the same slices."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinreadnet.scoring.site_map import SiteMap, write_site_map
from support.score_files import row

WEIGHTS = "ab" * 32


def site(
    patients: int = 12, slices: int = 3, readers: int = 3, seed: int = 0, spread: float = 0.5
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows of grades in long form, and rows of scores, of patients with slices each."""
    rng = np.random.default_rng(seed)
    grades, scores = [], []
    for patient in range(patients):
        level = rng.uniform(0.5, 3.5)
        for number in range(slices):
            quality = float(np.clip(level + 0.3 * rng.normal(), 0, 4))
            name = f"P{patient:02}/IM{number:04}.dcm"
            score = float(np.clip(quality + 0.2 * rng.normal(), 0, 4))
            scores.append(
                row(
                    path=f"/archive/{name}",
                    score=round(score, 4),
                    sop_instance_uid=f"1.2.840.{patient}.{number}",
                    scanner=f"Maker {patient % 2}",
                )
            )
            for reader in range(readers):
                grade = np.clip(np.rint(quality + spread * rng.normal()), 0, 4)
                grades.append(
                    {
                        "slice": name,
                        "reader": "ABCDEFGH"[reader],
                        "grade": f"{grade:.0f}",
                        "patient": f"P{patient:02}",
                    }
                )
    return grades, scores


def write_grades(path: Path, rows: Sequence[dict[str, Any]], separator: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def widened(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of long form in wide form."""
    wide: dict[str, dict[str, Any]] = {}
    readers = dict.fromkeys(reading["reader"] for reading in rows)
    for reading in rows:
        others = {k: v for k, v in reading.items() if k not in ("reader", "grade")}
        own = wide.setdefault(reading["slice"], others | dict.fromkeys(readers, ""))
        own[reading["reader"]] = reading["grade"]
    return list(wide.values())


def site_map(**values: Any) -> SiteMap:
    """Return a map that adds one grade on a scale of 1 to 5, less at its ends."""
    given: dict[str, Any] = {
        "created": "2026-01-31T12:00:00Z",
        "clinreadnet_version": "0.1.0",
        "weights_sha256": WEIGHTS,
        "bad": 1.0,
        "excellent": 5.0,
        "scores": (0.5, 1.0, 3.5),
        "grades": (1.25, 2.0, 4.5),
        "slices": 120,
        "patients": 40,
        "readers": 5,
        "folds": 10,
        "mae_before": 0.5,
        "mae_after": 0.375,
    }
    return SiteMap(**(given | values))


def write_map(path: Path, **values: Any) -> Path:
    write_site_map(site_map(**values), path)
    return path
