"""The canvas for organs, and shared shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from clinreadnet.simulator.clean import AIR, Float32
from clinreadnet.spec import SIZE

# Points [n, 2] (x, y) along a path, with spacings below the radii [n], all in millimetres.
Vessel = tuple[NDArray[np.float64], NDArray[np.float64]]

PATIENT_LENGTH_MM = 360.0
"""Length of the patient between level 0 and level 1."""

# Fields of a smaller scale are texture, which thick slices average out.
_FINE_MM = 4.0

# Enhancement in HU by contrast phase: arteries, portal vein and liver veins, liver, spleen,
# kidney cortex, kidney medulla, pancreas, gut wall.
PHASES: dict[str, tuple[float, ...]] = {
    "native": (42, 40, 57, 48, 33, 31, 40, 36),
    "arterial": (290, 110, 72, 118, 185, 70, 100, 80),
    "portal": (160, 175, 112, 122, 175, 150, 95, 85),
    "delayed": (115, 118, 95, 100, 150, 165, 75, 65),
}

PHASE_SHARES = (0.12, 0.16, 0.57, 0.15)

# Number of each organ: the last element of the spawn key of its random stream. Do not renumber:
# that would change every image.
STREAMS = {
    name: number
    for number, name in enumerate(
        (
            "patient", "warp", "texture", "wall", "ribs", "spine", "muscle", "bowel", "colon",
            "mesentery", "pancreas", "stomach", "spleen", "liver", "hepatic vessels", "kidneys",
            "vessels", "gallbladder", "table", "lung", "lesions", "level", "pelvis", "arms",
            "field",
        )
    )
}  # fmt: skip


def extent_at(level: float, start: float, stop: float, edge: float = 0.12) -> float:
    """Return the extent (0...1) at ``level`` of an organ from ``start`` to ``stop``."""
    rise = np.clip((level - start) / edge, 0.0, 1.0)
    fall = np.clip((stop - level) / edge, 0.0, 1.0)
    return float(np.sqrt(rise * (2 - rise) * fall * (2 - fall)))


class Painter:
    """The slice being drawn: HU, and coordinates in millimetres (x to the right, y down)."""

    def __init__(self, seed: int, anatomy: int, level: float) -> None:
        self._key = (seed, anatomy)
        self.level = level
        rng = self.rng("patient")
        self.phase = str(rng.choice(list(PHASES), p=PHASE_SHARES))
        # Half-width and half-depth of the body.
        size = rng.normal()
        self.half_width = float(np.clip(161 + 20 * size + 5 * rng.normal(), 118, 225))
        self.half_depth = self.half_width * float(np.clip(rng.normal(0.73, 0.05), 0.60, 0.88))
        obesity = float(np.clip(0.5 + 0.30 * size + 0.22 * rng.normal(), 0.03, 1.3))
        self.fat_mm = 5 + 26 * obesity
        self.visceral = obesity
        self.fine = float(rng.uniform(0.1, 1.1))
        """Share of the fine texture that remains after averaging over the slice thickness."""
        self.thickness_mm = float(rng.uniform(0.0, 0.7))
        """Further blur of the anatomy across thick slices, as a standard deviation."""
        self.pixel_mm, self.shift = self._field_of_view()
        scale = float(rng.normal(1.0, 0.03))
        levels = [v + float(rng.normal(0, 5)) for v in PHASES[self.phase]]
        (
            self.artery, self.vein, self.liver, self.spleen,
            self.cortex, self.medulla, self.pancreas, self.gut,
        ) = (scale * v for v in levels)  # fmt: skip
        self.muscle = float(rng.normal(58, 5))
        self.fat = float(rng.normal(-103, 5))

        half = (np.arange(SIZE, dtype=np.float32) - SIZE // 2) * np.float32(self.pixel_mm)
        x = half[None, :] - np.float32(self.shift[0]) + np.zeros((SIZE, 1), np.float32)
        y = half[:, None] - np.float32(self.shift[1]) + np.zeros((1, SIZE), np.float32)
        warp = self.rng("warp")
        # Smooth displacement at two scales, so that outlines are not ellipses.
        self.x = x + self.field(warp, 32.0, 2.2) + self.field(warp, 9.0, 0.8)
        self.y = y + self.field(warp, 32.0, 2.2) + self.field(warp, 9.0, 0.8)
        self.hu = np.full((SIZE, SIZE), AIR, np.float32)
        # Contents of the gut: one texture for all loops, which are adjacent.
        texture = self.rng("texture")
        self.grain = self.field(texture, 1.2, 5.0)
        self.mottle = self.field(texture, 1.6, 1.0)

    def _field_of_view(self) -> tuple[float, NDArray[np.float64]]:
        """Return the pixel size and the position of the patient, in millimetres."""
        rng = self.rng("field")
        # Mostly fitted to the patient; a third is as wide as for attenuation maps, or cuts the
        # body.
        width = 2 * self.half_width * float(rng.uniform(1.04, 1.2))
        kind = rng.random()
        if kind < 0.35:
            width = math.exp(float(rng.uniform(math.log(width), math.log(max(width, 505.0)))))
        elif kind < 0.45:
            width *= float(rng.uniform(0.82, 0.96))
        width = float(np.clip(width, 250.0, 505.0))
        free = max(width / 2 - self.half_width, 8.0)
        shift = np.clip(rng.normal(0, 0.3, 2), -0.7, 0.7) * free
        shift[1] -= 0.03 * self.half_depth
        return width / SIZE, shift

    def rng(self, stream: str) -> np.random.Generator:
        """Return the random stream of one organ, the same at every level."""
        key = (*self._key[1:], STREAMS[stream])
        return np.random.default_rng(np.random.SeedSequence(self._key[0], spawn_key=key))

    def field(self, rng: np.random.Generator, scale_mm: float, amplitude: float) -> Float32:
        """Return a smooth random field ``[512, 512]`` of standard deviation ``amplitude``.

        Two independent fields are blended along the patient, so that texture changes slowly between
        slices.
        """
        if scale_mm < _FINE_MM:
            amplitude *= self.fine
        sigma = scale_mm / self.pixel_mm
        step = max(1, int(sigma / 2.5))
        count = SIZE // step + 4
        noise = rng.standard_normal((2, count, count)).astype(np.float32)
        turn = self.level * 0.4 * PATIENT_LENGTH_MM / max(scale_mm, 4.0)
        mixed = np.cos(turn) * noise[0] + np.sin(turn) * noise[1]
        smooth = ndi.gaussian_filter(mixed, sigma / step, mode="wrap")
        smooth *= amplitude / max(float(smooth.std()), 1e-6)
        if step > 1:
            smooth = ndi.zoom(smooth, step, order=1, mode="nearest", grid_mode=True)
            smooth = ndi.uniform_filter(smooth, step)
        return np.asarray(smooth[:SIZE, :SIZE], np.float32)

    def blob(
        self,
        centre: Sequence[float],
        axes: Sequence[float],
        turn: float = 0.0,
        power: float = 2.0,
        lobes: Sequence[tuple[float, float]] = (),
        edge_mm: float | None = None,
    ) -> Float32:
        """Return the coverage (0...1) ``[512, 512]`` of a (super)ellipse with a lobed outline.

        Args:
            centre: x and y in millimetres.
            axes: half-axes in millimetres. Nothing is drawn if one is below 1/3 mm.
            turn: rotation in radians.
            power: 2 for an ellipse, larger for a squarer shape.
            lobes: (amplitude, phase) of the outline's 2nd, 3rd, ... angular harmonic.
            edge_mm: width of the edge; default a pixel.
        """
        if min(axes) < 0.33:
            return np.zeros((SIZE, SIZE), np.float32)
        out = np.zeros((SIZE, SIZE), np.float32)
        # Only the bounding box of the shape; the warp moves it by a few millimetres.
        reach = (max(axes) * (1.5 + sum(abs(a) for a, _ in lobes)) + 14) / self.pixel_mm
        j0, i0 = (
            int(c + s) for c, s in zip(
                (np.asarray(centre) + self.shift) / self.pixel_mm, (SIZE / 2, SIZE / 2), strict=True
            )
        )  # fmt: skip
        r0, r1 = max(int(i0 - reach), 0), min(int(i0 + reach), SIZE)
        c0, c1 = max(int(j0 - reach), 0), min(int(j0 + reach), SIZE)
        if r0 >= r1 or c0 >= c1:
            return out
        dx = self.x[r0:r1, c0:c1] - np.float32(centre[0])
        dy = self.y[r0:r1, c0:c1] - np.float32(centre[1])
        u = dx * np.float32(np.cos(turn)) + dy * np.float32(np.sin(turn))
        v = dy * np.float32(np.cos(turn)) - dx * np.float32(np.sin(turn))
        if power == 2.0:
            r = np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2)
        else:
            r = (np.abs(u / axes[0]) ** power + np.abs(v / axes[1]) ** power) ** (1 / power)
        if lobes:
            theta = np.arctan2(v / axes[1], u / axes[0])
            outline = np.ones_like(theta)
            for harmonic, (amplitude, phase) in enumerate(lobes, start=2):
                outline += np.float32(amplitude) * np.cos(harmonic * theta + np.float32(phase))
            r = r / outline
        # Distance to the outline along the ray from the centre, close enough near the outline.
        inside = np.hypot(u, v) * (1 / np.maximum(r, 1e-3) - 1)
        inside[r < 1e-3] = min(axes)
        out[r0:r1, c0:c1] = np.clip(inside / (edge_mm or self.pixel_mm) + 0.5, 0, 1)
        return out

    def paint(self, cover: Float32, value: float | Float32) -> None:
        """Blend ``value`` HU over the slice with coverage ``cover`` (0...1)."""
        self.hu += cover * (value - self.hu)

    def tube(self, vessel: Vessel, out: Float32) -> None:
        """Add the coverage of a vessel, as discs along its path, to ``out`` ``[512, 512]``."""
        points, radii = vessel
        places = (points + self.shift) / self.pixel_mm + SIZE // 2
        for (j, i), r in zip(places, radii / self.pixel_mm, strict=True):
            reach = int(r) + 2
            i0, j0 = int(i), int(j)
            r0, r1, c0, c1 = i0 - reach, i0 + reach + 1, j0 - reach, j0 + reach + 1
            if r0 < 0 or c0 < 0 or r1 > SIZE or c1 > SIZE:
                continue
            rows = np.arange(r0, r1)[:, None] - i
            columns = np.arange(c0, c1)[None, :] - j
            disc = np.clip(r - np.sqrt(rows * rows + columns * columns) + 0.5, 0, 1)
            box = out[r0:r1, c0:c1]
            # A vessel thinner than a pixel covers only a part of it.
            np.maximum(box, disc * min(1.0, 2 * r), out=box)


def random_lobes(rng: np.random.Generator, amplitude: float) -> list[tuple[float, float]]:
    """Draw the (amplitude, phase) of the harmonics of an outline."""
    return [
        (float(rng.normal(0, amplitude / (k + 1))), float(rng.uniform(0, 2 * np.pi)))
        for k in range(4)
    ]


def branches(
    rng: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    length: float,
    radius: float,
    depth: int,
) -> list[Vessel]:
    """Return the segments of a vessel that forks ``depth`` times, in millimetres."""
    count = max(int(length / max(0.5 * radius, 0.6)), 3)
    bends = heading + np.cumsum(rng.normal(0, 0.06, count))
    step = length / count
    points = np.stack(
        [start[0] + np.cumsum(np.cos(bends) * step), start[1] + np.cumsum(np.sin(bends) * step)], 1
    )
    radii = radius * np.linspace(1.0, 0.75, count)
    segments = [(points, radii)]
    if depth > 0:
        for side in (-1, 1):
            fork = float(bends[-1]) + side * float(rng.uniform(0.25, 0.75))
            begin = (float(points[-1, 0]), float(points[-1, 1]))
            reach = length * float(rng.uniform(0.6, 0.9))
            segments += branches(
                rng, begin, fork, reach, radius * float(rng.uniform(0.58, 0.75)), depth - 1
            )
    return segments


@dataclass(frozen=True)
class Cavity:
    """The cavity inside the abdominal wall."""

    cover: Float32
    inset: Float32
    half_width: float
    top: float
    bottom: float
    spine_y: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Convert relative coordinates in the cavity (-1...1, y down) to millimetres."""
        middle = (self.top + self.bottom) / 2
        return x * self.half_width, middle + y * (self.bottom - self.top) / 2
