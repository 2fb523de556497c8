"""Objects outside the body: arms and the table. Scores must not depend on them."""

from __future__ import annotations

import numpy as np

from clinreadnet.simulator.clean import Float32, Mask
from clinreadnet.simulator.phantom.painter import Painter, random_lobes
from clinreadnet.spec import SIZE

_ARMS_SHARE = 0.25
"""Share of patients who cannot raise their arms."""


def draw_arms(p: Painter, body: Mask) -> None:
    """Upper arms or forearms beside the body, often cut by the field of view."""
    rng = p.rng("arms")
    if rng.random() > _ARMS_SHARE:
        return
    free = np.asarray(~body, np.float32)
    forearm = bool(rng.random() < 0.5)
    for side in (-1, 1):
        wide, tall = rng.uniform(30, 50), rng.uniform(28, 46)
        gap = float(rng.uniform(-4, 25))
        place = (side * (p.half_width + wide + gap), float(rng.uniform(-0.35, 0.55)) * p.half_depth)
        turn, outline = float(rng.uniform(0, np.pi)), random_lobes(rng, 0.03)
        skin, fat_mm = 1.8, float(rng.uniform(2, 5)) + 0.25 * p.fat_mm
        tone = p.muscle + p.field(rng, 3, 6.0)
        bones = [(0.0, 0.0, 11.0)] if not forearm else [(-13.0, 3.0, 7.0), (12.0, -2.0, 7.5)]
        if rng.random() < 0.12:
            continue
        p.paint(p.blob(place, (wide, tall), turn, 2, outline) * free, 15.0)
        p.paint(p.blob(place, (wide - skin, tall - skin), turn, 2, outline) * free, p.fat)
        inner = (wide - skin - fat_mm, tall - skin - fat_mm)
        p.paint(p.blob(place, inner, turn, 2, outline) * free, tone)
        for dx, dy, radius in bones:
            at = (place[0] + dx, place[1] + dy)
            p.paint(p.blob(at, (radius, radius)) * free, 1100.0)
            p.paint(p.blob(at, (radius - 3.5, radius - 3.5)) * free, 30.0)


def draw_table(p: Painter, body: Mask) -> None:
    """A table top, its mattress, and objects on the patient."""
    rng = p.rng("table")
    rows = np.nonzero(body.any(axis=1))[0]
    base = (float(rows.max()) - SIZE // 2) * p.pixel_mm + float(rng.uniform(6, 22))
    y = (np.arange(SIZE, dtype=np.float32)[:, None] - SIZE // 2) * np.float32(p.pixel_mm)
    x = (np.arange(SIZE, dtype=np.float32)[None, :] - SIZE // 2) * np.float32(p.pixel_mm)
    kind = str(rng.choice(["shell", "crescent", "trapezoid", "none"], p=[0.4, 0.3, 0.2, 0.1]))
    bend, half, thick = rng.uniform(0.0008, 0.0016), rng.uniform(90, 140), rng.uniform(1.5, 3.0)
    density = float(rng.uniform(-250, 250))
    free = np.asarray(~body, np.float32)

    def sheet(top: Float32, reach: float) -> None:
        cover = np.clip((thick / 2 - np.abs(y - top)) / p.pixel_mm + 0.5, 0, 1) * (
            np.abs(x) < reach
        )
        p.paint(np.asarray(cover * free, np.float32), density)

    if kind == "shell":
        top = np.asarray(base - bend * x * x, np.float32)
        foam = (y > top) & (y < top + 22) & (np.abs(x) < half - 6)
        p.paint(np.asarray(foam * free, np.float32), -960.0)
        sheet(top, float(half))
    elif kind == "crescent":
        reach, depth = float(rng.uniform(170, 215)), float(rng.uniform(25, 60))
        upper = np.asarray(base + 12 - 60 * (x / reach) ** 2, np.float32)
        sheet(upper, reach)
        sheet(np.asarray(upper + depth * (1 - (x / reach) ** 2), np.float32), reach)
    elif kind == "trapezoid":
        flat, reach = float(rng.uniform(80, 120)), float(rng.uniform(190, 240))
        rise = np.maximum(np.abs(x) - flat, 0) / (reach - flat)
        sheet(np.asarray(base + 30 - 55 * rise, np.float32), reach)
        sheet(np.asarray(base + 4 + 0 * x, np.float32), flat)
    if rng.random() < 0.3:  # leads, tubes, a cushion's seam
        for _ in range(int(rng.integers(1, 6))):
            at = (
                float(rng.uniform(-1.1, 1.1)) * p.half_width,
                -p.half_depth - float(rng.uniform(0, 15)),
            )
            radius = float(rng.uniform(0.8, 4))
            p.paint(p.blob(at, (radius, radius)) * free, float(rng.uniform(0, 2500)))
