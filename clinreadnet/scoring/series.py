"""Score the slices of files and folders with a bundle: `clinreadnet score`.

One batch is scored while the next is read. Only the outputs of a slice are kept, about 1 kB, and
not its pixels. Slices of several series are summarised series by series.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.region import OUTSIDE, with_header
from clinreadnet.data.slices import NoBody, SliceRef
from clinreadnet.errors import InputError
from clinreadnet.files import check_output, whole_file
from clinreadnet.runtime import Scores, Session
from clinreadnet.runtime.bundle.default import BUNDLE_VARIABLE
from clinreadnet.runtime.ranges import stage
from clinreadnet.spec import LIKERT, RESEARCH_USE, grade_word


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
        in_domain: whether it is an abdomen or its edge, and like the training data; False marks it
            as novel, and None says that the bundle cannot judge.
        series: SeriesInstanceUID, or the folder (``.tif``) or file (``.npy``, ``.mha``).
        acquisition: dose and protocol of a DICOM slice.
        region: abdomen, edge or outside; empty where nobody looked.
        region_reason: why it is the edge or outside.
        header: what the header of a DICOM slice says that it shows; empty where it says nothing.
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
    series: str = ""
    acquisition: Acquisition = Acquisition()
    region: str = ""
    region_reason: str = ""
    header: str = ""


@dataclass(frozen=True)
class SeriesSummary:
    """Summary of the scores of some slices, except those marked as novel.

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
    """Scores in the order of the slices, their summaries, and the two extremes.

    Attributes:
        slices: in the order of the slices.
        series: summary of all slices; its mean says little where there are several series.
        by_series: summary of each series, in order.
        worst: the slice with the lowest score.
        best: the slice with the highest.
        unjudged: why no slice is judged to be in domain; None where slices are judged.
        refs: where each slice comes from, in the same order.
        outputs: the network's outputs for the slices, in the same order.
    """

    slices: list[SliceScore]
    series: SeriesSummary
    worst: Extreme
    best: Extreme
    unjudged: str | None
    refs: list[SliceRef]
    outputs: Scores

    @property
    def by_series(self) -> dict[str, SeriesSummary]:
        """Summary of each series, in order."""
        return summarise_by_series(self.slices)

    def to_dict(self, session: Session) -> dict[str, Any]:
        """Return what ``--json`` prints; ``series`` is null where there are several."""
        return {
            "slices": [asdict(s) for s in self.slices],
            **summaries_to_dict(self.by_series),
            "session": session.describe(),
            "research_use": RESEARCH_USE,
        }


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


def score_slices(
    session: Session,
    refs: Sequence[SliceRef],
    *,
    advance: Callable[[int], None] | None = None,
    left_out: Callable[[SliceRef, InputError], None] | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> SeriesReport:
    """Score slices in order.

    Slices of a folder that show no body are skipped at the ends of a series.

    Args:
        session: a loaded bundle.
        refs: at least one slice, from `find_slices`.
        advance: called after each batch with the number of slices it scored.
        left_out: called with a slice that cannot be loaded and its error, instead of raising.
        note: called with a line about the slices that are skipped.

    Returns:
        The report.

    Raises:
        InputError: a slice cannot be loaded, without ``left_out``; or none can.
    """
    slices: list[SliceScore] = []
    kept: list[SliceRef] = []
    outputs: list[Scores] = []
    worst: Extreme | None = None
    best: Extreme | None = None
    ends = SeriesEnds()
    batches = [refs[i : i + session.batch] for i in range(0, len(refs), session.batch)]
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(_load, batches[0], left_out is not None)
        for number, batch in enumerate(batches):
            images, failures = reading.result()
            if number + 1 < len(batches):
                reading = reader.submit(_load, batches[number + 1], left_out is not None)
            for ref, error in ends.sort(batch, failures):
                if left_out is None:
                    raise error
                left_out(ref, error)
            if advance is not None:
                advance(len(failures))
            if not images:
                continue
            good = [batch[index] for index in images]
            result = session.score(np.stack(list(images.values())), [ref.loaded_mm for ref in good])
            scored = slice_scores(good, result)
            for ref, one, quality_map in zip(good, scored, result.quality_map, strict=True):
                here = Extreme(ref, one.score, quality_map, one.in_domain is False)
                if worst is None or (here.novel, here.score) < (worst.novel, worst.score):
                    worst = here
                if best is None or (here.novel, -here.score) < (best.novel, -best.score):
                    best = here
            slices += scored
            kept += good
            outputs.append(result)
            if advance is not None:
                advance(len(good))
    if line := ends.note():
        note(line)
    if worst is None or best is None:
        raise InputError(f"none of {len(refs)} slices can be read; the lines above say why")
    return SeriesReport(
        slices,
        summarise(slices),
        worst,
        best,
        session.manifest.unjudged,
        kept,
        Scores.concatenate(outputs),
    )


class SeriesEnds:
    """Tells slices without a body at the ends of a series from those between other slices."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._waiting: dict[str, list[tuple[SliceRef, InputError]]] = {}
        self._skipped: list[SliceRef] = []

    def sort(
        self, batch: Sequence[SliceRef], failures: Mapping[int, InputError]
    ) -> list[tuple[SliceRef, InputError]]:
        """Return the failures of a batch that are not at the ends, as far as is known by now."""
        real: list[tuple[SliceRef, InputError]] = []
        for index, ref in enumerate(batch):
            error = failures.get(index)
            if error is not None and _may_be_skipped(ref, error):
                self._waiting.setdefault(ref.series, []).append((ref, error))
            elif error is not None:
                real.append((ref, error))
            elif waiting := self._waiting.pop(ref.series, None):
                if ref.series in self._begun:
                    real += waiting
                else:
                    self._skipped += [one for one, _ in waiting]
            if error is None:
                self._begun.add(ref.series)
        return real

    def skipped(self) -> list[SliceRef]:
        """Return the slices at the ends; no batch follows."""
        return [*self._skipped, *(ref for own in self._waiting.values() for ref, _ in own)]

    def note(self) -> str | None:
        """Return a line about the slices at the ends; None without any."""
        names = [ref.name for ref in self.skipped()]
        if not names:
            return None
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"skipped slices without a body at the ends of a series ({names[0]}{more})"


def _may_be_skipped(ref: SliceRef, error: InputError) -> bool:
    return isinstance(error, NoBody) and not ref.named


def slice_scores(refs: Sequence[SliceRef], scores: Scores) -> list[SliceScore]:
    """Return what the network says of each of n slices."""
    n = len(refs)
    regions = (
        [None] * n
        if scores.regions is None
        else [with_header(one, ref.hint) for ref, one in zip(refs, scores.regions, strict=True)]
    )
    novelty = [None] * n if scores.novelty is None else scores.novelty.tolist()
    judged = [None] * n if scores.in_domain is None else scores.in_domain.tolist()
    in_domain = [
        False if region is not None and region.answer == OUTSIDE else like
        for region, like in zip(regions, judged, strict=True)
    ]
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
            series=ref.series,
            acquisition=ref.acquisition,
            region="" if region is None else region.answer,
            region_reason="" if region is None else region.reason,
            header=str(ref.hint),
        )
        for ref, score, low, high, distance, like, region in zip(
            refs,
            scores.score.tolist(),
            scores.low.tolist(),
            scores.high.tolist(),
            novelty,
            in_domain,
            regions,
            strict=True,
        )
    ]


def summarise(slices: Sequence[SliceScore]) -> SeriesSummary:
    """Return the summary of at least one slice."""
    kept = [one for one in slices if one.in_domain is not False]
    scores, words = [one.score for one in kept], [one.grade for one in kept]
    return SeriesSummary(
        n=len(slices),
        novel=None if all(one.in_domain is None for one in slices) else len(slices) - len(kept),
        mean=float(np.mean(scores)) if scores else None,
        min=min(scores, default=None),
        max=max(scores, default=None),
        shares={word: words.count(word) / max(len(words), 1) for word in LIKERT},
    )


def summarise_by_series(slices: Iterable[SliceScore]) -> dict[str, SeriesSummary]:
    """Return the summary of each series, in the order of their first slices."""
    members: dict[str, list[SliceScore]] = {}
    for one in slices:
        members.setdefault(one.series, []).append(one)
    return {series: summarise(own) for series, own in members.items()}


def summaries_to_dict(by_series: Mapping[str, SeriesSummary]) -> dict[str, Any]:
    """Return summaries ready for JSON: ``by_series``, and ``series``, null unless there is one."""
    rows = [{"series": series} | asdict(summary) for series, summary in by_series.items()]
    only = [asdict(summary) for summary in by_series.values()] if len(by_series) == 1 else [None]
    return {"series": only[0], "by_series": rows}


def summary_line(series: SeriesSummary) -> str:
    """Return the summary as one line of text."""
    if series.mean is None:
        return f"{count_slices(series.n)}, all marked as novel, unlike the training data: no mean"
    left_out = f", {series.novel} of them marked as novel and left out" if series.novel else ""
    shares = ", ".join(f"{word} {share:.0%}" for word, share in series.shares.items() if share)
    return (
        f"{count_slices(series.n)}{left_out}: mean {series.mean:.2f}, lowest {series.min:.2f}, "
        f"highest {series.max:.2f} (0 bad ... 4 excellent); {shares}"
    )


def count_slices(n: int) -> str:
    """Return a number of slices in words."""
    return "1 slice" if n == 1 else f"{n} slices"


def write_csv(report: SeriesReport, target: Path) -> None:
    """Write one row per slice, atomically. The columns of the acquisition come last.

    Raises:
        InputError: ``target`` cannot be written.
    """
    with (
        whole_file(target) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        names = [field.name for field in fields(SliceScore) if field.name != "acquisition"]
        writer.writerow([*names, *(field.name for field in fields(Acquisition))])
        for one in report.slices:
            row = asdict(one) | {"score": f"{one.score:.4f}"}
            row |= row.pop("acquisition")
            if one.novelty is not None:
                row["novelty"] = f"{one.novelty:.4f}"
            if one.in_domain is not None:
                row["in_domain"] = str(one.in_domain).lower()
            writer.writerow(row.values())


CHALLENGE_FILE = "image-quality-scores.json"


def check_challenge_output(folder: Path) -> None:
    """Check that the challenge output can be written, before slices are scored.

    Raises:
        InputError: ``folder`` is not a folder, or the file in it cannot be written.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; create it first")
    check_output(folder / CHALLENGE_FILE)


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


def _load(
    batch: Sequence[SliceRef], go_on: bool
) -> tuple[dict[int, NDArray[np.float32]], dict[int, InputError]]:
    """Return the images of a batch by place, and the errors of slices that need not stop the rest.

    Those are slices without a body, and with ``go_on`` all that cannot be loaded.
    """
    images: dict[int, NDArray[np.float32]] = {}
    failures: dict[int, InputError] = {}
    for index, ref in enumerate(batch):
        try:
            with stage("read a slice"):
                images[index] = ref.load()
        except InputError as error:
            if not (go_on or _may_be_skipped(ref, error)):
                raise
            failures[index] = error
    return images, failures
