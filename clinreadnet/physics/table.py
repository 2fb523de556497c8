"""The figures that are shown, with headings, units and methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from clinreadnet.errors import counted
from clinreadnet.physics.figures import SliceFigures
from clinreadnet.physics.size import CUT_MARK


@dataclass(frozen=True)
class Figure:
    """A figure of a slice.

    Attributes:
        name: field of `SliceFigures`.
        heading: short name.
        unit: unit as a person reads it; empty without.
        digits: decimals that are shown.
        method: how it is measured.
    """

    name: str
    heading: str
    unit: str
    digits: int
    method: str

    @property
    def title(self) -> str:
        """The heading, with the unit in brackets."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def text(self, figures: SliceFigures | None) -> str:
        """Return the value as text, without its unit; empty if it is None."""
        value = getattr(figures, self.name, None)
        return "" if value is None else f"{value:.{self.digits}f}"


FIGURES = (
    Figure("noise_hu", "noise", "HU", 1, "mode of local deviations in soft tissue"),
    Figure("water_diameter_cm", "Dw", "cm", 1, "AAPM 220"),
    Figure("ssde_mgy", "SSDE", "mGy", 1, "AAPM 204 for the trunk, AAPM 293 for the head"),
    Figure("cut", "cut", "", 2, "share of the field's border in the body"),
    Figure("air_hu", "air", "HU", 0, "mean around the body"),
    Figure("fat_hu", "fat", "HU", 0, "mean of subcutaneous fat"),
    Figure("streak_hu", "streaks", "HU", 1, "deviation in the strongest direction"),
)
"""Figures that tables show, in order."""

METHODS = "; ".join(f"{figure.heading}: {figure.method}" for figure in FIGURES)
"""How each figure is measured, in one line."""


def describe(figures: SliceFigures | None) -> str:
    """Return the figures of a slice as one line, such as "noise 12.1 HU, Dw 29.0 cm"."""
    values = [(figure, figure.text(figures)) for figure in FIGURES]
    texts = [f"{figure.heading} {value} {figure.unit}".strip() for figure, value in values if value]
    if figures is not None and figures.views:
        texts.append(f"streaks of {figures.views:.0f} views")
    return ", ".join(texts)


def missing(figures: SliceFigures | None) -> list[str]:
    """Return each figure that a slice lacks with the reason, such as "no Dw (...)"."""
    names = {figure.name: figure.heading for figure in FIGURES}
    gaps = figures.missing.split("; ") if figures is not None and figures.missing else []
    pairs = [gap.partition(": ")[::2] for gap in gaps]
    return [f"no {names.get(name, 'figures')} ({reason})" for name, reason in pairs]


def figure_lines(slices: Iterable[tuple[SliceFigures | None, str]]) -> list[str]:
    """Return lines of text on remarked and cut slices, conversions of dose, and what is missing.

    Args:
        slices: figures and remark of each slice. None if they were not asked for.
    """
    measured = [(figures, remark) for figures, remark in slices if figures is not None]
    kinds = (part for _, remark in measured for part in remark.split("; ") if part)
    remarks = Counter(kind.partition(":")[0].partition(" of ")[0] for kind in kinds)
    gaps = Counter(gap for figures, _ in measured for gap in missing(figures))
    views = Counter(int(figures.views) for figures, _ in measured if figures.views)
    conversions = Counter(f.ssde_conversion for f, _ in measured if f.ssde_conversion)
    all_slices = len(measured)
    cut = sum(figures.cut is not None and figures.cut > CUT_MARK for figures, _ in measured)
    return [
        *(
            f"{counted(count, 'slice', all_slices)}: {kind}."
            for kind, count in remarks.most_common()
        ),
        *(
            [
                f"{counted(cut, 'slice', all_slices)}: the field cuts the body; Dw and SSDE are "
                "too small or missing."
            ]
            if cut
            else []
        ),
        *(
            f"{counted(n, 'slice', all_slices)}: streaks of few views, {v} over half a turn."
            for v, n in views.most_common()
        ),
        *(f"SSDE by {name} ({n} of {all_slices})." for name, n in conversions.most_common()),
        *(f"{counted(count, 'slice', all_slices)}: {gap}." for gap, count in gaps.most_common()),
    ]
