"""Classify the body part of a slice from its pixels: abdomen, edge of the abdomen, or other.

The network also scores slices of other body parts, such as a brain. Measures of anatomy on a
128x128 grid detect them: size and width of the body, shares of lung, fat and dense bone, whether
bone encloses it, and whether there is a spine. Means of 4x4 pixels remove most noise, so a low dose
changes little. Every threshold has a wide margin on the slices that it was derived from. The model
card lists these slices and the results on other slices.

Without the pixel size, the size of the body is unknown, and small parts such as a neck can be
classified as an abdomen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.header_region import Hint
from clinreadnet.data.survey import Survey, survey
from clinreadnet.spec import HU_MIN, HU_RANGE, MAP_SIDE, SIZE

ABDOMEN, EDGE, OUTSIDE = REGIONS = ("abdomen", "edge", "outside")
"""The classes: abdomen, edge of the abdomen (dome of the liver, pelvis), other part."""

TRUNK, HEAD = "trunk", "head"
"""The parts that a dose for the size exists for."""

Mask = NDArray[np.bool_]

UNSIZED = "the size of a pixel is not known: less sure"
"""Reason for an abdomen without pixel size."""

CELL = 4
"""Side in pixels of a cell: the means of cells are what is classified."""

FAT = (-150.0, -30.0)
"""Range of fat, HU."""

# kernels/cpu/survey.cpp has the same ranges.
_CUT = 2  # cells; tables, sheets and folds are thinner than 2 * _CUT + 1
_TISSUE, _GAS, _LUNG = -400.0, -960.0, -500.0  # HU
_BONE, _SPINE, _DENSE = 250.0, 180.0, 330.0

_LEAST_BODY = 0.005  # of the frame
_LEAST_SHARE = 0.5  # of body in a patch that counts as body
_HOLLOW = -500.0  # HU; the mean of a chest is above, that of a hollow table below
_LEAST_CM2, _HEAD_CM2 = 150.0, 330.0  # below a child of two years; above any head
_MOST_CUT = 0.45
_LEAST_FAT = 0.04
_MOST_SECOND = 0.3
_MOST_ENCLOSED = 0.15
_LEAST_SPINE, _HIPS = 0.0015, 0.035
_LUNG_EDGE, _CHEST, _SHOULDERS = 0.1, 0.95, 2.03
_PELVIS = 0.05
# Largest share of dense bone by the area of the body in cm2. Necks and limbs are small and have
# more bone; a large body may contain oral contrast medium.
_DENSE_AT = ((_LEAST_CM2, 0.03), (_HEAD_CM2, 0.05), (420.0, 0.15))
_DENSE_UNSIZED = 0.065


@dataclass(frozen=True)
class Region:
    """Body part of a slice.

    Attributes:
        answer: one of ``REGIONS``.
        reason: the measurement and, after a colon, its interpretation; empty for an abdomen of
            known size.
        area_cm2: area of the body; None without pixel size or without a body.
        part: ``TRUNK`` or ``HEAD``; empty for other parts, and if neither is certain.
        patches: `Cells.patches`; None if the region was found without cells.
    """

    answer: str
    reason: str = ""
    area_cm2: float | None = None
    part: str = TRUNK
    patches: Mask | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Cells:
    """A slice on a grid of 4x4 pixels.

    Attributes:
        means: float32 [128, 128], HU as the network sees them.
        parts: intp [128, 128], label of each body or thin object; -1 outside.
        sizes: intp [n], cells of each label.
        body: bool [128, 128], cells of bodies: what tissue encloses, but for sheets and tables.
    """

    means: NDArray[np.float32]
    parts: NDArray[np.intp]
    sizes: NDArray[np.intp]
    body: Mask

    @property
    def patches(self) -> Mask:
        """Patches of 32x32 pixels that show at least as much body as air, bool [16, 16]."""
        side = len(self.body) // MAP_SIDE
        share = self.body.reshape(MAP_SIDE, side, MAP_SIDE, side).mean(axis=(1, 3))
        return np.asarray(share >= _LEAST_SHARE)


@dataclass(frozen=True)
class Anatomy:
    """Measures of the largest body in a slice. Shares are fractions of its area, 0...1.

    Attributes:
        frame: share of the frame that the body covers.
        area_cm2: area; None without pixel size.
        cut: share of the frame's border that the body covers.
        second: tissue of the second largest body relative to the largest.
        width: squared width relative to that of a disc of equal area.
        lung: share of lung in tissue other than fat.
        both_lungs: share of lung on the side that has less of it.
        fat: share of fat.
        bone: share of bone.
        side_bone: share of bone far from the middle.
        spine: share of bone near the middle.
        dense: share of dense bone.
        enclosed: share enclosed by bone.
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


def find_region(
    hu: NDArray[Any], pixel_mm: float | None = None, cells: Cells | None = None
) -> Region:
    """Classify the body part of a slice. docs/runtime.md says how long it takes.

    Args:
        hu: [512, 512], Hounsfield units, finite.
        pixel_mm: width of a pixel in mm; None if unknown, which makes the result less reliable.
        cells: result of `find_cells` for the slice, if you have it.
    """
    region = _classify(measure_anatomy(hu, pixel_mm, cells))
    return region if cells is None else replace(region, patches=cells.patches)


def _classify(anatomy: Anatomy | None) -> Region:
    if anatomy is None:
        return Region(OUTSIDE, "nothing as large as a body: air", part="")
    area = anatomy.area_cm2
    foreign = _foreign(anatomy)
    if foreign is not None:
        reason, part = foreign
        return Region(OUTSIDE, reason, area, part)
    if anatomy.lung > _LUNG_EDGE:
        return Region(EDGE, f"lungs are {anatomy.lung:.0%} of the body: dome of the liver", area)
    if anatomy.spine < _LEAST_SPINE:
        return Region(EDGE, "hips and no spine: pelvis", area)
    if anatomy.bone > _PELVIS:
        return Region(EDGE, f"bone is {anatomy.bone:.0%} of the body: pelvis", area)
    return Region(ABDOMEN, "" if area is not None else UNSIZED, area)


def with_header(region: Region, hint: Hint) -> Region:
    """Combine the region of a slice with the hint of its header.

    A header alone marks a slice only if it states that the values are not Hounsfield units. If it
    names a head, neck or limb, a slice at the edge of the abdomen or a body no larger than a head
    counts as outside.

    The header also says whether an unclear part is head or trunk. If it contradicts a skull, the
    part is neither.

    Args:
        region: classification by the pixels.
        hint: body part in the header.
    """
    region = replace(region, part=_part(region, hint))
    if region.answer == OUTSIDE:
        return region
    if hint.quantity:
        return replace(region, answer=OUTSIDE, reason=str(hint))
    if hint.part in ("head", "neck", "limb"):
        small = region.area_cm2 is not None and region.area_cm2 < _HEAD_CM2
        if small or region.answer == EDGE:
            what = f"a body of {region.area_cm2:.0f} cm2" if small else region.reason
            part = HEAD if hint.part == HEAD else ""
            return replace(region, answer=OUTSIDE, reason=f"{hint}, and {what}", part=part)
    return region


def _part(region: Region, hint: Hint) -> str:
    """Return trunk, head or neither, by the pixels and the header."""
    if hint.quantity:
        return ""
    if region.part == HEAD:
        return "" if hint.trunk or hint.part not in ("", HEAD) else HEAD
    if region.part == TRUNK:
        return TRUNK
    return HEAD if hint.part == HEAD else TRUNK if hint.trunk else ""


def _foreign(anatomy: Anatomy) -> tuple[str, str] | None:
    """Return why a body is not an abdomen, and its part; None if it is one."""
    area = anatomy.area_cm2
    if anatomy.cut > _MOST_CUT:
        return f"the body covers {anatomy.cut:.0%} of the field's border: a small field of view", ""
    if area is not None and area < _LEAST_CM2:
        return f"a body of {area:.0f} cm2: smaller than an abdomen", ""
    if anatomy.second > _MOST_SECOND:
        return "several bodies: legs, arms or a neck between them", ""
    if anatomy.enclosed > _MOST_ENCLOSED:
        return f"bone encloses {anatomy.enclosed:.0%} of the body: head", HEAD
    if anatomy.dense > (_DENSE_UNSIZED if area is None else _interpolate(area)):
        return f"dense bone is {anatomy.dense:.0%} of the body: head, neck or limb", ""
    if anatomy.fat < _LEAST_FAT:
        return f"fat is {anatomy.fat:.1%} of the body: a phantom, a map or a head", ""
    if anatomy.lung + anatomy.both_lungs + 0.4 * (anatomy.width - 1.2) > _CHEST:
        return f"lungs are {anatomy.lung:.0%} of the body: chest", TRUNK
    if anatomy.width + 10 * anatomy.side_bone + anatomy.lung + 3 * anatomy.dense > _SHOULDERS:
        return "a wide body with bone at its sides: shoulders", TRUNK
    if anatomy.spine < _LEAST_SPINE and anatomy.bone < _HIPS:
        return "no spine: legs, or no patient", ""
    return None


def _interpolate(area: float) -> float:
    areas, most = zip(*_DENSE_AT, strict=True)
    return float(np.interp(area, areas, most))


def measure_anatomy(
    hu: NDArray[Any], pixel_mm: float | None = None, cells: Cells | None = None
) -> Anatomy | None:
    """Measure the largest body in a slice; None if there is no body.

    Args:
        hu: [512, 512], Hounsfield units, finite.
        pixel_mm: width of a pixel in mm, or None.
        cells: result of `find_cells` for the slice, if you have it.
    """
    side_mm = None if pixel_mm is None else pixel_mm * CELL
    native = survey(hu, anatomy=True)
    if native is not None:
        return _from_survey(native, side_mm)
    grid = find_cells(hu) if cells is None else cells
    return _measure(grid, side_mm)


def _measure(grid: Cells, side_mm: float | None) -> Anatomy | None:
    cells, parts, sizes = grid.means, grid.parts, grid.sizes
    tissue = cells > _TISSUE
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

    fat = share((cells > FAT[0]) & (cells < FAT[1]))
    bone = (cells > _BONE) & body
    border = np.concatenate([body[0], body[-1], body[:, 0], body[:, -1]])
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


_SURVEYED = tuple("second width lung both_lungs fat bone side_bone spine enclosed".split())
"""Measures that have one name in `Anatomy` and `Survey`."""


def _from_survey(found: Survey, side_mm: float | None) -> Anatomy | None:
    """Return the measures of the native library, which are those of `measure_anatomy`."""
    if not found.area:
        return None
    return Anatomy(
        frame=found.area / (SIZE // CELL) ** 2,
        area_cm2=None if side_mm is None else found.area * side_mm**2 / 100,
        cut=found.border / (4 * SIZE // CELL),
        dense=found.dense_bone,
        **{name: getattr(found, name) for name in _SURVEYED},
    )


def find_body(hu: NDArray[Any]) -> Mask:
    """Return where a slice shows bodies: what tissue encloses, but for sheets and tables.

    Args:
        hu: [512, 512], Hounsfield units, finite.

    Returns:
        bool [512, 512], of blocks of 4x4 pixels.
    """
    return np.asarray(find_cells(hu).body.repeat(CELL, axis=0).repeat(CELL, axis=1))


def find_cells(hu: NDArray[Any]) -> Cells:
    """Return the cells of a slice, and the bodies among them.

    Lungs and bowel belong to the body around them.

    Args:
        hu: [512, 512], Hounsfield units, finite.
    """
    means = _means(hu)
    parts, sizes = _parts(_opened(~_open_air(means > _TISSUE)))
    labelled = parts >= 0
    totals = np.bincount(parts[labelled], means[labelled], len(sizes))
    large = (sizes >= _LEAST_BODY * parts.size) & (totals > _HOLLOW * sizes)
    body = np.append(large, False)[parts]  # the label outside, -1, is the last
    return Cells(means, parts, sizes, body)


def _means(hu: NDArray[Any]) -> NDArray[np.float32]:
    """Return the means of 4x4 pixels as the network sees them, float32 [128, 128]."""
    hu = np.clip(np.asarray(hu, np.float32), HU_MIN, HU_MIN + HU_RANGE)
    rows = (hu[0::4] + hu[1::4]) + (hu[2::4] + hu[3::4])
    cells = (rows[:, 0::4] + rows[:, 1::4]) + (rows[:, 2::4] + rows[:, 3::4])
    return np.asarray(cells * np.float32(1 / CELL**2), np.float32)


def _open_air(wall: Mask) -> Mask:
    """Return the cells that are connected to the frame's border without crossing ``wall``."""
    free = np.ones((wall.shape[0] + 2, wall.shape[1] + 2), np.bool_)
    free[1:-1, 1:-1] = ~wall
    parts, _ = _parts(free)
    return np.asarray((parts == parts[0, 0])[1:-1, 1:-1])


def _opened(mask: Mask) -> Mask:
    """Morphological opening: remove parts thinner than 2 * _CUT + 1 cells."""
    inner = ~spread(~mask, _CUT, border=True)
    return spread(inner, _CUT) & mask


def spread(mask: Mask, cells: int, *, border: bool = False) -> Mask:
    """Dilate a mask by a number of cells along both axes.

    Args:
        mask: bool [rows, columns].
        cells: how far, 0 or more.
        border: value outside the frame.
    """
    width = 2 * cells + 1
    for _ in range(2):
        grown = np.full((len(mask) + 2 * cells, mask.shape[1]), border)  # np.pad takes longer
        grown[cells : cells + len(mask)] = mask
        reach = 1
        while reach < width:  # a row holds those up to reach - 1 rows below
            step = min(reach, width - reach)
            grown = grown[:-step] | grown[step:]
            reach += step
        mask = grown.T
    return mask


def _parts(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Label connected components: the label of each cell (-1 outside) and the components' sizes.

    Connectivity is by sides. Runs of cells in a row are nodes of a graph, and contacts between runs
    of adjacent rows are its edges. The smallest label of a component propagates to all its runs.
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


assert SIZE % CELL == 0
