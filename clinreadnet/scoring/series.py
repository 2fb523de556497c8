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
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from clinreadnet.data.slices import SliceRef
from clinreadnet.errors import InputError
from clinreadnet.files import whole_file
from clinreadnet.runtime import Scores, Session
from clinreadnet.spec import INTERVAL_MASS, LIKERT, RESEARCH_USE, grade_word

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
        low: lower end of the 90 % interval of the grade.
        high: upper end of it.
        novelty: how far the slice lies from the training data; None for bundles made before it.
        in_domain: whether it is like the training data; False marks it as novel, and None says that
            the bundle cannot judge.
    """

    path: str
    frame: int | None
    position: float | None
    score: float
    grade: str
    low: float
    high: float
    novelty: float | None
    in_domain: bool | None


@dataclass(frozen=True)
class SeriesSummary:
    """Summary of the scores of all slices, except those marked as novel.

    Attributes:
        n: number of slices, with the marked ones.
        novel: number of marked slices, which are left out; None where nothing is judged.
        mean: mean score; None where all slices are marked, as are ``min`` and ``max``.
        min: lowest score.
        max: highest score.
        shares: by grade word; they sum to 1, or all are 0 where all slices are marked.
    """

    n: int
    novel: int | None
    mean: float | None
    min: float | None
    max: float | None
    shares: dict[str, float]


@dataclass(frozen=True)
class Extreme:
    """The worst or the best slice, kept for the plot; ``quality_map`` is float32 [16, 16].

    A slice that is marked as novel is one only where all are.
    """

    ref: SliceRef
    score: float
    quality_map: NDArray[np.float32]
    novel: bool


@dataclass(frozen=True)
class SeriesReport:
    """Scores in the order of the slices, their summary, and the two extremes.

    ``unjudged`` says why no slice is judged to be in domain; None where slices are judged.
    """

    slices: list[SliceScore]
    series: SeriesSummary
    worst: Extreme
    best: Extreme
    unjudged: str | None

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
    slices: list[SliceScore] = []
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
            scored = slice_scores(batch, result)
            for ref, one, quality_map in zip(batch, scored, result.quality_map, strict=True):
                here = Extreme(ref, one.score, quality_map, one.in_domain is False)
                if worst is None or (here.novel, here.score) < (worst.novel, worst.score):
                    worst = here
                if best is None or (here.novel, -here.score) < (best.novel, -best.score):
                    best = here
            slices += scored
            if advance is not None:
                advance(len(batch))
    assert worst is not None and best is not None, "score_slices needs a slice"
    return SeriesReport(slices, summarise(slices), worst, best, session.manifest.unjudged)


def slice_scores(refs: Sequence[SliceRef], scores: Scores) -> list[SliceScore]:
    """Return what the network says of each of n slices."""
    n = len(refs)
    novelty = [None] * n if scores.novelty is None else scores.novelty.tolist()
    in_domain = [None] * n if scores.in_domain is None else scores.in_domain.tolist()
    return [
        SliceScore(
            path=str(ref.path),
            frame=ref.frame,
            position=ref.position,
            score=score,
            grade=grade_word(score),
            low=round(low, 2),
            high=round(high, 2),
            novelty=distance,
            in_domain=like,
        )
        for ref, score, low, high, distance, like in zip(
            refs,
            scores.score.tolist(),
            scores.low.tolist(),
            scores.high.tolist(),
            novelty,
            in_domain,
            strict=True,
        )
    ]


def summarise(slices: Sequence[SliceScore]) -> SeriesSummary:
    """Return the summary of at least one slice."""
    kept = [one for one in slices if one.in_domain is not False]
    scores, words = [one.score for one in kept], [one.grade for one in kept]
    return SeriesSummary(
        n=len(slices),
        novel=None if slices[0].in_domain is None else len(slices) - len(kept),
        mean=float(np.mean(scores)) if scores else None,
        min=min(scores, default=None),
        max=max(scores, default=None),
        shares={word: words.count(word) / max(len(words), 1) for word in LIKERT},
    )


def summary_line(series: SeriesSummary) -> str:
    """Return the summary as one line of text."""
    if series.mean is None:
        return f"{series.n} slices, all marked as novel, unlike the training data: no mean"
    left_out = f", {series.novel} of them marked as novel and left out" if series.novel else ""
    shares = ", ".join(f"{word} {share:.0%}" for word, share in series.shares.items() if share)
    return (
        f"{series.n} slices{left_out}: mean {series.mean:.2f}, lowest {series.min:.2f}, "
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
    for heading in (f"{INTERVAL_MASS:.0%}", "grade", *(["domain"] if report.series.novel else [])):
        table.add_column(heading, no_wrap=True)
    for path, one in zip(paths, report.slices, strict=True):
        name = os.path.relpath(path, folder)
        mark = ["[yellow]novel[/]" if one.in_domain is False else ""] if report.series.novel else []
        table.add_row(
            name if one.frame is None else f"{name}[{one.frame}]",
            "" if one.position is None else f"{one.position:.1f}",
            f"{one.score:.2f}",
            f"{one.low:.1f} ... {one.high:.1f}",
            one.grade,
            *mark,
        )
    console.print(table)
    for line in (summary_line(report.series), report.unjudged):
        if line is not None:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(RESEARCH_USE, highlight=False, soft_wrap=True)


def write_csv(report: SeriesReport, target: Path) -> None:
    """Write one row per slice, atomically.

    Raises:
        InputError: ``target`` cannot be written.
    """
    with whole_file(target) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(SliceScore)])
        for one in report.slices:
            row = asdict(one) | {"score": f"{one.score:.4f}"}
            if one.novelty is not None:
                row["novelty"] = f"{one.novelty:.4f}"
            if one.in_domain is not None:
                row["in_domain"] = str(one.in_domain).lower()
            writer.writerow(row.values())


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
