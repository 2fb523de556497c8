"""Which part of the body a slice shows, from its pixels: an abdomen, the edge of it, or another.

A network grades a brain as it grades a liver. A few measures of anatomy on a grid of 128x128 tell
them apart: how large and how wide the body is, how much of it is lung, fat and dense bone, whether
bone encloses it, and whether it has a spine. Means of 4x4 pixels remove most noise, so a low dose
changes little. Every rule has a wide margin between the slices that it was drawn from; the model
card says which these are, and how many of others it finds.

Without the size of a pixel nothing is known of the size of the body, and small parts, such as a
neck, can pass for an abdomen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.header_region import Hint
from clinreadnet.spec import HU_MIN, HU_RANGE, SIZE

ABDOMEN, EDGE, OUTSIDE = REGIONS = ("abdomen", "edge", "outside")
"""The answers: an abdomen, the edge of it (dome of the liver, pelvis), and another part."""

UNSIZED = "the size of a pixel is not known: less sure"
"""The reason of an abdomen without the size of a pixel."""

_BLOCK = 4  # pixels
_CUT = 2  # cells; a table, a sheet and a fold are thinner than twice this and one
_TISSUE, _GAS, _LUNG = -400.0, -960.0, -500.0  # HU
_FAT = (-150.0, -30.0)
_BONE, _SPINE, _DENSE = 250.0, 180.0, 330.0

_LEAST_BODY = 0.005  # of the frame
_LEAST_CM2, _HEAD_CM2 = 150.0, 330.0  # below a child of two years; above any head
_MOST_CUT = 0.45
_LEAST_FAT = 0.04
_MOST_SECOND = 0.3
_MOST_ENCLOSED = 0.15
_LEAST_SPINE, _HIPS = 0.0015, 0.035
_LUNG_EDGE, _CHEST, _SHOULDERS = 0.1, 0.95, 2.03
_PELVIS = 0.05
# Most dense bone for a body of so many square centimetres: a small body is a neck or a limb, and
# a large one may have drunk a contrast medium.
_DENSE_AT = ((_LEAST_CM2, 0.03), (_HEAD_CM2, 0.05), (420.0, 0.15))
_DENSE_UNSIZED = 0.065

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """Which part of the body a slice shows.

    Attributes:
        answer: one of ``REGIONS``.
        reason: what was found and, after a colon, what it means; empty for an abdomen whose size is
            known.
        area_cm2: area of the body; None without the size of a pixel, or without a body.
    """

    answer: str
    reason: str = ""
    area_cm2: float | None = None


@dataclass(frozen=True)
class Anatomy:
    """Measures of the largest body in a slice. Shares are of its area, 0 ... 1.

    Attributes:
        frame: share of the frame that it covers.
        area_cm2: its area; None without the size of a pixel.
        cut: share of the frame's border that it covers.
        second: tissue of the second largest body, as a share of this one's.
        width: squared, over the square of the width of a disc of the same area.
        lung: share of what is not fat that is lung.
        both_lungs: share of lung beside the middle, on the side that has less of it.
        fat: share of fat.
        bone: share of bone.
        side_bone: share of bone far from the middle.
        spine: share of bone near the middle.
        dense: share of dense bone.
        enclosed: share that bone encloses.
    """

    frame: float
    area_cm2: float | None
    cut: float
    second: float
    width: float
    lung: float
    both_lungs: float
    fat: float
    bone: float
    side_bone: float
    spine: float
    dense: float
    enclosed: float


def find_region(hu: NDArray[Any], pixel_mm: float | None = None) -> Region:
    """Return which part of the body a slice shows. It takes about 2 ms.

    Args:
        hu: [512, 512], Hounsfield units, finite.
        pixel_mm: width of a pixel in mm; None if it is not known, which makes the answer less sure.
    """
    anatomy = measure_anatomy(hu, pixel_mm)
    if anatomy is None:
        return Region(OUTSIDE, "nothing as large as a body: air")
    area = anatomy.area_cm2
    reason = _foreign(anatomy)
    if reason is not None:
        return Region(OUTSIDE, reason, area)
    if anatomy.lung > _LUNG_EDGE:
        return Region(EDGE, f"lungs are {anatomy.lung:.0%} of it: dome of the liver", area)
    if anatomy.spine < _LEAST_SPINE:
        return Region(EDGE, "hips and no spine: pelvis", area)
    if anatomy.bone > _PELVIS:
        return Region(EDGE, f"bone is {anatomy.bone:.0%} of it: pelvis", area)
    return Region(ABDOMEN, "" if area is not None else UNSIZED, area)


def with_header(region: Region, hint: Hint) -> Region:
    """Return the region of a slice in the light of its header.

    A header alone marks a slice only if it says that its values are no Hounsfield units. A head, a
    neck or a limb that it names settles a doubt: the edge of the abdomen, or a body no larger than
    a head.

    Args:
        region: from the pixels.
        hint: from the header.
    """
    if region.answer == OUTSIDE:
        return region
    if hint.quantity:
        return replace(region, answer=OUTSIDE, reason=str(hint))
    if hint.part in ("head", "neck", "limb"):
        small = region.area_cm2 is not None and region.area_cm2 < _HEAD_CM2
        if small or region.answer == EDGE:
            what = f"a body of {region.area_cm2:.0f} cm2" if small else region.reason
            return replace(region, answer=OUTSIDE, reason=f"{hint}, and {what}")
    return region


def _foreign(anatomy: Anatomy) -> str | None:
    """Return why a body is no abdomen, or None."""
    area = anatomy.area_cm2
    if anatomy.cut > _MOST_CUT:
        return f"it cuts the body on {anatomy.cut:.0%} of its border: a small field of view"
    if area is not None and area < _LEAST_CM2:
        return f"a body of {area:.0f} cm2: smaller than an abdomen"
    if anatomy.second > _MOST_SECOND:
        return "several bodies: legs, arms or a neck between them"
    if anatomy.enclosed > _MOST_ENCLOSED:
        return f"bone encloses {anatomy.enclosed:.0%} of it: head"
    if anatomy.dense > (_DENSE_UNSIZED if area is None else _interpolate(area)):
        return f"dense bone is {anatomy.dense:.0%} of it: head, neck or limb"
    if anatomy.fat < _LEAST_FAT:
        return f"fat is {anatomy.fat:.1%} of it: a phantom, a map or a head"
    if anatomy.lung + anatomy.both_lungs + 0.4 * (anatomy.width - 1.2) > _CHEST:
        return f"lungs are {anatomy.lung:.0%} of it: chest"
    if anatomy.width + 10 * anatomy.side_bone + anatomy.lung + 3 * anatomy.dense > _SHOULDERS:
        return "a wide body with bone at its sides: shoulders"
    if anatomy.spine < _LEAST_SPINE and anatomy.bone < _HIPS:
        return "no spine: legs, or no patient"
    return None


def _interpolate(area: float) -> float:
    areas, most = zip(*_DENSE_AT, strict=True)
    return float(np.interp(area, areas, most))


def measure_anatomy(hu: NDArray[Any], pixel_mm: float | None = None) -> Anatomy | None:
    """Return the measures of the largest body in a slice, or None if there is none.

    Args:
        hu: [512, 512], Hounsfield units, finite.
        pixel_mm: width of a pixel in mm, or None.
    """
    cells = _means(hu)
    tissue = cells > _TISSUE
    # Lungs and bowel are part of the body that surrounds them.
    parts, sizes = _parts(_opened(~_open_air(tissue)))
    if not sizes.size or sizes.max() < _LEAST_BODY * cells.size:
        return None
    body = parts == sizes.argmax()
    weights = np.sort(np.bincount(parts[(parts >= 0) & tissue], minlength=2))
    area = int(np.count_nonzero(body))
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    across = (np.arange(cells.shape[1]) - (columns[0] + columns[-1]) / 2) / width
    along = (np.arange(cells.shape[0]) - (rows[0] + rows[-1]) / 2) / height
    middle = np.abs(across - float(np.average(across, weights=body.sum(axis=0))))
    dark = cells < _LUNG
    beside = [
        float(dark[np.ix_(np.abs(along) < 0.25, (side > 0.15) & (side < 0.35))].mean())
        for side in (-across, across)
    ]

    def share(mask: Mask) -> float:
        return float(np.count_nonzero(mask & body)) / area

    fat = share((cells > _FAT[0]) & (cells < _FAT[1]))
    bone = (cells > _BONE) & body
    border = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
    side_mm = None if pixel_mm is None else pixel_mm * _BLOCK
    return Anatomy(
        frame=area / cells.size,
        area_cm2=None if side_mm is None else area * side_mm**2 / 100,
        cut=float(border.mean()),
        second=float(weights[-2] / weights[-1]),
        width=math.pi / 4 * width**2 / area,
        lung=share(dark & (cells > _GAS)) / max(1 - fat, 1e-6),
        both_lungs=min(beside),
        fat=fat,
        bone=share(bone),
        side_bone=share(bone & (middle > 0.3)),
        spine=share((cells > _SPINE) & (middle < 0.1)),
        dense=share(cells > _DENSE),
        enclosed=share(~_open_air(bone) & ~bone),
    )


def _means(hu: NDArray[Any]) -> NDArray[np.float32]:
    """Return the means of 4x4 pixels as the network sees them, float32 [128, 128]."""
    hu = np.clip(np.asarray(hu, np.float32), HU_MIN, HU_MIN + HU_RANGE)
    rows = (hu[0::4] + hu[1::4]) + (hu[2::4] + hu[3::4])
    cells = (rows[:, 0::4] + rows[:, 1::4]) + (rows[:, 2::4] + rows[:, 3::4])
    return np.asarray(cells * np.float32(1 / _BLOCK**2), np.float32)


def _open_air(wall: Mask) -> Mask:
    """Return what can be reached from the frame's border without crossing ``wall``."""
    free = np.pad(~wall, 1, constant_values=True)
    parts, _ = _parts(free)
    return np.asarray((parts == parts[0, 0])[1:-1, 1:-1])


def _opened(mask: Mask) -> Mask:
    """Return a mask without what is thinner than 2 * _CUT + 1 cells."""
    inner = ~_spread(~mask, border=True)
    return _spread(inner, border=False) & mask


def _spread(mask: Mask, *, border: bool) -> Mask:
    """Return a mask that has grown by _CUT cells along both axes; ``border`` lies outside it."""
    for _ in range(2):
        wide = np.pad(mask, ((_CUT, _CUT), (0, 0)), constant_values=border)
        grown = wide[: len(mask)].copy()
        for start in range(1, 2 * _CUT + 1):
            grown |= wide[start : start + len(mask)]
        mask = grown.T
    return mask


def _parts(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the number of the connected part of each cell, -1 outside, and the parts' sizes.

    Neighbours share a side. Runs of cells in a row are the nodes of a graph whose edges are their
    contacts with the runs of the next row; the least number of its part spreads to every run.
    """
    height, width = mask.shape
    flat = np.zeros((height, width + 1), np.bool_)
    flat[:, :width] = mask
    cells = flat.ravel()
    starts = cells.copy()
    starts[1:] &= ~cells[:-1]
    runs = (np.cumsum(starts) - 1).reshape(height, width + 1)[:, :width]
    count = int(np.count_nonzero(starts))
    if count == 0:
        return np.full(mask.shape, -1), np.zeros(0, np.intp)
    touch = mask[:-1] & mask[1:]
    above, below = runs[:-1][touch], runs[1:][touch]
    parent = np.arange(count)
    while True:
        root, other = parent[above], parent[below]
        apart = root != other
        if not apart.any():
            break
        root, other = root[apart], other[apart]
        np.minimum.at(parent, np.maximum(root, other), np.minimum(root, other))
        while not np.array_equal(parent, further := parent[parent]):
            parent = further
        above, below = above[apart], below[apart]
    parts = np.where(mask, parent[runs], -1)
    return parts, np.bincount(parts[mask], minlength=count)


assert SIZE % _BLOCK == 0
