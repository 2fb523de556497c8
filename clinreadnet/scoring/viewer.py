"""Write a page to view a scored series: a self-contained HTML file.

Each slice is a JPEG of 8-bit codes, which the browser converts to HU and then to grey values, so
the window can be changed. A code covers 4 HU from -200 to 440 HU, which is below the noise of a
low-dose slice, and 32 to 40 HU outside. Scores are computed from the files, not from the page.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import asdict
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.acquisition import exposure_lines
from clinreadnet.data.region import CELL, find_cells
from clinreadnet.data.slices import framed
from clinreadnet.errors import InputError, visible
from clinreadnet.files import whole_file
from clinreadnet.physics.table import METHODS, describe, figure_lines, missing
from clinreadnet.scoring.domain import domain_lines, domain_mark, domain_reason
from clinreadnet.scoring.overlay import OPACITY, VIRIDIS
from clinreadnet.scoring.result import SeriesReport, summary_line
from clinreadnet.scoring.site_map import site_lines
from clinreadnet.spec import INTERVAL_MASS, LIKERT, RESEARCH_USE, SIZE

_WINDOW = (400, 40)  # width and level at the start, HU
_QUALITIES = (98, 95, 90, 80, 70, 60, 45, 30)
_JPEG_BYTES = 108_000  # 144 kB in base64, so that 100 slices stay below 15 MB

CODES: NDArray[np.float32] = np.concatenate(
    [np.arange(-1024, -200, 32), np.arange(-200, 440, 4), 440 + 40 * np.arange(70)]
).astype(np.float32)
"""HU of each of the 256 codes, ascending."""


def check_html(slices: int) -> None:
    """Check, before scoring, that a page can be written.

    Args:
        slices: number of slices.

    Raises:
        InputError: Pillow is not installed, or there are too many slices for a browser.
    """
    if find_spec("PIL") is None:
        raise InputError('a page needs Pillow; run `pip install "clinreadnet[plot]"`')
    if slices > limits.PAGE_SLICES:
        raise InputError(
            f"{slices} slices; at most {limits.PAGE_SLICES} fit on a page; leave out `html`, or "
            "give one series"
        )


def write_html(report: SeriesReport, target: Path) -> None:
    """Write the page of a scored series atomically. Pixels are read again.

    Args:
        report: what `score_slices` returned.
        target: ``.html`` file.

    Raises:
        InputError: as in `check_html`, a slice can no longer be read, or ``target`` cannot be
            written.
    """
    check_html(len(report.slices))
    template = (files("clinreadnet.scoring") / "viewer.html").read_text(encoding="utf-8")
    document = json.dumps(_document(report), allow_nan=False).replace("<", "\\u003c")
    with whole_file(target) as temporary:
        temporary.write_text(template.replace("{{document}}", document), encoding="utf-8")


def _document(report: SeriesReport) -> dict[str, Any]:
    numbers = {series: number for number, series in enumerate(report.by_series, start=1)}
    maps = np.rint(report.outputs.quality_map * 100).astype(int)
    slices = []
    for ref, score, quality_map in zip(report.refs, report.slices, maps, strict=True):
        hu = ref.load()
        slices.append(
            {
                "name": visible(framed(ref.path.name, ref.frame)),
                "series": numbers[score.series],
                "position": score.position,
                "score": round(score.score, 6),
                "low": score.low,
                "high": score.high,
                "grade": score.grade,
                "site": score.site_score,
                "novel": score.in_domain is False,
                "mark": domain_mark(score),
                "why": "; ".join(
                    filter(None, (domain_reason(score), visible(score.header), score.remark))
                ),
                "figures": describe(score.figures),
                "missing": ", ".join(missing(score.figures)),
                "acquisition": {
                    k: v for k, v in asdict(score.acquisition).items() if v is not None
                },
                "map": quality_map.ravel().tolist(),
                "body": _runs(find_cells(hu).body),
                "image": base64.b64encode(encode(hu)).decode("ascii"),
            }
        )
    return {
        "researchUse": RESEARCH_USE,
        "summary": [
            f"{f'series {numbers[series]}: ' if len(numbers) > 1 else ''}{summary_line(summary)}"
            for series, summary in report.by_series.items()
        ],
        "notes": [
            *domain_lines(report.slices),
            *exposure_lines([score.acquisition for score in report.slices]),
            *figure_lines((score.figures, score.remark) for score in report.slices),
            *([] if report.unjudged is None else [report.unjudged]),
            *site_lines(report.slices, report.site_map),
            *([] if report.limits is None else report.limits.lines),
        ],
        "methods": METHODS if any(score.figures for score in report.slices) else "",
        "size": SIZE,
        "window": _WINDOW,
        "grades": LIKERT,
        "interval": f"{INTERVAL_MASS:.0%}",
        "codes": CODES.tolist(),
        "block": CELL,
        "colours": VIRIDIS,
        "opacity": round(100 * OPACITY),
        "slices": slices,
    }


def _runs(body: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of the runs of a mask, row by row: outside, inside, outside, ...."""
    changes = np.flatnonzero(np.diff(body.ravel(), prepend=False))
    return np.diff(changes, prepend=0).tolist()


def encode(hu: NDArray[np.float32]) -> bytes:
    """Encode a slice [512, 512] in HU as a JPEG of codes within the size limit."""
    from PIL import Image

    middles = (CODES[1:] + CODES[:-1]) / 2
    image = Image.fromarray(np.searchsorted(middles, hu).astype(np.uint8))
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= _JPEG_BYTES:
            break
    return buffer.getvalue()
