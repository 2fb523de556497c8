"""`clinreadnet.simulator.projector` in PyTorch: batched, on a GPU or the CPU.

Geometry, filters and interpolation are the same. Slices are processed in batches, a few views at a
time to limit memory.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clinreadnet.simulator.projector import Float32, channel_filters, filter_length, view_angles

# Samples in memory per slice while projecting: some views of n x n.
_VIEWS_AT_ONCE = 8


def _turns(views: int, device: torch.device) -> tuple[Tensor, Tensor]:
    angles = torch.from_numpy(view_angles(views))
    return angles.cos().float().to(device), angles.sin().float().to(device)


def forward_project(images: Tensor, views: int) -> Tensor:
    """Project images along parallel rays.

    Args:
        images: ``[b, n, n]`` float32, zero outside the inscribed circle.
        views: number of angles over half a turn.

    Returns:
        Line integrals ``[b, views, n]`` float32, in units of the images times pixels.
    """
    batch, size, _ = images.shape
    offset = torch.arange(size, device=images.device, dtype=torch.float32) - size // 2
    along, across = offset[:, None], offset[None, :]
    cosines, sines = _turns(views, images.device)
    out = images.new_empty(batch, views, size)
    for start in range(0, views, _VIEWS_AT_ONCE):
        c = cosines[start : start + _VIEWS_AT_ONCE, None, None]
        s = sines[start : start + _VIEWS_AT_ONCE, None, None]
        columns, rows = c * across + s * along, c * along - s * across
        # grid_sample counts from -1 (the left edge of the first pixel) to 1.
        grid = torch.stack((columns, rows), -1).add_(size // 2 + 0.5).mul_(2 / size).sub_(1)
        turned = F.grid_sample(
            images[None].expand(len(grid), -1, -1, -1), grid, align_corners=False
        )
        out[:, start : start + len(grid)] = turned.sum(2).transpose(0, 1)
    return out


def back_project(sinograms: Tensor, windows: Float32 | None = None) -> Tensor:
    """Reconstruct images by filtered back-projection.

    Args:
        sinograms: ``[b, views, n]`` float32 line integrals of equal geometry.
        windows: frequency windows, as in `clinreadnet.simulator.projector`.

    Returns:
        ``[b, n, n]`` float32, zero outside the inscribed circle.
    """
    batch, views, size = sinograms.shape
    device = sinograms.device
    length = filter_length(size)
    responses = torch.tensor(channel_filters(length, batch, windows), device=device)
    spectrum = torch.fft.rfft(sinograms, n=length)
    filtered = torch.fft.irfft(spectrum * responses[:, None], n=length)[..., :size]
    # A ray can leave the circle by a pixel: one zero on each side is enough.
    filtered = F.pad(filtered, (1, 2))
    offset = torch.arange(size, device=device, dtype=torch.float32) - size // 2
    inside = offset[:, None] ** 2 + offset[None, :] ** 2 <= (size // 2) ** 2
    rows, columns = (offset[i] for i in torch.nonzero(inside, as_tuple=True))
    total = sinograms.new_zeros(batch, len(rows))
    cosines, sines = _turns(views, device)
    for view in range(views):
        place = cosines[view] * columns - sines[view] * rows + (size // 2 + 1)
        left = place.long()
        share = place - left
        line = filtered[:, view]
        total += line[:, left] * (1 - share) + line[:, left + 1] * share
    out = sinograms.new_zeros(batch, size, size)
    out[:, inside] = total * (math.pi / (2 * views))
    return out


class TorchProjector:
    """The projector on a device, with the interface of `clinreadnet.simulator.projector`."""

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    def forward_project(self, image: Float32, views: int) -> Float32:
        """Project one image ``[n, n]``; return its line integrals ``[views, n]``."""
        images = torch.from_numpy(image).to(self._device)[None]
        return np.asarray(forward_project(images, views)[0].cpu().numpy())

    def back_project(self, sinograms: Float32, windows: Float32 | None = None) -> Float32:
        """Reconstruct ``[b, views, n]`` line integrals; return ``[b, n, n]``."""
        device = torch.from_numpy(sinograms).to(self._device)
        images = back_project(device, windows)
        return np.asarray(images.cpu().numpy())
