"""Wide data: what varies beyond the standard draws, each anatomy from a random stream of its own.

The standard draws stay what they are: the anatomy, the noise levels and the noise of a scan are
those of standard data with the same seed. Wide data also varies

- the kernel: soft, standard and sharp kernels with equal shares;
- the view counts: three sets, of which one is the standard set;
- the denoisers: four of five for each anatomy;
- metal: clips in one anatomy of eight, screws in one of twelve;
- of a drawn slice, the thickness: half of them average 5 to 10 mm of the patient;
- of a drawn slice, the field of view: half of them show 20 to 65 cm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clinreadnet.simulator.clean import AIR, CleanSlice, even_tissue, outside_circle
from clinreadnet.simulator.denoise import DENOISERS
from clinreadnet.simulator.kernel import EVEN_SHARES, draw_kernel
from clinreadnet.simulator.metal import CLIPS, SCREWS, Metal, draw_metal
from clinreadnet.simulator.phantom.draw import Phantom, draw_phantom
from clinreadnet.simulator.phantom.painter import PATIENT_LENGTH_MM
from clinreadnet.simulator.scan import COPIES, VIEWS, Protocol
from clinreadnet.simulator.vary import draw_view

VIEW_SETS = (VIEWS, (720, 360, 180), (720, 180, 90))

_METAL_SHARES = {CLIPS: 1 / 8, SCREWS: 1 / 12}
_THICK_SHARE, _THICKNESS_MM, _PLANE_MM = 0.5, (5.0, 10.0), 2.5
_FIELD_SHARE, _FIELDS_MM, _SHOWN = 0.5, (200.0, 650.0), 0.75


@dataclass(frozen=True)
class WideDraw:
    """What wide data draws for one anatomy.

    Attributes:
        clean: the slice, a drawn slice with its thickness and field of view.
        protocol: noise levels, kernel, view counts and denoisers.
        metal: metal in the slice, or None.
        thickness_mm: thickness of a thick drawn slice in millimetres, else None.
    """

    clean: CleanSlice
    protocol: Protocol
    metal: Metal | None
    thickness_mm: float | None

    def record(self) -> dict[str, object]:
        """Return what was drawn as plain JSON values."""
        kernel = self.protocol.kernel
        return {
            "kernel": {
                "cutoff_per_mm": round(kernel.cutoff, 4),
                "power": round(kernel.power, 4),
                "boost": round(kernel.boost, 4),
            },
            "metal": None if self.metal is None else self.metal.kind,
            "thickness_mm": self.thickness_mm,
        }


def draw_wide(
    clean: CleanSlice | None,
    protocol: Protocol,
    seed: int,
    anatomy: int,
    rng: np.random.Generator,
) -> WideDraw:
    """Draw what wide data varies for one anatomy.

    Args:
        clean: the scanned slice, or None for a drawn slice.
        protocol: the standard draw, whose noise levels stay.
        seed: seed of the whole simulation, not negative.
        anatomy: number of the anatomy.
        rng: random generator of these draws.
    """
    kernel = draw_kernel(rng, EVEN_SHARES)
    views = VIEW_SETS[int(rng.integers(len(VIEW_SETS)))]
    denoisers = tuple(str(name) for name in rng.permutation(list(DENOISERS))[: len(COPIES)])
    protocol = replace(protocol, kernel=kernel, views=views, denoisers=denoisers)
    with_metal = rng.random()
    thickness_mm = round(float(rng.uniform(*_THICKNESS_MM)), 2)
    thick, other_field = rng.random(2) < (_THICK_SHARE, _FIELD_SHARE)
    used = None
    if clean is None:
        clean = phantom = draw_phantom(seed, anatomy)
        if thick:
            clean = phantom = thick_phantom(phantom, seed, anatomy, thickness_mm)
            used = thickness_mm
        if other_field:
            moved = another_field(phantom, rng)
            clean = moved if moved.tissue.any() else phantom
    metal = None
    for kind, share in _METAL_SHARES.items():
        if 0 <= with_metal < share:
            metal = draw_metal(kind, clean, rng)
        with_metal -= share
    return WideDraw(clean, protocol, metal, used)


def thick_phantom(phantom: Phantom, seed: int, anatomy: int, thickness_mm: float) -> Phantom:
    """Return the mean of a patient's thin slices over a thickness around a phantom.

    Args:
        phantom: the slice in the middle.
        seed: its seed.
        anatomy: its number.
        thickness_mm: thickness in millimetres. Thin slices are at most 2.5 mm apart.
    """
    half = thickness_mm / 2
    places = np.linspace(-half, half, 2 * int(np.ceil(half / _PLANE_MM)) + 1)
    planes = [
        phantom if place == 0 else draw_phantom(seed, anatomy, phantom.level + offset)
        for place, offset in zip(places, places / PATIENT_LENGTH_MM, strict=True)
    ]
    hu = np.asarray(np.mean([plane.hu for plane in planes], axis=0), np.float32)
    body = np.mean([plane.body for plane in planes], axis=0) > 0.5
    return replace(phantom, hu=hu, structure=hu, body=body, tissue=even_tissue(hu, body))


def another_field(phantom: Phantom, rng: np.random.Generator) -> Phantom:
    """Return a phantom in another field of view and position.

    A field that cuts the body becomes no wider, since what it leaves out is not drawn.

    Args:
        phantom: the slice.
        rng: random generator.
    """
    columns = np.nonzero(phantom.body.any(axis=0))[0]
    width_mm = float(np.ptp(columns) + 1) * phantom.pixel_mm if columns.size else 0.0
    least, most = _FIELDS_MM
    if (phantom.body & np.roll(outside_circle(), 1, axis=1)).any():
        most = min(most, len(phantom.hu) * phantom.pixel_mm)
    view = draw_view(phantom.pixel_mm, width_mm, rng, (min(least, most), most), _SHOWN)
    hu = view.of(phantom.hu)
    body = view.of(phantom.body.astype(np.float32), outside=0.0) > 0.5
    hu[outside_circle()] = AIR
    body &= ~outside_circle()
    return replace(
        phantom,
        hu=hu,
        structure=hu,
        pixel_mm=view.pixel_mm,
        body=body,
        tissue=even_tissue(hu, body),
    )
