"""Words for slices that are novel, outside the abdomen, or at its edge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from clinreadnet.data.region import EDGE, OUTSIDE

if TYPE_CHECKING:
    from clinreadnet.scoring.result import SliceScore

_MOST_REASONS = 4


def domain_mark(score: SliceScore) -> str:
    """Return "outside", "edge" or "novel" for a marked slice; otherwise an empty string."""
    if score.region in (OUTSIDE, EDGE) and (
        score.region == OUTSIDE or score.in_domain is not False
    ):
        return score.region
    return "novel" if score.in_domain is False else ""


def domain_reason(score: SliceScore) -> str:
    """Return the reason for the mark of a slice; empty for unmarked slices."""
    mark = domain_mark(score)
    if mark == "novel":
        return f"its edges are unlike the training data, novelty {score.novelty:.2f}"
    return score.region_reason if mark else ""


def domain_lines(slices: Sequence[SliceScore]) -> list[str]:
    """Return lines of text about marked slices and hints of headers.

    Reasons are counted by their interpretation, such as "head". JSON and CSV contain the
    measurements.
    """
    lines = []
    for answer, what in (
        (OUTSIDE, "outside the abdomen, marked as novel and left out"),
        (EDGE, "at the edge of the abdomen, where a score says less"),
    ):
        marked = [score for score in slices if domain_mark(score) == answer]
        if marked:
            kinds = _counted(score.region_reason.rpartition(": ")[2] for score in marked)
            lines.append(f"{len(marked)} of {len(slices)} {what} ({kinds}).")
    named = Counter(score.header for score in slices if score.header).most_common(_MOST_REASONS)
    lines += [f"{count} of {len(slices)} {header}: a hint, not proof." for header, count in named]
    return lines


def _counted(words: Iterable[str]) -> str:
    counts = Counter(words).most_common()
    shown = [f"{word} {count}" for word, count in counts[:_MOST_REASONS]]
    return "; ".join([*shown, *(["others"] if len(counts) > _MOST_REASONS else [])])
