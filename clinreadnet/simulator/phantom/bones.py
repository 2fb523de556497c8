"""Ribs, spine and the muscles beside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clinreadnet.simulator.clean import Float32, Mask
from clinreadnet.simulator.phantom.painter import Cavity, Painter, extent_at, random_lobes
from clinreadnet.simulator.phantom.wall import marbling

Axes = tuple[float, float]


def _draw_bone(
    p: Painter, cover_outer: Float32, cover_inner: Float32, marrow: float | Float32, hard: float
) -> None:
    """Compact bone around marrow, HU."""
    p.paint(cover_outer, hard)
    p.paint(cover_inner, marrow)


def draw_ribs(p: Painter, cavity: Cavity) -> None:
    """Nine ribs a side, cut obliquely."""
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


def draw_back_muscles(p: Painter, cavity: Cavity) -> None:
    """Erector spinae, quadratus lumborum, psoas and the crura of the diaphragm."""
    rng = p.rng("muscle")
    y = cavity.spine_y
    tone = p.muscle + p.field(rng, 5, 4.0) + p.field(rng, 1.2, 5.0) - marbling(p, rng)
    for side in (-1, 1):
        wide, tall = rng.uniform(26, 33), rng.uniform(17, 23)
        erector = p.blob(
            (side * 33, y + 40), (wide, tall), side * 0.15, 2.4, random_lobes(rng, 0.03)
        )
        plane = p.blob((side * 33, y + 40), (wide + 2, tall + 2), side * 0.15, 2.4, (), 2.0)
        p.paint(plane * np.clip(0.3 + p.field(rng, 8, 0.4), 0, 0.8), p.fat + 20)
        p.paint(erector, tone)
        inner = p.blob((side * 13, y + 43), (10, 15), 0, 2.0)
        p.paint(inner, tone)
        lumbar = extent_at(p.level, 0.42, 1.6)
        quadratus = p.blob((side * 60, y + 20), (19 * lumbar, 9 * lumbar), side * 0.35)
        p.paint(quadratus, tone)
        grow = extent_at(p.level, 0.34, 1.9, 0.7)
        psoas = p.blob(
            (side * (27 + 9 * grow), y + 4),
            (16 * grow, 21 * grow),
            -side * 0.2,
            lobes=random_lobes(rng, 0.03),
        )
        p.paint(psoas, tone)
        crus = extent_at(p.level, -0.5, 0.6, 0.3)
        p.paint(p.blob((side * 17 + 4, y - 16), (4.5 * crus, 13 * crus), side * 0.5), tone)


def draw_spine(p: Painter, cavity: Cavity) -> None:
    """A vertebra, or now and then a disc."""
    rng = p.rng("spine")
    y = cavity.spine_y
    hard = float(rng.uniform(420, 650))
    spongy = float(rng.uniform(140, 290)) + p.field(rng, 0.75, 38.0) + p.field(rng, 4, 18.0)
    wide, tall = rng.uniform(20, 25), rng.uniform(14.5, 18)
    grow = 0.9 + 0.2 * p.level
    wide, tall = wide * grow, tall * grow
    lobes = [(0.02, 0.0), (-0.03, np.pi / 2)]
    # Every fourth centimetre or so a disc instead of a vertebral body.
    position = (p.level * 6.5 + float(rng.random())) % 1.0
    disc = position > 0.78

    def arch(x: float, y: float, outer: Axes, inner: Axes, turn: float, hard: float) -> None:
        """Draw a part of the arch: axes in millimetres of the bone and of its marrow."""
        _draw_bone(p, p.blob((x, y), outer, turn), p.blob((x, y), inner, turn), spongy, hard)

    for side in (-1, 1):
        arch(side * 15, y + 20, (4.5, 9), (2.6, 7), 0, hard + 60)
        arch(side * 30, y + 25, (15, 3.6), (13, 2.0), side * 0.25, hard)
        arch(side * 9, y + 33, (11, 3.6), (9, 1.7), side * 0.75, hard + 90)
    length = 13 + 5 * float(np.sin(40 * p.level))
    arch(0, y + 38 + length / 2, (3.2, length), (1.6, length - 2), 0, hard)
    body = p.blob((0, y), (wide, tall), 0, 2.5, lobes)
    if disc:
        p.paint(body, 95.0 + p.field(rng, 3, 6.0))
    else:
        inner = p.blob((0, y), (wide - 1.5, tall - 1.5), 0, 2.5, lobes)
        _draw_bone(p, body, inner, spongy, hard)
    p.paint(p.blob((0, y + tall + 8), (11, 8.5), 0, 2.3), 12.0)
    p.paint(p.blob((0, y + tall + 8), (6.5, 5.5)), 38.0)


def draw_pelvis(p: Painter, cavity: Cavity, body: Mask) -> None:
    """Iliac wings, sacrum, the muscles on them and the bladder, in the lowest slices."""
    rng = p.rng("pelvis")
    shown = float(np.clip((p.level - 0.92) / 0.2, 0, 1))
    if shown == 0:
        return
    y, reach = cavity.spine_y, cavity.half_width
    tone = p.muscle + p.field(rng, 5, 4.0) + p.field(rng, 1.2, 5.0) - marbling(p, rng)
    inside = np.asarray(body, np.float32)
    hard, marrow = float(rng.uniform(380, 700)), float(rng.uniform(60, 220))
    spongy = marrow + p.field(rng, 0.9, 40.0)
    for side in (-1, 1):
        gluteus = p.blob((side * 78, y + 58), (62 * shown, 30 * shown), side * 0.35, 2.2)
        p.paint(gluteus * inside, tone)
        iliacus = p.blob((side * 0.62 * reach, y - 2), (34 * shown, 24 * shown), side * 0.6, 2.0)
        p.paint(iliacus * cavity.cover, tone)
        wing = _iliac_path(side, y, reach, float(rng.uniform(0.75, 0.9)), shown)
        outer, inner = np.zeros_like(p.hu), np.zeros_like(p.hu)
        radii = np.interp(np.linspace(0, 1, len(wing)), (0, 0.3, 1), (9, 5, 7.5)) * shown
        p.tube((wing, radii), outer)
        p.tube((wing, np.maximum(radii - 2.2, 0.1)), inner)
        _draw_bone(p, outer * inside, inner * inside, spongy, hard)
    wide = 48 * shown
    sacrum = p.blob((0, y + 12), (wide, 24), 0, 2.6, random_lobes(rng, 0.04))
    core = p.blob((0, y + 12), (wide - 2.5, 21), 0, 2.6)
    _draw_bone(p, sacrum * inside, core * inside, spongy, hard)
    if p.level > 1.22:
        size = float(rng.uniform(22, 46)) * float(np.clip((p.level - 1.22) / 0.1, 0.2, 1))
        bladder = p.blob(cavity.at(0.0, -0.05), (1.15 * size, 0.85 * size), 0, 2.3)
        p.paint(bladder * cavity.cover, p.gut)
        p.paint(p.blob(cavity.at(0.0, -0.05), (1.15 * size - 3, 0.85 * size - 3), 0, 2.3), 8.0)


def _iliac_path(
    side: int, y: float, reach: float, width: float, shown: float
) -> NDArray[np.float64]:
    """Points ``[n, 2]`` from the sacroiliac joint to the front of an iliac wing, millimetres."""
    t = np.linspace(0, 1, 160)[:, None]
    ends = np.array([[side * 50.0, y + 30], [side * width * reach, y - 38 * shown]])
    bend = np.array([[side * 0.62 * reach, y + 42]])
    return np.asarray((1 - t) ** 2 * ends[:1] + 2 * t * (1 - t) * bend + t**2 * ends[1:])
