"""Scores of slices and summaries of series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.region import OUTSIDE, TRUNK, with_header
from clinreadnet.data.slices import SliceRef
from clinreadnet.errors import counted
from clinreadnet.physics import SliceFigures, with_dose
from clinreadnet.physics.judge import remark
from clinreadnet.runtime import Scores, Session
from clinreadnet.spec import LIKERT, NOT_GRADED, RESEARCH_USE, grade_word

if TYPE_CHECKING:
    from clinreadnet.scoring.breaches import LimitReport
    from clinreadnet.scoring.site_map import SiteMap


@dataclass(frozen=True)
class SliceScore:
    """The score of one slice.

    Attributes:
        path: the file.
        frame: frame number from 0 in a file of several slices, else None.
        position: position along the slice normal in mm, or None.
        score: 0 bad ... 4 excellent.
        grade: word of the nearest grade; ``NOT_GRADED`` for a slice that is novel or outside.
        low: lower bound of the 90 % interval of the grade.
        high: upper bound of that interval.
        novelty: distance from the training data; None if unknown.
        in_domain: whether the slice shows an abdomen or its edge and resembles the training data.
            False marks it as novel; None if the bundle has no novelty threshold.
        series: SeriesInstanceUID, or the folder (``.tif``) or file (``.npy``, ``.mha``).
        acquisition: dose and protocol of a DICOM slice.
        region: abdomen, edge or outside; empty if not computed.
        region_reason: reason for edge or outside.
        header: hint of the header of a DICOM slice; empty if there is none.
        sop_instance_uid: SOPInstanceUID of a DICOM slice; empty without one.
        site_score: grade on the site's scale by a site map; None without a map.
        site_map: name of that map; empty without one.
        figures: noise, size, dose and other figures; None if not asked for.
        remark: what about the figures is unlike other slices of this noise, dose or score.
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
    sop_instance_uid: str = ""
    site_score: float | None = None
    site_map: str = ""
    figures: SliceFigures | None = None
    remark: str = ""


@dataclass(frozen=True)
class SeriesSummary:
    """Summary of the scores of slices. Slices marked as novel are excluded.

    Attributes:
        n: number of slices, including marked ones.
        novel: number of marked slices; None if the bundle has no novelty threshold.
        mean: mean score. None if all slices are marked, like ``min`` and ``max``.
        min: lowest score.
        max: highest score.
        shares: share of each grade, by its word. The sum is 1, or 0 if all slices are marked.
        site_mean: mean site score; None without a site map, or if all slices are marked.
    """

    n: int
    novel: int | None
    mean: float | None
    min: float | None
    max: float | None
    shares: dict[str, float]
    site_mean: float | None = None


@dataclass(frozen=True)
class Extreme:
    """The slice with the lowest or highest score. ``quality_map`` is float32 [16, 16].

    A slice marked as novel is used only if all are.
    """

    ref: SliceRef
    score: float
    quality_map: NDArray[np.float32]
    novel: bool


@dataclass(frozen=True)
class SeriesReport:
    """Scores of one or more slices, with summaries.

    Attributes:
        slices: scores of the slices, in order.
        refs: references to the slices.
        outputs: outputs of the network for the slices.
        unjudged: why slices cannot be classified as in domain; None if they can.
        skipped: slices without a body at the ends of a series; they have no score.
        site_map: map that made the site scores; None without one.
        limits: the series compared with the limits of the site; None without limits.
    """

    slices: list[SliceScore]
    refs: list[SliceRef]
    outputs: Scores
    unjudged: str | None = None
    skipped: list[SliceRef] = field(default_factory=list)
    site_map: SiteMap | None = None
    limits: LimitReport | None = None

    @property
    def series(self) -> SeriesSummary:
        """Summary of all slices. Its mean has little meaning if there are several series."""
        return summarise(self.slices)

    @property
    def by_series(self) -> dict[str, SeriesSummary]:
        """Summary of each series, in order."""
        return summarise_by_series(self.slices)

    @property
    def members(self) -> dict[str, list[int]]:
        """Indices of the slices of each series, in order."""
        members: dict[str, list[int]] = {}
        for index, score in enumerate(self.slices):
            members.setdefault(score.series, []).append(index)
        return members

    @property
    def worst(self) -> Extreme:
        """The slice with the lowest score."""
        return self._extreme(1)

    @property
    def best(self) -> Extreme:
        """The slice with the highest score."""
        return self._extreme(-1)

    def _extreme(self, sign: int) -> Extreme:
        def key(index: int) -> tuple[bool, float]:
            return self.slices[index].in_domain is False, sign * self.slices[index].score

        index = min(range(len(self.slices)), key=key)
        score, quality_map = self.slices[index], self.outputs.quality_map[index]
        return Extreme(self.refs[index], score.score, quality_map, score.in_domain is False)

    def to_dict(self, session: Session) -> dict[str, Any]:
        """Return the content of ``--json``. ``series`` is null if there are several series."""
        return {
            "slices": [asdict(s) for s in self.slices],
            **summaries_to_dict(self.by_series),
            "session": session.describe(),
            "site_map": site_map_to_dict(self.site_map),
            "limits": None if self.limits is None else self.limits.to_dict(),
            "research_use": RESEARCH_USE,
        }


def site_map_to_dict(site_map: SiteMap | None) -> dict[str, Any] | None:
    """Return a site map for JSON, without its knots."""
    if site_map is None:
        return None
    facts: dict[str, Any] = msgspec.to_builtins(site_map)
    return {name: fact for name, fact in facts.items() if name not in ("scores", "grades")}


def slice_scores(refs: Sequence[SliceRef], scores: Scores) -> list[SliceScore]:
    """Return the score of each of n slices."""
    low, high, judged = scores.low.tolist(), scores.high.tolist(), scores.in_domain
    results = []
    for i, (ref, score) in enumerate(zip(refs, scores.score.tolist(), strict=True)):
        region = None if scores.regions is None else with_header(scores.regions[i], ref.hint)
        in_domain = None if judged is None else bool(judged[i])
        if region and region.answer == OUTSIDE:
            in_domain = False
        figures = None if scores.figures is None else scores.figures[i]
        if figures is not None:
            part = TRUNK if region is None else region.part
            figures = with_dose(figures, ref.acquisition, part)
        results.append(
            SliceScore(
                path=str(ref.path),
                frame=ref.frame,
                position=ref.position,
                score=score,
                grade=NOT_GRADED if in_domain is False else grade_word(score),
                low=round(low[i], 2),
                high=round(high[i], 2),
                novelty=None if scores.novelty is None else float(scores.novelty[i]),
                in_domain=in_domain,
                series=ref.series,
                acquisition=ref.acquisition,
                region=region.answer if region else "",
                region_reason=region.reason if region else "",
                header=str(ref.hint),
                sop_instance_uid=ref.instance_uid,
                figures=figures,
                remark=(
                    remark(figures, ref.acquisition, score)
                    if figures is not None and in_domain is not False
                    else ""
                ),
            )
        )
    return results


def summarise(slices: Sequence[SliceScore]) -> SeriesSummary:
    """Return the summary of at least one slice."""
    kept = [score for score in slices if score.in_domain is not False]
    scores, words = [score.score for score in kept], [score.grade for score in kept]
    mapped = [score.site_score for score in kept if score.site_score is not None]
    return SeriesSummary(
        n=len(slices),
        novel=None if all(score.in_domain is None for score in slices) else len(slices) - len(kept),
        mean=float(np.mean(scores)) if scores else None,
        min=min(scores, default=None),
        max=max(scores, default=None),
        shares={word: words.count(word) / max(len(words), 1) for word in LIKERT},
        site_mean=float(np.mean(mapped)) if mapped else None,
    )


def summarise_by_series(slices: Iterable[SliceScore]) -> dict[str, SeriesSummary]:
    """Return the summary of each series, in the order of their first slices."""
    members: dict[str, list[SliceScore]] = {}
    for score in slices:
        members.setdefault(score.series, []).append(score)
    return {series: summarise(own) for series, own in members.items()}


def summaries_to_dict(by_series: Mapping[str, SeriesSummary]) -> dict[str, Any]:
    """Return summaries for JSON: ``by_series``, and ``series``, null unless there is one series."""
    rows = [{"series": series} | asdict(summary) for series, summary in by_series.items()]
    only = [asdict(summary) for summary in by_series.values()] if len(by_series) == 1 else [None]
    return {"series": only[0], "by_series": rows}


def summary_line(series: SeriesSummary) -> str:
    """Return the summary as one line of text."""
    if series.mean is None:
        return (
            f"{counted(series.n, 'slice')}, all marked as novel, unlike the training data: no mean"
        )
    left_out = f", {series.novel} of them marked as novel and left out" if series.novel else ""
    shares = ", ".join(f"{word} {share:.0%}" for word, share in series.shares.items() if share)
    site = "" if series.site_mean is None else f"; mean site score {series.site_mean:.2f}"
    return (
        f"{counted(series.n, 'slice')}{left_out}: mean {series.mean:.2f}, lowest {series.min:.2f}, "
        f"highest {series.max:.2f} (0 bad ... 4 excellent); {shares}{site}"
    )
