"""Metal in a slice: surgical clips, or pedicle screws in the spine.

Few photons pass metal, and mostly those of high energy. With two energies of equal share, the
attenuation of ``t`` millimetres is ``-log((exp(-low t) + exp(-high t)) / 2)``. It is less than
proportional to ``t`` (beam hardening), and filtered back-projection turns the difference into dark
and bright streaks. The Poisson noise of the few photons adds streaks of its own; as on scanners,
rays with few photons are averaged with their neighbours (Hsieh 1998). Attenuation coefficients are
those of Hubbell and Seltzer (NIST) at 60 and 100 keV, about the spectrum behind an abdomen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from clinreadnet.simulator.clean import CleanSlice, Float32, Mask, largest_part, outside_circle
from clinreadnet.spec import SIZE


@dataclass(frozen=True)
class Alloy:
    """Attenuation of a metal per millimetre at 60 keV (``low``) and at 100 keV (``high``)."""

    low: float
    high: float

    def linear(self, millimetres: Float32) -> Float32:
        """Return the line integrals without beam hardening, the shape of ``millimetres``."""
        return np.asarray((self.low + self.high) / 2 * millimetres, np.float32)

    def hardened(self, millimetres: Float32) -> Float32:
        """Return the line integrals with beam hardening, the shape of ``millimetres``."""
        t = millimetres.astype(np.float64)
        more = np.log1p(np.exp(-(self.low - self.high) * t))
        return np.asarray(self.high * t + math.log(2) - more, np.float32)


TITANIUM = Alloy(low=0.348, high=0.124)
STEEL = Alloy(low=0.949, high=0.293)

CLIPS, SCREWS = "clips", "screws"

# What is this near to metal is metal, or the ringing of its edge: it is not measured.
_NEAR_MM = 8.0
# Sizes in millimetres.
_CLIP_RADIUS, _CLIP_LENGTH, _CLIPS_APART = 0.6, (2.0, 7.0), 25.0
_SCREW_RADIUS = (2.2, 3.2)
# Head and tip of a screw, beside and behind the centre of the vertebra, and the share of its length
# that a slice shows, since screws are tilted.
_SCREW_ENDS = ((24.0, 26.0), (9.0, -10.0))
_SCREW_SHARE = (0.25, 0.8)
# Expected photons below which a ray is averaged with its neighbours, and their number.
_FEW_PHOTONS, _NEIGHBOURS = 60.0, 7
_FOCAL_SPOT = 0.5
# Least area of a vertebra in square millimetres, its distance to the middle of the body, and HU.
_VERTEBRA, _MIDDLE_MM, _BONE_HU = 400.0, 35.0, 150.0


@dataclass(frozen=True)
class Metal:
    """Metal of one kind in a slice.

    Attributes:
        kind: "clips" or "screws".
        alloy: its attenuation.
        share: ``[512, 512]`` float32, share of metal in each pixel, 0 outside the circle.
    """

    kind: str
    alloy: Alloy
    share: Float32

    def near(self, pixel_mm: float) -> Mask:
        """Return ``[512, 512]`` bool, the metal and what is within 8 mm of it."""
        distance = ndi.distance_transform_edt(self.share < 0.01)
        return np.asarray(distance * pixel_mm < _NEAR_MM)


def draw_metal(kind: str, clean: CleanSlice, rng: np.random.Generator) -> Metal | None:
    """Draw metal into a slice.

    Args:
        kind: "clips": two to six, in a group in soft tissue, of titanium or steel. "screws": two
            pedicle screws of titanium.
        clean: the slice, supine, anterior at the top.
        rng: random generator.

    Returns:
        The metal; None if the slice has no soft tissue for clips, no vertebra for screws, or no
        even tissue beside the metal, where noise is measured.
    """
    lines = _screws(clean, rng) if kind == SCREWS else _clips(clean, rng)
    if not lines:
        return None
    alloy = STEEL if kind == CLIPS and rng.random() < 0.4 else TITANIUM
    share = np.zeros((SIZE, SIZE), np.float32)
    for start, end, radius in lines:
        inside = (radius / clean.pixel_mm - _distance(start, end)) + 0.5
        share = np.maximum(share, np.clip(inside, 0, 1).astype(np.float32))
    share = ndi.gaussian_filter(share, _FOCAL_SPOT / clean.pixel_mm)
    share[outside_circle() | (share < 1e-4)] = 0
    metal = Metal(kind, alloy, share)
    beside = clean.tissue & ~metal.near(clean.pixel_mm)
    return metal if share.any() and beside.any() else None


# Start and end (row, column) in pixels, and radius in millimetres.
_Line = tuple[NDArray[np.float64], NDArray[np.float64], float]


def _clips(clean: CleanSlice, rng: np.random.Generator) -> list[_Line]:
    places = np.argwhere(clean.tissue)
    if not len(places):
        return []
    bed = places[int(rng.integers(len(places)))]
    lines = []
    for _ in range(int(rng.integers(2, 7))):
        centre = bed + rng.normal(0, _CLIPS_APART / 2, 2) / clean.pixel_mm
        half = float(rng.uniform(*_CLIP_LENGTH)) / 2 / clean.pixel_mm
        angle = float(rng.uniform(0, math.pi))
        along = half * np.array([math.sin(angle), math.cos(angle)])
        lines.append((centre - along, centre + along, _CLIP_RADIUS))
    return lines


def _screws(clean: CleanSlice, rng: np.random.Generator) -> list[_Line]:
    rows, columns = np.nonzero(clean.body)
    bone = (ndi.gaussian_filter(clean.structure, 1.5 / clean.pixel_mm) > _BONE_HU) & clean.body
    if not bone.any():
        return []
    bone[: int(rows.mean())] = False
    beside = np.abs(np.arange(SIZE) - columns.mean()) * clean.pixel_mm
    bone[:, beside > _MIDDLE_MM] = False
    # The largest part is the vertebra, with its arch where that is connected.
    vertebra = np.argwhere(largest_part(ndi.binary_closing(bone, iterations=2)))
    if len(vertebra) * clean.pixel_mm**2 < _VERTEBRA:
        return []
    centre = vertebra.mean(axis=0)
    radius = float(rng.uniform(*_SCREW_RADIUS))
    ends = np.array(_SCREW_ENDS) * float(rng.uniform(0.9, 1.1)) / clean.pixel_mm
    lines = []
    for side in (-1, 1):
        head, tip = (centre + (behind, side * aside) for aside, behind in ends)
        share = float(rng.uniform(*_SCREW_SHARE))
        first = float(rng.uniform(0, 1 - share))
        lines.append((head + first * (tip - head), head + (first + share) * (tip - head), radius))
    return lines


def average_starved(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average rays of few photons with their neighbours: counts and result ``[views, n]``."""
    mean = ndi.uniform_filter1d(counts, _NEIGHBOURS, axis=1)
    share = np.clip(1 - mean / _FEW_PHOTONS, 0, 1)
    return np.asarray(counts + share * (mean - counts))


def _distance(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each pixel ``[512, 512]`` to a line between two points."""
    row, column = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    along = end - start
    length = max(float(along @ along), 1e-12)
    at = ((row - start[0]) * along[0] + (column - start[1]) * along[1]) / length
    at = np.clip(at, 0, 1)
    return np.asarray(np.hypot(row - start[0] - at * along[0], column - start[1] - at * along[1]))
