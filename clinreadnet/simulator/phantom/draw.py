"""Abdomen-like phantoms: one axial slice in Hounsfield units, drawn from a seed.

Organs are painted back to front in millimetres on a warped grid, each from its own random stream,
so that the slices of one patient (same seed, growing ``level``) change slowly and nothing one organ
draws moves another. The image is oriented as a radiologist expects: supine, anterior at the top,
the patient's right on the left.

The aim is the *statistics* a quality score looks at (edges of many contrasts, textured organs,
vessels, gas, bone, fat strands), not anatomy one could diagnose from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from clinreadnet.simulator.clean import AIR, CleanSlice, Mask, even_tissue, outside_circle
from clinreadnet.simulator.phantom.bones import draw_back_muscles, draw_ribs, draw_spine
from clinreadnet.simulator.phantom.organs import (
    draw_adrenals,
    draw_colon,
    draw_gallbladder,
    draw_great_vessels,
    draw_hepatic_vessels,
    draw_kidneys,
    draw_lesions,
    draw_liver,
    draw_lungs,
    draw_mesentery,
    draw_pancreas,
    draw_small_bowel,
    draw_spleen,
    draw_stomach,
)
from clinreadnet.simulator.phantom.painter import STREAMS, Painter
from clinreadnet.simulator.phantom.wall import draw_wall
from clinreadnet.spec import SIZE


@dataclass(frozen=True)
class Phantom(CleanSlice):
    """One drawn slice.

    Attributes:
        phase: contrast phase: native, arterial, portal or delayed.
        level: place along the patient, 0 liver dome ... 1 lower abdomen.
    """

    phase: str
    level: float


def draw_table(p: Painter, body: Mask) -> None:
    """Table top and mattress."""
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
        key = np.random.SeedSequence(seed, spawn_key=(anatomy, len(STREAMS)))
        level = float(np.random.default_rng(key).uniform(0.02, 1.0))
    p = Painter(seed, anatomy, level)
    cavity, body = draw_wall(p)
    draw_small_bowel(p, cavity)
    draw_mesentery(p, cavity)
    draw_colon(p, cavity)
    draw_stomach(p, cavity)
    draw_pancreas(p, cavity)
    draw_spleen(p, cavity)
    liver = draw_liver(p, cavity)
    draw_hepatic_vessels(p, cavity, liver)
    draw_lesions(p, cavity, liver)
    draw_gallbladder(p, cavity)
    draw_kidneys(p, cavity)
    draw_adrenals(p, cavity)
    draw_lungs(p, cavity)
    draw_ribs(p, cavity)
    draw_back_muscles(p, cavity)
    draw_spine(p, cavity)
    draw_great_vessels(p, cavity)
    draw_table(p, body)
    # The scanner's own blur: focal spot, detector cell and slice thickness.
    hu = ndi.gaussian_filter(p.hu, 0.55 / p.pixel_mm)
    hu = np.asarray(hu, np.float32)
    hu[outside_circle()] = AIR
    return Phantom(hu, hu, p.pixel_mm, even_tissue(hu, body), body, p.phase, level)
