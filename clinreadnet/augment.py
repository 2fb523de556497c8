"""Augmentation that keeps a slice's noise, and so its label: rotations, flips and crops.

Nothing is resized. A small rotation has to read between pixels, and interpolation smooths: at 5
degrees bilinear takes a quarter to a third of the noise away, bicubic up to an eighth. So an image
is rotated by three shears (Paeth 1986; Unser et al. 1995), each of which moves whole rows or
columns by a phase ramp in the Fourier domain: that changes no amplitude, and the noise stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_DEGREES = 5.0
"""Largest rotation; patients lie askew by a few degrees."""

ROTATED_SHARE = 0.5
"""Share of the slices that are rotated; the others keep their very pixels."""


@dataclass(frozen=True)
class Draws:
    """What was drawn for the n slices of a batch."""

    degrees: NDArray[np.float32]
    """[n] rotation; 0 leaves the pixels as they are."""
    flips: NDArray[np.bool_]
    """[n, 2] whether rows, columns are reversed."""
    corners: NDArray[np.int64]
    """[n, 2] first row and column of the crop."""

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int, size: int, crop: int) -> Draws:
        """Draw for ``n`` slices of ``size`` pixels a side and crops of ``crop``."""
        degrees = rng.uniform(-MAX_DEGREES, MAX_DEGREES, n) * (rng.random(n) < ROTATED_SHARE)
        flips = rng.random((n, 2)) < 0.5
        return cls(degrees.astype(np.float32), flips, rng.integers(size - crop + 1, size=(n, 2)))

    def part(self, index: slice) -> Draws:
        """Return the draws of some of the slices."""
        return Draws(self.degrees[index], self.flips[index], self.corners[index])


def augment(hu: Tensor, draws: Draws, crop: int) -> Tensor:
    """Rotate, flip and crop each slice, on the device it is on.

    Args:
        hu: [B, N, N] Hounsfield units, any dtype; left as it is.
        draws: for B slices.
        crop: side of the crops in pixels.

    Returns:
        [B, 1, crop, crop] float32.
    """
    hu = hu.float()
    turned = np.flatnonzero(draws.degrees)
    if len(turned):
        where = torch.from_numpy(turned).to(hu.device)
        radians = torch.from_numpy(np.radians(draws.degrees[turned])).to(hu.device)
        hu = hu.index_copy(0, where, rotate(hu[where], radians))
    offsets = np.arange(crop)
    rows, columns = (
        draws.corners[:, axis, None] + np.where(draws.flips[:, axis, None], offsets[::-1], offsets)
        for axis in (0, 1)
    )
    batch = torch.arange(len(hu), device=hu.device)[:, None, None]
    row_index = torch.from_numpy(rows).to(hu.device)[:, :, None]
    column_index = torch.from_numpy(columns).to(hu.device)[:, None, :]
    return hu[batch, row_index, column_index][:, None]


def rotate(images: Tensor, radians: Tensor) -> Tensor:
    """Rotate each image about its centre, keeping the power of its noise.

    What leaves on one side comes in on the other, within 1/20 of the width at 5 degrees: air,
    around a patient.

    Args:
        images: [B, N, N] float32.
        radians: [B] angles, small; positive turns columns towards rows.

    Returns:
        [B, N, N] float32.
    """
    slanted = -torch.tan(radians / 2)
    images = _shear(images, slanted, dim=-1)
    images = _shear(images, torch.sin(radians), dim=-2)
    return _shear(images, slanted, dim=-1)


def _shear(images: Tensor, slope: Tensor, dim: int) -> Tensor:
    """Shift each line along ``dim`` by ``slope`` [B] times its distance from the centre."""
    n = images.shape[-1]
    centred = torch.arange(n, device=images.device) - (n - 1) / 2
    shift = slope[:, None] * centred  # [B, N] in pixels
    angle = -2 * math.pi * shift[:, :, None] * torch.fft.rfftfreq(n, device=images.device)
    ramp = torch.polar(torch.ones_like(angle), angle)  # [B, N, N / 2 + 1]
    if dim == -2:
        ramp = ramp.transpose(-1, -2)
    return torch.fft.irfft(torch.fft.rfft(images, dim=dim) * ramp, n=n, dim=dim)
