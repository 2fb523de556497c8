"""Skin, subcutaneous fat and the muscle wall."""

from __future__ import annotations

import numpy as np
import scipy.ndimage as ndi

from clinreadnet.simulator.clean import Float32, Mask
from clinreadnet.simulator.phantom.painter import Cavity, Painter, random_lobes
from clinreadnet.spec import SIZE


def marbling(p: Painter, rng: np.random.Generator) -> Float32:
    """Fat between the bundles of a muscle: HU to take off, in thin wavy lines."""
    lines = np.clip(1 - np.abs(p.field(rng, 2.6, 1.0)) / 0.24, 0, 1)
    where = np.clip(0.15 + p.field(rng, 9, 0.5) + 0.35 * p.visceral, 0, 1)
    return np.asarray(lines * where * 110, np.float32)


def draw_wall(p: Painter) -> tuple[Cavity, Mask]:
    """Skin, subcutaneous fat, muscle wall; returns the cavity they enclose and the body."""
    rng = p.rng("wall")
    taper = 1 - 0.05 * p.level + 0.04 * float(np.sin(3 * p.level + rng.uniform(0, 3)))
    width, height = p.half_width * taper, p.half_depth * taper
    power = float(rng.uniform(2.0, 2.35))
    lobes = random_lobes(rng, 0.012)
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
    p.paint(muscle, tone - marbling(p, rng))
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
    cavity = Cavity(
        np.asarray(cover, np.float32), np.asarray(inset, np.float32),
        half_width, top, bottom, spine_y,
    )  # fmt: skip
    return cavity, inside
