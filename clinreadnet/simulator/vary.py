"""Other views of a scanned slice: field of view, position, rotation and reflection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from clinreadnet.simulator.clean import AIR, Float32
from clinreadnet.spec import SIZE

FIELDS_MM = (255.0, 503.0)
"""Range of the field of view in millimetres."""

_MAX_DEGREES = 8.0
_MAX_SHIFT = 24


@dataclass(frozen=True)
class View:
    """A field of view and position of a slice.

    Attributes:
        pixel_mm: new width of a pixel in millimetres.
        step: old pixels for each new one.
        matrix: ``[2, 2]`` rotation, reflection and scale from new to old pixels.
        shift: ``[2]`` translation in new pixels.
    """

    pixel_mm: float
    step: float
    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]

    def of(self, image: Float32, outside: float = AIR) -> Float32:
        """Resample an image.

        Args:
            image: ``[512, 512]`` float32.
            outside: value outside the image.

        Returns:
            ``[512, 512]`` float32, by cubic interpolation.
        """
        centre = np.full(2, (SIZE - 1) / 2)
        # Low-pass filter before reducing the resolution, to avoid aliasing.
        blur = 0.45 * (self.step - 1)
        source = ndi.gaussian_filter(image, blur) if self.step > 1.05 else image
        offset = centre - self.matrix @ (centre + self.shift)
        out = ndi.affine_transform(
            source, self.matrix, offset, order=3, mode="constant", cval=outside
        )
        return np.asarray(out, np.float32)


def draw_view(
    pixel_mm: float,
    body_mm: float,
    rng: np.random.Generator,
    field_mm: tuple[float, float] = FIELDS_MM,
    shown: float = 0.92,
) -> View:
    """Draw another field of view and position of a slice.

    Args:
        pixel_mm: width of its pixels in millimetres.
        body_mm: width of the body in millimetres.
        rng: random generator.
        field_mm: range of the field of view in millimetres.
        shown: least share of the body's width in the field of view.
    """
    least = max(field_mm[0], shown * body_mm)
    most = max(least, field_mm[1])
    field = math.exp(float(rng.uniform(math.log(least), math.log(most))))
    step = field / SIZE / pixel_mm
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
    return View(pixel_mm * step, step, matrix, shift)


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
    view = draw_view(pixel_mm, body_mm, rng)
    return view.of(hu), view.pixel_mm


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
        lines = np.moveaxis(out, axis, 0)
        lines[slice(0, shift) if shift >= 0 else slice(shift, None)] = AIR
    return np.ascontiguousarray(out)
