"""Contents of the abdominal cavity: gut, organs, vessels and the bases of the lungs."""

from __future__ import annotations

import numpy as np

from clinreadnet.simulator.clean import Float32
from clinreadnet.simulator.phantom.painter import Cavity, Painter, branches, extent_at, random_lobes


def _draw_loop(
    p: Painter,
    rng: np.random.Generator,
    place: tuple[float, float],
    axes: tuple[float, float],
    contents: str,
    limit: Float32,
) -> None:
    """One cut through the gut: wall, contents and, where there is gas, a level."""
    turn = float(rng.uniform(0, np.pi))
    lobes = random_lobes(rng, 0.07)
    wall = float(rng.uniform(1.8, 3.2))
    fluid = float(rng.uniform(5, 38))
    oral = float(rng.uniform(180, 420))
    fine, mottle = p.grain, p.mottle
    level = place[1] - axes[1] * float(rng.uniform(-0.4, 0.6))
    outer = p.blob(place, axes, turn, 2, lobes) * limit
    inner = p.blob(place, (axes[0] - wall, axes[1] - wall), turn, 2, lobes) * limit
    p.paint(outer, p.gut + fine)
    if contents == "faeces":
        p.paint(inner, np.clip(25 + 45 * mottle, -120, 120))
        bubbles = np.clip((mottle - 1.1) * 4, 0, 1) * inner
        p.paint(bubbles, -800.0)
    elif contents == "oral":
        p.paint(inner, oral + 6 * fine)
    elif contents == "collapsed":
        p.paint(inner, p.gut - 15 + fine)
    else:
        p.paint(inner, fluid + fine)
    if contents == "gas":  # above the fluid
        above = np.clip((level - p.y) / p.pixel_mm + 0.5, 0, 1)
        p.paint(inner * above, -965.0)


def draw_small_bowel(p: Painter, cavity: Cavity) -> None:
    """Loops of the small bowel."""
    rng = p.rng("bowel")
    oral = bool(rng.random() < 0.3)
    amount = extent_at(p.level, 0.02, 1.9, 0.45) * (1.3 - 0.35 * p.visceral)
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


def draw_mesentery(p: Painter, cavity: Cavity) -> None:
    """Vessels of the mesentery, cut along and across."""
    rng = p.rng("mesentery")
    vessel = np.zeros_like(p.hu)
    for _ in range(70):
        start = cavity.at(float(rng.normal(0.05, 0.36)), float(rng.normal(-0.15, 0.32)))
        length, radius = float(rng.exponential(4.5)) + 0.5, float(rng.uniform(0.4, 1.6))
        p.tube(branches(rng, start, float(rng.uniform(0, 2 * np.pi)), length, radius, 0)[0], vessel)
    p.paint(vessel * cavity.inset * 0.9, 0.5 * (p.artery + p.vein))


def draw_colon(p: Painter, cavity: Cavity) -> None:
    """Ascending, descending and transverse colon, and the flexure under the spleen."""
    rng = p.rng("colon")
    for x, y, first, last in (
        (-0.76, 0.22, 0.45, 1.9),
        (0.80, 0.26, 0.30, 1.9),
        (-0.25, -0.80, 0.42, 0.85),
        (0.35, -0.78, 0.30, 0.80),
        (0.66, -0.45, 0.12, 0.60),
    ):
        wide, tall = rng.uniform(15, 26, 2) * extent_at(p.level, first, last)
        contents = str(rng.choice(["gas", "faeces", "collapsed"], p=[0.4, 0.42, 0.18]))
        place = cavity.at(x + float(rng.normal(0, 0.05)), y + float(rng.normal(0, 0.06)))
        stream = np.random.default_rng(int(rng.integers(2**63)))
        if min(wide, tall) > 5:
            _draw_loop(p, stream, place, (float(wide), float(tall)), contents, cavity.inset)


def draw_stomach(p: Painter, cavity: Cavity) -> None:
    """One loop with its contents."""
    rng = p.rng("stomach")
    extent = extent_at(p.level, 0.0, 0.58, 0.2)
    x, y = rng.normal(0.38, 0.06), rng.normal(-0.45, 0.06)
    axes = (
        float(rng.uniform(0.30, 0.46)) * cavity.half_width * extent,
        float(rng.uniform(0.26, 0.42)) * (cavity.bottom - cavity.top) / 2 * extent,
    )
    contents = str(rng.choice(["gas", "fluid", "faeces", "oral"], p=[0.45, 0.25, 0.15, 0.15]))
    stream = np.random.default_rng(int(rng.integers(2**63)))
    if min(axes) > 6:
        _draw_loop(p, stream, cavity.at(x, y), axes, contents, cavity.inset)


def draw_pancreas(p: Painter, cavity: Cavity) -> None:
    """Seven lobules along an arc in front of the spine."""
    rng = p.rng("pancreas")
    shown = extent_at(p.level, 0.28, 0.66)
    lobules = p.field(rng, 2.0, 9.0) + p.field(rng, 1.0, 6.0)
    arc = float(rng.uniform(-6, 10))
    gland = np.zeros_like(p.hu)
    for k in range(7):
        along = k / 6 * 2 - 1
        place = (5 + 58 * along, cavity.spine_y - 45 - 12 * (1 - along**2) - arc * along)
        lobule = (13.0 * shown, float(rng.uniform(8, 12)) * shown)
        gland = np.maximum(gland, p.blob(place, lobule))
    p.paint(gland * cavity.inset, p.pancreas + lobules)


def draw_spleen(p: Painter, cavity: Cavity) -> None:
    """The spleen, mottled in the arterial phase."""
    rng = p.rng("spleen")
    extent = extent_at(p.level, -0.1, float(rng.uniform(0.46, 0.68)), 0.3)
    centre = cavity.at(float(rng.normal(0.76, 0.04)), float(rng.normal(0.22, 0.08)))
    axes = (
        float(rng.uniform(0.26, 0.40)) * cavity.half_width * extent,
        float(rng.uniform(0.40, 0.62)) * (cavity.bottom - cavity.top) / 2 * extent,
    )
    organ = p.blob(centre, axes, -0.25, 2.2, random_lobes(rng, 0.04)) * cavity.inset
    tone = p.spleen + p.field(rng, 6, 2.5) + p.field(rng, 1.2, 3.5)
    if p.phase == "arterial":  # the moiré of a spleen in the arterial phase
        tone = tone + p.field(rng, 3, 14.0)
    p.paint(organ, tone)


def draw_liver(p: Painter, cavity: Cavity) -> Float32:
    """Both lobes; returns their coverage (0...1) [512, 512]."""
    rng = p.rng("liver")
    stop = float(rng.uniform(0.72, 0.95))
    extent = extent_at(p.level, -0.25, stop, 0.75)
    half = (cavity.bottom - cavity.top) / 2
    right = p.blob(
        cavity.at(-0.62, -0.02 + float(rng.normal(0, 0.04)) + 0.12 * p.level),
        (0.62 * cavity.half_width * extent, 1.02 * half * extent ** 0.6),
        0.12, 2.3, random_lobes(rng, 0.035),
    )  # fmt: skip
    left_extent = extent_at(p.level, -0.3, float(rng.uniform(0.38, 0.55)), 0.3)
    left = p.blob(
        cavity.at(-0.08 + float(rng.normal(0, 0.05)), -0.55),
        (
            0.52 * cavity.half_width * left_extent,
            float(rng.uniform(0.30, 0.44)) * half * left_extent,
        ),
        float(rng.normal(-0.1, 0.1)), 2.2, random_lobes(rng, 0.04),
    )  # fmt: skip
    organ = np.maximum(right, left) * cavity.inset
    steatosis = float(rng.random() < 0.15) * float(rng.uniform(20, 50))
    tone = p.liver - steatosis + p.field(rng, 12, 3.0) + p.field(rng, 3, 2.5)
    p.paint(organ, tone + p.field(rng, 1.2, 3.5))

    return organ


def draw_hepatic_vessels(p: Painter, cavity: Cavity, liver: Float32) -> None:
    """Vessels inside the liver, whose coverage is ``liver`` [512, 512]."""
    rng = p.rng("hepatic vessels")
    vessels = np.zeros_like(p.hu)
    sway = 25 * (p.level - 0.3)
    hilum = (-0.12 * cavity.half_width + sway, cavity.spine_y - 52)
    for heading in (np.pi, np.pi * 1.22, np.pi * 0.82, np.pi * 1.45):
        start = (hilum[0] + float(rng.normal(0, 6)), hilum[1] + float(rng.normal(0, 8)))
        length = float(rng.uniform(26, 46))
        heading = float(heading + rng.normal(0, 0.15))
        for segment in branches(rng, start, heading, length, float(rng.uniform(1.8, 3.4)), 3):
            p.tube(segment, vessels)
    for _ in range(45):  # branches cut across
        place = cavity.at(float(rng.uniform(-1, 0)), float(rng.uniform(-0.9, 0.8)))
        heading, length = float(rng.uniform(0, 6.3)), float(rng.uniform(1, 9))
        p.tube(branches(rng, place, heading, length, float(rng.uniform(0.5, 1.6)), 0)[0], vessels)
    # Partial volume: a slice is thicker than most of these, and they run in and out of it.
    seen = np.clip(0.30 + p.field(rng, 9, 0.3), 0.04, 0.8)
    p.paint(vessels * liver * seen, p.vein + p.field(rng, 2, 3.0))


def draw_lesions(p: Painter, cavity: Cavity, liver: Float32) -> None:
    """Cysts and masses inside the liver, whose coverage is ``liver`` [512, 512]."""
    rng = p.rng("lesions")
    for _ in range(int(rng.poisson(0.9))):
        place = cavity.at(float(rng.uniform(-0.9, -0.1)), float(rng.uniform(-0.7, 0.6)))
        radius = float(rng.uniform(2.5, 13))
        value = float(rng.choice([8.0, p.liver - 35, p.liver + 35], p=[0.45, 0.4, 0.15]))
        depth = extent_at(p.level, float(rng.uniform(-0.2, 0.5)), float(rng.uniform(0.5, 1.0)), 0.1)
        cover = p.blob(place, (radius * depth, radius * depth), 0, 2, random_lobes(rng, 0.06), 1.6)
        p.paint(cover * liver, value)


def draw_gallbladder(p: Painter, cavity: Cavity) -> None:
    """Wall and bile."""
    rng = p.rng("gallbladder")
    shown = extent_at(p.level, 0.36, float(rng.uniform(0.5, 0.75))) * float(rng.random() < 0.8)
    place = cavity.at(float(rng.normal(-0.34, 0.05)), float(rng.normal(-0.38, 0.06)))
    axes = (float(rng.uniform(11, 19)) * shown, float(rng.uniform(14, 24)) * shown)
    p.paint(p.blob(place, axes, 0.5) * cavity.inset, p.gut)
    p.paint(p.blob(place, (axes[0] - 1.5, axes[1] - 1.5), 0.5) * cavity.inset, 8.0)


def draw_kidneys(p: Painter, cavity: Cavity) -> None:
    """Cortex, medulla, sinus, renal vessels; sometimes a cyst or a stone."""
    rng = p.rng("kidneys")
    for side in (-1, 1):
        start = (0.32 if side < 0 else 0.26) + float(rng.normal(0, 0.03))
        size = extent_at(p.level, start, start + float(rng.uniform(0.48, 0.58)), 0.2)
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
        open_ = extent_at(p.level, start + 0.12, start + 0.4)
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


def draw_adrenals(p: Painter, cavity: Cavity) -> None:
    """Thin limbs in the fat above the kidneys."""
    shown = extent_at(p.level, 0.14, 0.42)
    for side in (-1, 1):
        for turn in (0.5, -0.5):
            place = (side * 36, cavity.spine_y - 20 + 8 * turn)
            p.paint(p.blob(place, (9 * shown, 1.9 * shown), side * turn) * cavity.cover, p.gut)


def draw_great_vessels(p: Painter, cavity: Cavity) -> None:
    """Aorta with plaques, inferior vena cava, mesenteric and portal vessels."""
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
    p.paint(p.blob(cava, axes, 0.2, 2, random_lobes(rng, 0.03)), filling + texture)
    for offset, wide, tone, start, stop in (
        ((3.0, -50.0), 4.0, p.artery, 0.22, 1.2),
        ((-8.0, -52.0), 6.0, p.vein, 0.34, 1.2),
        ((-24.0, -52.0), 7.5, p.vein, 0.12, 0.42),
    ):
        shown = extent_at(p.level, start, stop)
        spot = (offset[0] + float(rng.normal(0, 3)), y + offset[1] + float(rng.normal(0, 3)))
        rim = (wide + 1.5) * shown
        p.paint(0.6 * p.blob(spot, (rim, rim), 0, 2, (), 2), p.fat)
        p.paint(p.blob(spot, (wide * shown, wide * shown)), tone + texture)


def draw_lungs(p: Painter, cavity: Cavity) -> None:
    """Lungs around the domes of the diaphragm, and the heart, in the highest slices."""
    depth = float(np.clip((0.17 - p.level) / 0.42, 0, 1))
    rng = p.rng("lung")
    texture = p.field(rng, 1.5, 22.0) + p.field(rng, 8, 20.0)
    if depth == 0:
        return
    half = (cavity.bottom - cavity.top) / 2
    wide = cavity.half_width
    right, left = 1.04 - 0.85 * depth, 1.02 - 0.95 * depth + 0.08 * float(rng.normal())
    below = np.maximum.reduce(
        [
            p.blob(cavity.at(-0.40, -0.12), (0.64 * wide * right, 1.05 * half * right), 0.1, 2.2),
            p.blob(cavity.at(0.42, -0.15), (0.62 * wide * left, 1.0 * half * left), -0.1, 2.2),
            p.blob((2, cavity.spine_y - 12), (30, 36), 0, 2.4),
            p.blob(
                cavity.at(0.10, -0.45),
                (0.46 * wide, 0.52 * half),
                0.3,
                2.0,
                random_lobes(rng, 0.03),
            ),
        ]
    )
    lung = cavity.inset * (1 - below)
    gravity = 70 * (p.y - (cavity.top + cavity.bottom) / 2) / half
    p.paint(lung, np.asarray(-860 + 60 * float(rng.random()) + texture + gravity, np.float32))
    # Fissures: thin oblique planes.
    for side in (-1, 1):
        slope, place = side * float(rng.uniform(0.2, 0.9)), float(rng.uniform(-0.2, 0.5)) * half
        line = np.abs(p.y - place - slope * (p.x - side * 0.5 * wide)) / 0.9
        sheet = np.clip(1 - line, 0, 1) * (np.sign(p.x) == side)
        p.paint(np.asarray(sheet * lung * 0.7, np.float32), -650.0)
    vessels = np.zeros_like(p.hu)
    for _ in range(int(60 + 160 * depth)):
        start = cavity.at(float(rng.uniform(-0.98, 0.98)), float(rng.uniform(-1.0, 1.0)))
        heading, radius = float(rng.uniform(0, 6.3)), float(rng.exponential(0.7)) + 0.4
        length = float(rng.exponential(7.0)) + 1.0
        for segment in branches(rng, start, heading, length, min(radius, 3.5), 1):
            p.tube(segment, vessels)
    p.paint(np.asarray(vessels * lung * 0.85, np.float32), 40.0)
    if depth > 0.3:
        _draw_heart(p, rng, cavity, min(1.0, (depth - 0.3) / 0.3))


def _draw_heart(p: Painter, rng: np.random.Generator, cavity: Cavity, shown: float) -> None:
    """Pericardial fat, heart muscle and two blood pools."""
    half = (cavity.bottom - cavity.top) / 2
    place = cavity.at(0.12, -0.42)
    axes = (0.36 * cavity.half_width * shown, 0.40 * half * shown)
    around = p.blob(place, (axes[0] + 6, axes[1] + 6), 0.4, 2.0)
    p.paint(around * cavity.inset * shown, p.fat + 10)
    p.paint(p.blob(place, axes, 0.4, 2.0, random_lobes(rng, 0.03)) * cavity.inset, p.muscle + 35)
    for shift, tone in ((-0.45, 0.6 * p.vein + 0.4 * p.artery), (0.40, p.artery)):
        pool = (place[0] + shift * axes[0], place[1] + 0.2 * shift * axes[1])
        inner = (0.42 * axes[0], 0.55 * axes[1])
        p.paint(p.blob(pool, inner, 0.4) * cavity.inset, tone + p.field(rng, 1.3, 4.0))
