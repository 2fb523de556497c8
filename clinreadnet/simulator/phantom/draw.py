"""Abdomen-like phantoms: one axial slice in Hounsfield units, drawn from a seed.

Organs are painted back to front in millimetres on a warped grid, each from its own random stream.
Slices of a patient (same seed, increasing ``level``) therefore change slowly, and organs do not
affect each other. The orientation is that of radiology: supine, anterior at the top, the patient's
right on the left.

The aim is realistic *statistics* for a quality score (edges of many contrasts, textured organs,
vessels, gas, bone, fat strands), not diagnostic anatomy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from clinreadnet.simulator.clean import AIR, CleanSlice, even_tissue, outside_circle
from clinreadnet.simulator.phantom.bones import (
    draw_back_muscles,
    draw_pelvis,
    draw_ribs,
    draw_spine,
)
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
from clinreadnet.simulator.phantom.outside import draw_arms, draw_table
from clinreadnet.simulator.phantom.painter import STREAMS, Painter
from clinreadnet.simulator.phantom.wall import draw_wall


@dataclass(frozen=True)
class Phantom(CleanSlice):
    """One drawn slice.

    Attributes:
        phase: contrast phase: native, arterial, portal or delayed.
        level: position along the patient, 0 liver dome ... 1 lower abdomen; chest and pelvis
            beyond.
    """

    phase: str
    level: float


def draw_phantom(seed: int, anatomy: int, level: float | None = None) -> Phantom:
    """Draw one abdomen-like slice.

    Args:
        seed: seed of the whole simulation, not negative.
        anatomy: number of the patient. Each patient has its own random streams.
        level: position along the patient: -0.25 heart, 0 liver dome, 1 lower abdomen, 1.45 pelvis;
            default random.

    Returns:
        The slice. It depends only on the arguments.
    """
    if level is None:
        key = np.random.SeedSequence(seed, spawn_key=(anatomy, STREAMS["level"]))
        level = _draw_level(np.random.default_rng(key))
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
    draw_pelvis(p, cavity, body)
    draw_great_vessels(p, cavity)
    draw_arms(p, body)
    draw_table(p, body)
    # Blur of the scanner: focal spot, detector cell and slice thickness.
    hu = ndi.gaussian_filter(p.hu, math.hypot(0.55, p.thickness_mm) / p.pixel_mm)
    hu = np.asarray(hu, np.float32)
    hu[outside_circle()] = AIR
    return Phantom(hu, hu, p.pixel_mm, even_tissue(hu, body), body, p.phase, level)


def _draw_level(rng: np.random.Generator) -> float:
    """Draw a position: mostly abdomen, sometimes the lung bases or the pelvis."""
    kind = rng.random()
    if kind < 0.10:
        return float(rng.uniform(-0.22, 0.02))
    if kind < 0.26:
        return float(rng.uniform(1.0, 1.42))
    return float(rng.uniform(0.02, 1.0))
