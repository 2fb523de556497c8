"""Other views of a scanned slice: field of view, position, rotation and reflection."""

from __future__ import annotations

import math

import numpy as np
import scipy.ndimage as ndi

from clinreadnet.simulator.clean import AIR, Float32
from clinreadnet.spec import SIZE

# Range of the field of view in millimetres, and the share of it outside the body.
_LEAST_MM, _MOST_MM = 255.0, 503.0
_MAX_DEGREES = 8.0
_MAX_SHIFT = 24


def vary_slice(
    hu: Float32, pixel_mm: float, body_mm: float, rng: np.random.Generator
) -> tuple[Float32, float]:
    """Resample a slice to another field of view and position.

    Interpolation reduces the original noise of the slice; the remainder is measured afterwards.

    Args:
        hu: ``[512, 512]`` float32 Hounsfield units.
        pixel_mm: width of its pixels in millimetres.
        body_mm: width of the body in millimetres. The new field of view contains most of it.
        rng: random generator.

    Returns:
        The slice ``[512, 512]`` float32, and its pixel width in millimetres.
    """
    least = max(_LEAST_MM, 0.92 * body_mm)
    most = max(least, _MOST_MM)
    field = math.exp(float(rng.uniform(math.log(least), math.log(most))))
    step = field / SIZE / pixel_mm  # old pixels for each new one
    turn = math.radians(float(rng.uniform(-_MAX_DEGREES, _MAX_DEGREES)))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    free = max(field - body_mm, 10.0) / 2 / (field / SIZE)
    shift = np.clip(rng.normal(0, 0.3, 2), -0.7, 0.7) * free
    matrix = step * np.array(
        [
            [math.cos(turn), -math.sin(turn) * mirror],
            [math.sin(turn), math.cos(turn) * mirror],
        ]
    )
    centre = np.full(2, (SIZE - 1) / 2)
    # Low-pass filter before reducing the resolution, to avoid aliasing.
    source = ndi.gaussian_filter(hu, 0.45 * (step - 1)) if step > 1.05 else hu
    out = ndi.affine_transform(
        source, matrix, centre - matrix @ (centre + shift), order=3, mode="constant", cval=AIR
    )
    return np.asarray(out, np.float32), pixel_mm * step


def move_slice(hu: Float32, rng: np.random.Generator) -> Float32:
    """Move a slice by whole pixels and randomly mirror it. Pixel values do not change.

    Args:
        hu: ``[512, 512]`` float32 Hounsfield units.
        rng: random generator.
    """
    out = hu[:, ::-1] if rng.random() < 0.5 else hu
    for axis in (0, 1):
        shift = int(rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1))
        out = np.roll(out, shift, axis)
        edge = slice(0, shift) if shift >= 0 else slice(shift, None)
        if axis == 0:
            out[edge, :] = AIR
        else:
            out[:, edge] = AIR
    return np.ascontiguousarray(out)
