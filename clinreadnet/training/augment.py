"""Augmentation that preserves noise, and therefore labels: rotations, flips and crops.

Images are not resized. A rotation by interpolation reduces noise (docs/training.md has
measurements), so that the label would be wrong. Images are therefore rotated by three shears (Paeth
1986; Unser et al. 1995), each of which shifts rows or columns by a phase ramp in the Fourier
domain. This preserves amplitudes and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinreadnet.spec import TILE

MAX_DEGREES = 5.0
"""Largest rotation. Patients are rotated by a few degrees."""

ROTATED_SHARE = 0.5
"""Share of rotated slices."""

# Least mean weight of the tiles in a crop, and the number of attempts.
_LEAST_BODY, _TRIES = 0.15, 16


@dataclass(frozen=True)
class Draws:
    """Random parameters for the n slices of a batch."""

    turned: Tensor
    """[m] int64, indices of rotated slices. Pixels of the others are unchanged."""
    radians: Tensor
    """[m] float32, angles of rotation in radians."""
    rows: Tensor
    """[n, crop] int64, rows of the crop, reversed if flipped."""
    columns: Tensor
    """[n, crop] int64, columns of the crop, reversed if flipped."""
    transposed: Tensor
    """[n] bool, whether the image is transposed."""

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        weight: NDArray[np.float32],
        size: int,
        crop: int,
        part: slice = slice(None),
    ) -> Draws:
        """Draw parameters for ``n`` slices of ``size`` pixels a side; return those of a part.

        Args:
            rng: source of the choice.
            weight: [n, size / 32, size / 32] weights of the tile labels. A slice with tile labels
                is not rotated but can be transposed; its crop begins at a tile and contains body.
            size: side of the slices in pixels.
            crop: side of the crop in pixels.
            part: part of the batch to return.
        """
        n, labelled = len(weight), weight.any(axis=(1, 2))
        degrees = rng.uniform(-MAX_DEGREES, MAX_DEGREES, n) * (rng.random(n) < ROTATED_SHARE)
        degrees[labelled] = 0.0
        first = rng.integers(size - crop + 1, size=(n, 2, 1))
        for slice_ in np.flatnonzero(labelled):
            first[slice_] = _first_tile(rng, weight[slice_], crop // TILE)[:, None] * TILE
        inside = np.where(rng.random((n, 2, 1)) < 0.5, np.arange(crop), np.arange(crop)[::-1])
        transposed = (rng.random(n) < 0.5) & labelled
        degrees, lines = degrees[part], torch.from_numpy(first + inside)[part]
        turned = np.flatnonzero(degrees)
        radians = np.radians(degrees[turned]).astype(np.float32)
        return cls(
            torch.from_numpy(turned),
            torch.from_numpy(radians),
            lines[:, 0],
            lines[:, 1],
            torch.from_numpy(transposed[part]),
        )

    def map(self, move: Callable[[Tensor], Tensor]) -> Draws:
        """Apply ``move`` to every tensor."""
        return Draws(*(move(getattr(self, field.name)) for field in fields(self)))


def _first_tile(
    rng: np.random.Generator, weight: NDArray[np.float32], side: int
) -> NDArray[np.int64]:
    """Draw the first row and column [2] of a crop of ``side`` tiles with body, if possible."""
    corner = np.zeros(2, np.int64)
    for _ in range(_TRIES):
        corner = rng.integers(len(weight) - side + 1, size=2)
        row, column = corner
        if weight[row : row + side, column : column + side].mean() >= _LEAST_BODY:
            break
    return corner


def augment(hu: Tensor, draws: Draws) -> Tensor:
    """Rotate, flip, crop and transpose each slice.

    Args:
        hu: [B, N, N] Hounsfield units, any dtype; not changed.
        draws: parameters for B slices, on the device of ``hu``.

    Returns:
        [B, 1, crop, crop] float32.
    """
    hu = hu.float()
    if len(draws.turned):
        hu = hu.index_copy(0, draws.turned, rotate(hu[draws.turned], draws.radians))
    return _cropped(hu, draws.rows, draws.columns, draws.transposed)[:, None]


def augment_tiles(tiles: Tensor, draws: Draws) -> Tensor:
    """Crop, flip and transpose tile labels [B, N / 32, N / 32] like their slices."""
    # A reversed crop begins at the last pixel of a tile.
    rows, columns = (
        lines[:, ::TILE].div(TILE, rounding_mode="floor") for lines in (draws.rows, draws.columns)
    )
    return _cropped(tiles, rows, columns, draws.transposed)


def _cropped(images: Tensor, rows: Tensor, columns: Tensor, transposed: Tensor) -> Tensor:
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    out = images[batch, rows[:, :, None], columns[:, None, :]]
    return torch.where(transposed[:, None, None], out.transpose(1, 2), out)


def rotate(images: Tensor, radians: Tensor) -> Tensor:
    """Rotate each image about its centre, preserving the power of its noise.

    The image is periodic: at 5 degrees, up to 1/20 of the width wraps around, which is air around a
    patient.

    Args:
        images: [B, N, N] float32.
        radians: [B] small angles; positive turns columns towards rows.

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
