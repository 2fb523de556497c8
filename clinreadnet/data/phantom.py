"""Abdomen-like phantoms: one axial slice in Hounsfield units, drawn from a seed.

Organs are painted back to front in millimetres on a warped grid, each from its own random stream,
so that the slices of one patient (same seed, growing ``level``) change slowly and nothing one organ
draws moves another. The image is oriented as a radiologist expects: supine, anterior at the top,
the patient's right on the left.

The aim is the *statistics* a quality score looks at (edges of many contrasts, textured organs,
vessels, gas, bone, fat strands), not anatomy one could diagnose from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from clinreadnet.data.clean import AIR, CleanSlice, Float32, Mask, even_tissue, outside_circle
from clinreadnet.grading import SIZE

# Points [n, 2] along a path (x, y), closer together than the radii [n], all in millimetres.
_Vessel = tuple[NDArray[np.float64], NDArray[np.float64]]

PATIENT_LENGTH_MM = 360.0
"""Length of the patient between level 0 and level 1."""

# Enhancement in HU by contrast phase: arteries, portal vein and liver veins, liver, spleen,
# kidney cortex, kidney medulla, pancreas, gut wall.
_PHASES: dict[str, tuple[float, ...]] = {
    "native": (42, 40, 57, 48, 33, 31, 40, 36),
    "arterial": (290, 110, 72, 118, 185, 70, 100, 80),
    "portal": (160, 175, 112, 122, 175, 150, 95, 85),
    "delayed": (115, 118, 95, 100, 150, 165, 75, 65),
}
_PHASE_SHARES = (0.12, 0.16, 0.57, 0.15)

# One number per organ: the last element of its random stream's spawn key. Never renumber these;
# that would change every image of every seed.
_STREAMS = {
    name: number
    for number, name in enumerate(
        (
            "patient", "warp", "texture", "wall", "ribs", "spine", "muscle", "bowel", "colon",
            "mesentery", "pancreas", "stomach", "spleen", "liver", "hepatic vessels", "kidneys",
            "vessels", "gallbladder", "table", "lung", "lesions",
        )
    )
}  # fmt: skip


@dataclass(frozen=True)
class Phantom(CleanSlice):
    """One drawn slice.

    Attributes:
        phase: contrast phase: native, arterial, portal or delayed.
        level: place along the patient, 0 liver dome ... 1 lower abdomen.
    """

    phase: str
    level: float


def _bump(level: float, start: float, stop: float, edge: float = 0.12) -> float:
    """Extent (0...1) along the patient of an organ reaching from ``start`` to ``stop``."""
    rise = np.clip((level - start) / edge, 0.0, 1.0)
    fall = np.clip((stop - level) / edge, 0.0, 1.0)
    return float(np.sqrt(rise * (2 - rise) * fall * (2 - fall)))


class _Painter:
    """The slice being drawn: HU, and coordinates in millimetres (x to the right, y down)."""

    def __init__(self, seed: int, anatomy: int, level: float) -> None:
        self._key = (seed, anatomy)
        self.level = level
        rng = self.rng("patient")
        self.phase = str(rng.choice(list(_PHASES), p=_PHASE_SHARES))
        # Half-width and half-depth of the body.
        size = rng.normal()
        self.half_width = float(np.clip(163 + 17 * size + 5 * rng.normal(), 130, 208))
        self.half_depth = self.half_width * float(np.clip(rng.normal(0.73, 0.045), 0.62, 0.86))
        obesity = float(np.clip(0.5 + 0.30 * size + 0.22 * rng.normal(), 0.03, 1.3))
        self.fat_mm = 5 + 26 * obesity
        self.visceral = obesity
        # The operator fits the field of view to the patient.
        self.pixel_mm = float(
            np.clip(2 * self.half_width * rng.uniform(1.08, 1.18) / SIZE, 0.62, 0.92)
        )
        self.shift = np.array([rng.normal(0, 4), rng.normal(0, 3) - 0.03 * self.half_depth])
        scale = float(rng.normal(1.0, 0.03))
        levels = [v + float(rng.normal(0, 5)) for v in _PHASES[self.phase]]
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
        # Two scales of smooth displacement: no outline stays an ellipse.
        self.x = x + self.field(warp, 32.0, 2.2) + self.field(warp, 9.0, 0.8)
        self.y = y + self.field(warp, 32.0, 2.2) + self.field(warp, 9.0, 0.8)
        self.hu = np.full((SIZE, SIZE), AIR, np.float32)
        # What fills the gut: one texture for all loops, which lie beside each other.
        texture = self.rng("texture")
        self.grain = self.field(texture, 1.2, 5.0)
        self.mottle = self.field(texture, 1.6, 1.0)

    def rng(self, stream: str) -> np.random.Generator:
        """Return the random stream of one organ, the same at every level."""
        key = (*self._key[1:], _STREAMS[stream])
        return np.random.default_rng(np.random.SeedSequence(self._key[0], spawn_key=key))

    def field(self, rng: np.random.Generator, scale_mm: float, amplitude: float) -> Float32:
        """Return a smooth random field ``[512, 512]`` of standard deviation ``amplitude``.

        Two independent fields are blended along the patient, so that texture changes slowly from
        slice to slice.
        """
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
            axes: half-axes in millimetres; nothing is drawn where one is below a third of one.
            turn: rotation in radians.
            power: 2 an ellipse, larger ones squarer.
            lobes: (amplitude, phase) of the outline's 2nd, 3rd, ... angular harmonic.
            edge_mm: width of the edge; a pixel where not given.
        """
        if min(axes) < 0.33:
            return np.zeros((SIZE, SIZE), np.float32)
        out = np.zeros((SIZE, SIZE), np.float32)
        # Only the box that the shape can touch: the warp moves it by a few millimetres.
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
        """Lay ``value`` HU over the slice where ``cover`` (0...1) says."""
        self.hu += cover * (value - self.hu)

    def tube(self, vessel: _Vessel, out: Float32) -> None:
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
            # A vessel thinner than a pixel fills only a part of it.
            np.maximum(box, disc * min(1.0, 2 * r), out=box)


def _lobes(rng: np.random.Generator, amplitude: float, count: int = 4) -> list[tuple[float, float]]:
    return [
        (float(rng.normal(0, amplitude / (k + 1))), float(rng.uniform(0, 2 * np.pi)))
        for k in range(count)
    ]


def _branches(
    rng: np.random.Generator,
    start: tuple[float, float],
    heading: float,
    length: float,
    radius: float,
    depth: int,
) -> list[_Vessel]:
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
            segments += _branches(
                rng, begin, fork, reach, radius * float(rng.uniform(0.58, 0.75)), depth - 1
            )
    return segments


@dataclass(frozen=True)
class _Cavity:
    """The room inside the abdominal wall."""

    cover: Float32
    inset: Float32
    half_width: float
    top: float
    bottom: float
    spine_y: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Millimetres of a place given in halves of the cavity (-1...1, y down)."""
        middle = (self.top + self.bottom) / 2
        return x * self.half_width, middle + y * (self.bottom - self.top) / 2


def _marbling(p: _Painter, rng: np.random.Generator) -> Float32:
    """Fat between the bundles of a muscle: HU to take off, in thin wavy lines."""
    lines = np.clip(1 - np.abs(p.field(rng, 2.6, 1.0)) / 0.24, 0, 1)
    where = np.clip(0.15 + p.field(rng, 9, 0.5) + 0.35 * p.visceral, 0, 1)
    return np.asarray(lines * where * 110, np.float32)


def _draw_wall(p: _Painter) -> tuple[_Cavity, Mask]:
    """Skin, subcutaneous fat, muscle wall; returns the cavity they enclose and the body."""
    rng = p.rng("wall")
    taper = 1 - 0.05 * p.level + 0.04 * float(np.sin(3 * p.level + rng.uniform(0, 3)))
    width, height = p.half_width * taper, p.half_depth * taper
    power = float(rng.uniform(2.0, 2.35))
    lobes = _lobes(rng, 0.012)
    # A back flattened by the table: the lower half is a squarer ellipse.
    body = p.blob((0, 0), (width, height), 0, power, lobes)
    flat = height * float(rng.uniform(0.90, 0.97))
    body = body * np.clip((flat - p.y + 6 * np.abs(p.x / width) ** 2) / 4 + 0.5, 0, 1)
    inside = body > 0.5
    depth = ndi.distance_transform_edt(inside, sampling=p.pixel_mm).astype(np.float32)
    depth -= np.float32(0.5 * p.pixel_mm)
    angle = np.arctan2(p.y / height, p.x / width)  # 0 left flank, -pi/2 anterior
    front = np.clip(-np.sin(angle), 0, 1) ** 2
    back = np.clip(np.sin(angle), 0, 1) ** 2
    flank = np.abs(np.cos(angle)) ** 2
    lower = 0.6 + 0.7 * p.level
    fat = p.fat_mm * (
        flank * rng.uniform(0.6, 0.9) + front * lower * rng.uniform(0.7, 1.1)
        + back * rng.uniform(0.7, 1.0)
    )  # fmt: skip
    fat += p.field(rng, 25, 1.5)
    # Deep layers do not follow every bend of the skin.
    deep = ndi.gaussian_filter(depth, 7.0 / p.pixel_mm)
    wall_mm = float(rng.normal(10.5, 1.5)) * (1.2 - 0.2 * p.visceral)
    wall = wall_mm * (1.05 * flank + 0.70 * front + 0.9 * back) + p.field(rng, 14, 0.8)

    # Where bone touches, the muscle grows thin: the midline in front (linea alba).
    wall *= 1 - 0.55 * np.exp(-((p.x / 6) ** 2)) * (p.y < 0)

    pixel = p.pixel_mm
    p.paint(body, p.fat + p.field(rng, 3.0, 4.0) + p.field(rng, 0.8, 4.0))
    # Fibrous strands of the subcutaneous fat.
    strands = np.abs(p.field(rng, 3.5, 1.0))
    p.paint(np.clip((0.10 - strands) / 0.10, 0, 1) * 0.28 * body, 0.0)
    skin = np.clip((float(rng.uniform(1.6, 2.6)) - depth) / pixel + 0.5, 0, 1) * body
    p.paint(skin, 15.0)

    muscle = np.clip((deep - fat) / pixel + 0.5, 0, 1) * body
    tone = p.muscle + p.field(rng, 6, 3.0) + p.field(rng, 1.2, 4.0)
    p.paint(muscle, tone - _marbling(p, rng))
    # Fat planes between the three flat muscles of the flank.
    into = (deep - fat) / np.maximum(wall, 1)
    for plane in (0.36, 0.68):
        shown = np.clip(0.4 + p.field(rng, 12, 0.4), 0, 1) * flank**2
        line = np.exp(-(((into - plane) * wall / 0.9) ** 2)) * shown
        p.paint(np.asarray(line * muscle, np.float32), p.fat + 25)

    inner = np.asarray((deep - fat - wall) / pixel + 0.5, np.float32)
    cover = np.clip(inner, 0, 1) * body
    rows, columns = np.nonzero(cover > 0.5)
    top = float((rows.min() - SIZE // 2) * pixel - p.shift[1])
    floor = float((rows.max() - SIZE // 2) * pixel - p.shift[1])
    half_width = float((columns.max() - columns.min()) * pixel / 2)
    # The back muscles and the spine take the lowest part of the cavity: the tip of the spinous
    # process lies just under the fat of the back.
    skin_y = float((np.nonzero(inside[:, SIZE // 2])[0].max() - SIZE // 2) * pixel - p.shift[1])
    spine_y = skin_y - 0.8 * p.fat_mm - float(rng.uniform(62, 68))
    bottom = min(spine_y + 34, floor)
    # A gutter on either side of the spine, where lung, liver, spleen and kidneys lie.
    curve = bottom + 6 - 0.0045 * (np.abs(p.x) - 0.55 * half_width) ** 2
    cover = cover * np.clip((curve - p.y) / pixel + 0.5, 0, 1)
    p.paint(cover, p.fat + 6 + p.field(rng, 4, 6.0) + p.field(rng, 0.9, 5.0))
    # Small vessels and strands of the visceral fat, cut along and across.
    strands = np.abs(p.field(rng, 2.4, 1.0))
    dense = np.clip(0.25 + p.field(rng, 14, 0.25), 0, 0.7)
    p.paint(np.clip((0.12 - strands) / 0.12, 0, 1) * dense * cover, 20.0)
    inset = np.clip(inner - 1.5 / pixel, 0, 1) * body
    inset = inset * np.clip((curve - 1.5 - p.y) / pixel + 0.5, 0, 1)
    cavity = _Cavity(
        np.asarray(cover, np.float32), np.asarray(inset, np.float32),
        half_width, top, bottom, spine_y,
    )  # fmt: skip
    return cavity, inside


def _draw_bone(
    p: _Painter, cover_outer: Float32, cover_inner: Float32, marrow: float | Float32, hard: float
) -> None:
    p.paint(cover_outer, hard)
    p.paint(cover_inner, marrow)


def _draw_ribs(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("ribs")
    count = 9
    for side in (-1, 1):
        start = float(rng.uniform(0.1, 0.25))
        for k in range(count):
            phase = float(rng.uniform(-0.05, 0.05))
            # Ribs descend towards the front: going down the patient, each cut moves forward.
            place = (start + k / count + phase + 0.8 * p.level) * 2.3 - 1.15
            size = rng.uniform(4.6, 7.5), rng.uniform(3.2, 4.6)
            marrow, hard = rng.uniform(120, 280), rng.uniform(520, 900)
            gone = 1.05 - 1.75 * p.level
            if place > gone or place < -1.15:
                continue
            # place is the sine of the angle from the flank: -1 at the back, 1 in front.
            angle = -place * 1.05
            x, y = cavity.at(side * np.cos(angle) * 1.0, -np.sin(angle) * -0.94)
            x += side * 5.5 * np.cos(angle)
            y += 5.0 * np.sin(angle)
            along = float(np.arctan2(np.cos(angle), -side * np.sin(angle)))
            stretch = 1 + 0.9 * float(rng.random())
            outer = p.blob((x, y), (size[0] * stretch, size[1]), along)
            inner = p.blob((x, y), (size[0] * stretch - 1.6, size[1] - 1.5), along)
            _draw_bone(p, outer, inner, marrow, hard)


def _draw_spine(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("muscle")
    y = cavity.spine_y
    tone = p.muscle + p.field(rng, 5, 4.0) + p.field(rng, 1.2, 5.0) - _marbling(p, rng)
    for side in (-1, 1):
        wide, tall = rng.uniform(26, 33), rng.uniform(17, 23)
        erector = p.blob((side * 33, y + 40), (wide, tall), side * 0.15, 2.4, _lobes(rng, 0.03))
        plane = p.blob((side * 33, y + 40), (wide + 2, tall + 2), side * 0.15, 2.4, (), 2.0)
        p.paint(plane * np.clip(0.3 + p.field(rng, 8, 0.4), 0, 0.8), p.fat + 20)
        p.paint(erector, tone)
        inner = p.blob((side * 13, y + 43), (10, 15), 0, 2.0)
        p.paint(inner, tone)
        lumbar = _bump(p.level, 0.42, 1.6)
        quadratus = p.blob((side * 60, y + 20), (19 * lumbar, 9 * lumbar), side * 0.35)
        p.paint(quadratus, tone)
        grow = _bump(p.level, 0.34, 1.9, 0.7)
        psoas = p.blob(
            (side * (27 + 9 * grow), y + 4),
            (16 * grow, 21 * grow),
            -side * 0.2,
            lobes=_lobes(rng, 0.03),
        )
        p.paint(psoas, tone)
        crus = _bump(p.level, -0.5, 0.6, 0.3)
        p.paint(p.blob((side * 17 + 4, y - 16), (4.5 * crus, 13 * crus), side * 0.5), tone)

    rng = p.rng("spine")
    hard = float(rng.uniform(420, 650))
    spongy = float(rng.uniform(140, 290)) + p.field(rng, 0.75, 38.0) + p.field(rng, 4, 18.0)
    wide, tall = rng.uniform(20, 25), rng.uniform(14.5, 18)
    grow = 0.9 + 0.2 * p.level
    wide, tall = wide * grow, tall * grow
    lobes = [(0.02, 0.0), (-0.03, np.pi / 2)]
    # Every fourth centimetre or so a disc instead of a vertebral body.
    position = (p.level * 6.5 + float(rng.random())) % 1.0
    disc = position > 0.78
    for side in (-1, 1):
        _draw_bone(
            p,
            p.blob((side * 15, y + 20), (4.5, 9), 0),
            p.blob((side * 15, y + 20), (2.6, 7), 0),
            spongy, hard + 60,
        )  # fmt: skip
        _draw_bone(
            p,
            p.blob((side * 30, y + 25), (15, 3.6), side * 0.25),
            p.blob((side * 30, y + 25), (13, 2.0), side * 0.25),
            spongy, hard,
        )  # fmt: skip
        _draw_bone(
            p,
            p.blob((side * 9, y + 33), (11, 3.6), side * 0.75),
            p.blob((side * 9, y + 33), (9, 1.7), side * 0.75),
            spongy, hard + 90,
        )  # fmt: skip
    length = 13 + 5 * float(np.sin(40 * p.level))
    _draw_bone(
        p,
        p.blob((0, y + 38 + length / 2), (3.2, length), 0),
        p.blob((0, y + 38 + length / 2), (1.6, length - 2), 0),
        spongy, hard,
    )  # fmt: skip
    body = p.blob((0, y), (wide, tall), 0, 2.5, lobes)
    if disc:
        p.paint(body, 95.0 + p.field(rng, 3, 6.0))
    else:
        inner = p.blob((0, y), (wide - 1.5, tall - 1.5), 0, 2.5, lobes)
        _draw_bone(p, body, inner, spongy, hard)
    p.paint(p.blob((0, y + tall + 8), (11, 8.5), 0, 2.3), 12.0)
    p.paint(p.blob((0, y + tall + 8), (6.5, 5.5)), 38.0)


def _draw_loop(
    p: _Painter,
    rng: np.random.Generator,
    place: tuple[float, float],
    axes: tuple[float, float],
    contents: str,
    limit: Float32,
) -> None:
    """One cut through the gut: wall, contents and, where there is gas, a level."""
    turn = float(rng.uniform(0, np.pi))
    lobes = _lobes(rng, 0.07)
    wall = float(rng.uniform(1.8, 3.2))
    fluid = float(rng.uniform(5, 38))
    oral = float(rng.uniform(180, 420))
    fine, mottle = p.grain, p.mottle
    level = place[1] - axes[1] * float(rng.uniform(-0.4, 0.6))
    outer = p.blob(place, axes, turn, 2, lobes) * limit
    inner = p.blob(place, (axes[0] - wall, axes[1] - wall), turn, 2, lobes) * limit
    p.paint(outer, p.gut + fine)
    if contents == "gas":
        p.paint(inner, fluid + fine)
        above = np.clip((level - p.y) / p.pixel_mm + 0.5, 0, 1)
        p.paint(inner * above, -965.0)
    elif contents == "faeces":
        p.paint(inner, np.clip(25 + 45 * mottle, -120, 120))
        bubbles = np.clip((mottle - 1.1) * 4, 0, 1) * inner
        p.paint(bubbles, -800.0)
    elif contents == "oral":
        p.paint(inner, oral + 6 * fine)
    elif contents == "collapsed":
        p.paint(inner, p.gut - 15 + fine)
    else:
        p.paint(inner, fluid + fine)


def _draw_gut(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("bowel")
    oral = bool(rng.random() < 0.3)
    amount = _bump(p.level, 0.02, 1.9, 0.45) * (1.3 - 0.35 * p.visceral)
    kinds = np.array(["fluid", "collapsed", "gas", "oral"])
    shares = np.array([0.40, 0.38, 0.12, 0.10]) if not oral else np.array([0.18, 0.2, 0.12, 0.5])
    for _ in range(84):
        x, y = rng.uniform(-0.75, 0.85), rng.uniform(-0.9, 0.5)
        axes = rng.uniform(8, 17, 2)
        contents = str(rng.choice(kinds, p=shares))
        phase, rate = rng.uniform(0, 2 * np.pi), rng.uniform(8, 20)
        shown = amount * float(np.clip(0.6 + 0.75 * np.sin(phase + rate * p.level), 0, 1.1))
        stream = np.random.default_rng(int(rng.integers(2**63)))
        if shown > 0.3:
            place = cavity.at(x, y)
            size = (float(axes[0] * shown), float(axes[1] * shown))
            _draw_loop(p, stream, place, size, contents, cavity.inset)

    rng = p.rng("mesentery")
    vessel = np.zeros_like(p.hu)
    for _ in range(70):
        start = cavity.at(float(rng.normal(0.05, 0.36)), float(rng.normal(-0.15, 0.32)))
        length, radius = float(rng.exponential(4.5)) + 0.5, float(rng.uniform(0.4, 1.6))
        p.tube(
            _branches(rng, start, float(rng.uniform(0, 2 * np.pi)), length, radius, 0)[0], vessel
        )
    p.paint(vessel * cavity.inset * 0.9, 0.5 * (p.artery + p.vein))

    rng = p.rng("colon")
    for x, y, first, last in (
        (-0.76, 0.22, 0.45, 1.9),
        (0.80, 0.26, 0.30, 1.9),
        (-0.25, -0.80, 0.42, 0.85),
        (0.35, -0.78, 0.30, 0.80),
        (0.66, -0.45, 0.12, 0.60),
    ):
        wide, tall = rng.uniform(15, 26, 2) * _bump(p.level, first, last)
        contents = str(rng.choice(["gas", "faeces", "collapsed"], p=[0.4, 0.42, 0.18]))
        place = cavity.at(x + float(rng.normal(0, 0.05)), y + float(rng.normal(0, 0.06)))
        stream = np.random.default_rng(int(rng.integers(2**63)))
        if min(wide, tall) > 5:
            _draw_loop(p, stream, place, (float(wide), float(tall)), contents, cavity.inset)


def _draw_stomach(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("stomach")
    extent = _bump(p.level, 0.0, 0.58, 0.2)
    x, y = rng.normal(0.38, 0.06), rng.normal(-0.45, 0.06)
    axes = (
        float(rng.uniform(0.30, 0.46)) * cavity.half_width * extent,
        float(rng.uniform(0.26, 0.42)) * (cavity.bottom - cavity.top) / 2 * extent,
    )
    contents = str(rng.choice(["gas", "fluid", "faeces", "oral"], p=[0.45, 0.25, 0.15, 0.15]))
    stream = np.random.default_rng(int(rng.integers(2**63)))
    if min(axes) > 6:
        _draw_loop(p, stream, cavity.at(x, y), axes, contents, cavity.inset)

    rng = p.rng("pancreas")
    shown = _bump(p.level, 0.28, 0.66)
    lobules = p.field(rng, 2.0, 9.0) + p.field(rng, 1.0, 6.0)
    arc = float(rng.uniform(-6, 10))
    gland = np.zeros_like(p.hu)
    for k in range(7):
        along = k / 6 * 2 - 1
        place = (5 + 58 * along, cavity.spine_y - 45 - 12 * (1 - along**2) - arc * along)
        lobule = (13.0 * shown, float(rng.uniform(8, 12)) * shown)
        gland = np.maximum(gland, p.blob(place, lobule))
    p.paint(gland * cavity.inset, p.pancreas + lobules)


def _draw_spleen(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("spleen")
    extent = _bump(p.level, -0.1, float(rng.uniform(0.46, 0.68)), 0.3)
    centre = cavity.at(float(rng.normal(0.76, 0.04)), float(rng.normal(0.22, 0.08)))
    axes = (
        float(rng.uniform(0.26, 0.40)) * cavity.half_width * extent,
        float(rng.uniform(0.40, 0.62)) * (cavity.bottom - cavity.top) / 2 * extent,
    )
    organ = p.blob(centre, axes, -0.25, 2.2, _lobes(rng, 0.04)) * cavity.inset
    tone = p.spleen + p.field(rng, 6, 2.5) + p.field(rng, 1.2, 3.5)
    if p.phase == "arterial":  # the moiré of a spleen in the arterial phase
        tone = tone + p.field(rng, 3, 14.0)
    p.paint(organ, tone)


def _draw_liver(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("liver")
    stop = float(rng.uniform(0.72, 0.95))
    extent = _bump(p.level, -0.25, stop, 0.75)
    half = (cavity.bottom - cavity.top) / 2
    right = p.blob(
        cavity.at(-0.62, -0.02 + float(rng.normal(0, 0.04)) + 0.12 * p.level),
        (0.62 * cavity.half_width * extent, 1.02 * half * extent ** 0.6),
        0.12, 2.3, _lobes(rng, 0.035),
    )  # fmt: skip
    left_extent = _bump(p.level, -0.3, float(rng.uniform(0.38, 0.55)), 0.3)
    left = p.blob(
        cavity.at(-0.08 + float(rng.normal(0, 0.05)), -0.55),
        (
            0.52 * cavity.half_width * left_extent,
            float(rng.uniform(0.30, 0.44)) * half * left_extent,
        ),
        float(rng.normal(-0.1, 0.1)), 2.2, _lobes(rng, 0.04),
    )  # fmt: skip
    organ = np.maximum(right, left) * cavity.inset
    steatosis = float(rng.random() < 0.15) * float(rng.uniform(20, 50))
    tone = p.liver - steatosis + p.field(rng, 12, 3.0) + p.field(rng, 3, 2.5)
    p.paint(organ, tone + p.field(rng, 1.2, 3.5))

    rng = p.rng("hepatic vessels")
    vessels = np.zeros_like(p.hu)
    sway = 25 * (p.level - 0.3)
    hilum = (-0.12 * cavity.half_width + sway, cavity.spine_y - 52)
    for heading in (np.pi, np.pi * 1.22, np.pi * 0.82, np.pi * 1.45):
        start = (hilum[0] + float(rng.normal(0, 6)), hilum[1] + float(rng.normal(0, 8)))
        length = float(rng.uniform(26, 46))
        heading = float(heading + rng.normal(0, 0.15))
        for segment in _branches(rng, start, heading, length, float(rng.uniform(1.8, 3.4)), 3):
            p.tube(segment, vessels)
    for _ in range(45):  # branches cut across
        place = cavity.at(float(rng.uniform(-1, 0)), float(rng.uniform(-0.9, 0.8)))
        heading, length = float(rng.uniform(0, 6.3)), float(rng.uniform(1, 9))
        p.tube(_branches(rng, place, heading, length, float(rng.uniform(0.5, 1.6)), 0)[0], vessels)
    # Partial volume: a slice is thicker than most of these, and they run in and out of it.
    seen = np.clip(0.30 + p.field(rng, 9, 0.3), 0.04, 0.8)
    p.paint(vessels * organ * seen, p.vein + p.field(rng, 2, 3.0))

    rng = p.rng("lesions")
    for _ in range(int(rng.poisson(0.9))):
        place = cavity.at(float(rng.uniform(-0.9, -0.1)), float(rng.uniform(-0.7, 0.6)))
        radius = float(rng.uniform(2.5, 13))
        value = float(rng.choice([8.0, p.liver - 35, p.liver + 35], p=[0.45, 0.4, 0.15]))
        depth = _bump(p.level, float(rng.uniform(-0.2, 0.5)), float(rng.uniform(0.5, 1.0)), 0.1)
        cover = p.blob(place, (radius * depth, radius * depth), 0, 2, _lobes(rng, 0.06), 1.6)
        p.paint(cover * organ, value)

    rng = p.rng("gallbladder")
    shown = _bump(p.level, 0.36, float(rng.uniform(0.5, 0.75))) * float(rng.random() < 0.8)
    place = cavity.at(float(rng.normal(-0.34, 0.05)), float(rng.normal(-0.38, 0.06)))
    axes = (float(rng.uniform(11, 19)) * shown, float(rng.uniform(14, 24)) * shown)
    p.paint(p.blob(place, axes, 0.5) * cavity.inset, p.gut)
    p.paint(p.blob(place, (axes[0] - 1.5, axes[1] - 1.5), 0.5) * cavity.inset, 8.0)


def _draw_kidneys(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("kidneys")
    for side in (-1, 1):
        start = (0.32 if side < 0 else 0.26) + float(rng.normal(0, 0.03))
        size = _bump(p.level, start, start + float(rng.uniform(0.48, 0.58)), 0.2)
        x = side * (62 + float(rng.normal(0, 4)) + 5 * p.visceral)
        y = cavity.spine_y - 4 + float(rng.normal(0, 4))
        axes = np.array([float(rng.uniform(25, 31)), float(rng.uniform(22, 27))])
        turn = side * 0.7
        lobes = [(0.0, 0.0), (0.03, 0.3)]
        texture = p.field(rng, 1.3, 4.0)
        pyramids = rng.uniform(0, 2 * np.pi)
        cyst = (float(rng.random() < 0.25), rng.uniform(-1, 1, 2), float(rng.uniform(4, 14)))
        stone = float(rng.random() < 0.08)
        if size < 0.1:
            continue
        around = p.blob((x, y), tuple(size * axes + 1 + 4 * p.visceral), turn, 2, lobes, 4.0)
        p.paint(around * cavity.cover, p.fat + p.field(rng, 4, 4.0))
        capsule = p.blob((x, y), tuple(size * axes), turn, 2, lobes)
        p.paint(capsule, p.cortex + texture)
        theta = np.arctan2(p.y - y, p.x - x)
        medulla = p.blob((x, y), tuple(size * axes - 7), turn, 2, lobes, 2.0)
        spokes = np.clip(np.cos(6 * theta + pyramids) + 0.5 + p.field(rng, 5, 0.6), 0, 1) * 0.75
        p.paint(medulla * spokes, p.medulla + texture)
        inward = (x - side * 0.42 * axes[0] * size, y - 4 * size)
        open_ = _bump(p.level, start + 0.12, start + 0.4)
        width = size * open_
        sinus = p.blob(inward, (14 * width, 8.5 * width), -turn * 0.4, lobes=[(0.12, 1.0)])
        p.paint(sinus, p.fat + 15)
        pelvis = p.blob(inward, (7 * size * open_, 3.2 * size * open_), -turn * 0.4)
        p.paint(pelvis, 300.0 if p.phase == "delayed" and stone else 12.0)
        # Renal vein and artery towards the great vessels.
        path = np.linspace([inward[0], inward[1]], [side * 15.0, cavity.spine_y - 30], 40)
        path[:, 1] += 3 * np.sin(np.linspace(0, 3, 40))
        stalk = np.zeros_like(p.hu)
        p.tube((path, np.linspace(3.2, 4.2, 40) * open_ * size), stalk)
        p.paint(stalk * open_, 0.5 * (p.vein + p.artery))
        if cyst[0]:
            place = (x + float(cyst[1][0]) * axes[0], y + float(cyst[1][1]) * axes[1])
            p.paint(p.blob(place, (cyst[2] * size, cyst[2] * size)) * cavity.cover, 6.0)
    # Adrenals: thin limbs in the fat above the kidneys.
    shown = _bump(p.level, 0.14, 0.42)
    for side in (-1, 1):
        for turn in (0.5, -0.5):
            place = (side * 36, cavity.spine_y - 20 + 8 * turn)
            p.paint(p.blob(place, (9 * shown, 1.9 * shown), side * turn) * cavity.cover, p.gut)


def _draw_vessels(p: _Painter, cavity: _Cavity) -> None:
    rng = p.rng("vessels")
    y = cavity.spine_y
    radius = float(rng.uniform(8.5, 12.5)) * (1.08 - 0.2 * p.level)
    place = (9 + float(rng.normal(0, 2.5)), y - 27 + float(rng.normal(0, 1.5)))
    texture = p.field(rng, 1.3, 3.5)
    p.paint(p.blob(place, (radius + 1.6, radius + 1.6), 0, 2, (), 1.0), 55.0)
    p.paint(p.blob(place, (radius, radius)), p.artery + texture)
    for _ in range(int(rng.poisson(0.8))):
        turn = float(rng.uniform(0, 2 * np.pi))
        plaque = (place[0] + radius * np.cos(turn), place[1] + radius * np.sin(turn))
        p.paint(p.blob(plaque, (rng.uniform(1, 3), rng.uniform(1, 1.8)), turn + np.pi / 2), 550.0)
    cava = (-19 + float(rng.normal(0, 2)), y - 25 + float(rng.normal(0, 2)))
    axes = (float(rng.uniform(9.5, 14)), float(rng.uniform(7, 11)))
    filling = 0.75 * p.vein + 0.25 * p.muscle
    p.paint(p.blob(cava, axes, 0.2, 2, _lobes(rng, 0.03)), filling + texture)
    for offset, wide, tone, start, stop in (
        ((3.0, -50.0), 4.0, p.artery, 0.22, 1.2),
        ((-8.0, -52.0), 6.0, p.vein, 0.34, 1.2),
        ((-24.0, -52.0), 7.5, p.vein, 0.12, 0.42),
    ):
        shown = _bump(p.level, start, stop)
        spot = (offset[0] + float(rng.normal(0, 3)), y + offset[1] + float(rng.normal(0, 3)))
        rim = (wide + 1.5) * shown
        p.paint(0.6 * p.blob(spot, (rim, rim), 0, 2, (), 2), p.fat)
        p.paint(p.blob(spot, (wide * shown, wide * shown)), tone + texture)


def _draw_lung(p: _Painter, cavity: _Cavity) -> None:
    """Lung bases behind and beside the liver in the highest slices."""
    depth = float(np.clip((0.17 - p.level) / 0.17, 0, 1))
    rng = p.rng("lung")
    texture = p.field(rng, 1.5, 22.0) + p.field(rng, 8, 20.0)
    if depth == 0:
        return
    middle = (cavity.top + cavity.bottom) / 2
    r = np.hypot(p.x / cavity.half_width, (p.y - middle) / ((cavity.bottom - cavity.top) / 2))
    behind = np.clip((p.y - middle) / (cavity.bottom - middle) + 0.25, 0, 1.0)
    edge = 1.0 - 0.42 * depth * behind
    crescent = np.clip((r - edge) * 60, 0, 1) * (np.abs(p.x) > 24) * (behind > 0) * cavity.inset
    p.paint(np.asarray(crescent, np.float32), -850 + texture)
    vessels = np.zeros_like(p.hu)
    for _ in range(40):
        place = cavity.at(float(rng.uniform(-0.95, 0.95)), float(rng.uniform(0.1, 1.0)))
        heading, radius = float(rng.uniform(0, 6.3)), float(rng.uniform(0.5, 1.3))
        p.tube(_branches(rng, place, heading, 4.0, radius, 0)[0], vessels)
    p.paint(np.asarray(vessels * crescent * 0.8, np.float32), 40.0)


def _draw_table(p: _Painter, body: Mask) -> None:
    rng = p.rng("table")
    # The body lies on the mattress; the table top is a thin curved shell under it.
    rows = np.nonzero(body.any(axis=1))[0]
    base = (float(rows.max()) - SIZE // 2) * p.pixel_mm + float(rng.uniform(10, 20))
    y = (np.arange(SIZE, dtype=np.float32)[:, None] - SIZE // 2) * np.float32(p.pixel_mm)
    x = (np.arange(SIZE, dtype=np.float32)[None, :] - SIZE // 2) * np.float32(p.pixel_mm)
    bend, half, thick = rng.uniform(0.0008, 0.0016), rng.uniform(90, 140), rng.uniform(2.0, 3.0)
    top = base - np.float32(bend) * x * x
    shell = np.clip((thick / 2 - np.abs(y - top)) / p.pixel_mm + 0.5, 0, 1) * (np.abs(x) < half)
    foam = (y > top) & (y < top + 22) & (np.abs(x) < half - 6) & ~body
    p.paint(np.asarray(foam * 1.0, np.float32), -960.0)
    p.paint(np.asarray(shell * ~body, np.float32), float(rng.uniform(-150, 250)))


def draw_phantom(seed: int, anatomy: int, level: float | None = None) -> Phantom:
    """Draw one abdomen-like slice.

    Args:
        seed: seed of the whole simulation, not negative.
        anatomy: number of the patient; every patient has streams of its own.
        level: place along the patient, 0 liver dome ... 1 lower abdomen; drawn where not given.

    Returns:
        The slice; the same arguments give the same bytes.
    """
    if level is None:
        key = np.random.SeedSequence(seed, spawn_key=(anatomy, len(_STREAMS)))
        level = float(np.random.default_rng(key).uniform(0.02, 1.0))
    p = _Painter(seed, anatomy, level)
    cavity, body = _draw_wall(p)
    _draw_gut(p, cavity)
    _draw_stomach(p, cavity)
    _draw_spleen(p, cavity)
    _draw_liver(p, cavity)
    _draw_kidneys(p, cavity)
    _draw_lung(p, cavity)
    _draw_ribs(p, cavity)
    _draw_spine(p, cavity)
    _draw_vessels(p, cavity)
    _draw_table(p, body)
    # The scanner's own blur: focal spot, detector cell and slice thickness.
    hu = ndi.gaussian_filter(p.hu, 0.55 / p.pixel_mm)
    hu = np.asarray(hu, np.float32)
    hu[outside_circle()] = AIR
    return Phantom(hu, hu, p.pixel_mm, even_tissue(hu, body), body, p.phase, level)
