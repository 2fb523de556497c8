"""Score the slices of files and folders with a bundle: `clinreadnet score`.

One batch is scored while the next is read. Only the scores of a slice are kept, so memory does not
grow with the length of a series.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from clinreadnet.data.slices import SliceRef
from clinreadnet.errors import InputError
from clinreadnet.files import whole_file
from clinreadnet.runtime import Session
from clinreadnet.spec import LIKERT, RESEARCH_USE, grade_word

BUNDLE_VARIABLE = "CLINREADNET_BUNDLE"
"""Environment variable that names the default bundle."""


@dataclass(frozen=True)
class SliceScore:
    """The score of one slice.

    Attributes:
        path: the file.
        frame: frame number from 0 in a file of several slices, else None.
        position: place along the slice normal in mm, or None.
        score: 0 bad ... 4 excellent.
        grade: word of the nearest grade.
    """

    path: str
    frame: int | None
    position: float | None
    score: float
    grade: str


@dataclass(frozen=True)
class SeriesSummary:
    """Summary of the scores of all slices; ``shares`` is by grade word and sums to 1."""

    n: int
    mean: float
    min: float
    max: float
    shares: dict[str, float]


@dataclass(frozen=True)
class Extreme:
    """The worst or the best slice, kept for the plot; ``quality_map`` is float32 [16, 16]."""

    ref: SliceRef
    score: float
    quality_map: NDArray[np.float32]


@dataclass(frozen=True)
class SeriesReport:
    """Scores in the order of the slices, their summary, and the two extremes."""

    slices: list[SliceScore]
    series: SeriesSummary
    worst: Extreme
    best: Extreme

    def to_dict(self, session: Session) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "slices": [asdict(s) for s in self.slices],
            "series": asdict(self.series),
            "session": session.describe(),
            "research_use": RESEARCH_USE,
        }


def default_bundle() -> Path:
    """Return the bundle named by ``CLINREADNET_BUNDLE``, else ``bundle`` in the current folder."""
    return Path(os.environ.get(BUNDLE_VARIABLE) or "bundle")


def check_bundle(bundle: Path) -> None:
    """Check that a bundle's folder exists, before the search for slices.

    Raises:
        InputError: no such folder.
    """
    if not bundle.is_dir():
        raise InputError(
            f"{bundle}: no such bundle; run `clinreadnet export --out {bundle}`, or name one with "
            f"`bundle` or {BUNDLE_VARIABLE}"
        )


def check_target(target: Path) -> None:
    """Check that an output can be written, before slices are scored.

    Raises:
        InputError: ``target`` is a folder, or its parent folder does not exist.
    """
    if target.is_dir():
        raise InputError(f"{target}: is a folder; name a file")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder; create it first")


def score_slices(
    session: Session, refs: Sequence[SliceRef], *, advance: Callable[[int], None] | None = None
) -> SeriesReport:
    """Score slices in order.

    Args:
        session: a loaded bundle.
        refs: at least one slice, from `find_slices`.
        advance: called after each batch with the number of slices it scored.

    Returns:
        The report.

    Raises:
        InputError: a slice cannot be loaded; the scores of the others are lost.
    """
    scores: list[float] = []
    worst: Extreme | None = None
    best: Extreme | None = None
    batches = [refs[i : i + session.batch] for i in range(0, len(refs), session.batch)]
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(_load, batches[0])
        for number, batch in enumerate(batches):
            hu = reading.result()
            if number + 1 < len(batches):
                reading = reader.submit(_load, batches[number + 1])
            result = session.score(hu)
            for ref, score, quality_map in zip(
                batch, result.score.tolist(), result.quality_map, strict=True
            ):
                scores.append(score)
                if worst is None or score < worst.score:
                    worst = Extreme(ref, score, quality_map)
                if best is None or score > best.score:
                    best = Extreme(ref, score, quality_map)
            if advance is not None:
                advance(len(batch))
    assert worst is not None and best is not None, "score_slices needs a slice"
    return SeriesReport(
        [
            SliceScore(str(r.path), r.frame, r.position, s, grade_word(s))
            for r, s in zip(refs, scores, strict=True)
        ],
        summarise(scores),
        worst,
        best,
    )


def summarise(scores: Sequence[float]) -> SeriesSummary:
    """Return the summary of at least one score."""
    words = [grade_word(score) for score in scores]
    return SeriesSummary(
        n=len(scores),
        mean=float(np.mean(scores)),
        min=min(scores),
        max=max(scores),
        shares={word: words.count(word) / len(words) for word in LIKERT},
    )


def summary_line(series: SeriesSummary) -> str:
    """Return the summary as one line of text."""
    shares = ", ".join(f"{word} {share:.0%}" for word, share in series.shares.items() if share)
    return (
        f"{series.n} slices: mean {series.mean:.2f}, lowest {series.min:.2f}, "
        f"highest {series.max:.2f} (0 bad ... 4 excellent); {shares}"
    )


def print_report(report: SeriesReport, console: Console) -> None:
    """Print the table of slices and the summary, with the line on research use."""
    paths = [os.path.abspath(one.path) for one in report.slices]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    table = Table(title=f"{report.series.n} slices in {folder}", title_justify="left")
    table.add_column("slice", overflow="fold")
    for heading in ("position (mm)", "score"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("grade", no_wrap=True)
    for path, one in zip(paths, report.slices, strict=True):
        name = os.path.relpath(path, folder)
        table.add_row(
            name if one.frame is None else f"{name}[{one.frame}]",
            "" if one.position is None else f"{one.position:.1f}",
            f"{one.score:.2f}",
            one.grade,
        )
    console.print(table)
    console.print(summary_line(report.series), highlight=False, markup=False, soft_wrap=True)
    console.print(RESEARCH_USE, highlight=False, soft_wrap=True)


def write_csv(report: SeriesReport, target: Path) -> None:
    """Write one row per slice, atomically.

    Raises:
        InputError: ``target`` cannot be written.
    """
    with whole_file(target) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "frame", "position", "score", "grade"])
        for one in report.slices:
            writer.writerow([one.path, one.frame, one.position, f"{one.score:.4f}", one.grade])


CHALLENGE_FILE = "image-quality-scores.json"


def check_challenge_output(folder: Path) -> None:
    """Check that the challenge output can be written, before slices are scored.

    Raises:
        InputError: ``folder`` is not a folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; create it first")


def write_challenge_output(report: SeriesReport, folder: Path) -> None:
    """Write the output of the LDCTIQAC 2023 container, the list of scores, atomically.

    Args:
        report: what `score_slices` returned.
        folder: folder for ``image-quality-scores.json``, one number per slice, in order.

    Raises:
        InputError: as in `check_challenge_output`.
    """
    check_challenge_output(folder)
    with whole_file(folder / CHALLENGE_FILE) as temporary:
        temporary.write_text(json.dumps([one.score for one in report.slices]) + "\n")


def _load(batch: Sequence[SliceRef]) -> NDArray[np.float32]:
    return np.stack([ref.load() for ref in batch])
