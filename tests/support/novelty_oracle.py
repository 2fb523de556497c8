"""The error of the novelty by rounding: the stem and its statistics in float64, rounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, pad

from clinreadnet.kernels.ops.sobel_stem.reference import MAGNITUDE_EPS
from clinreadnet.model.network import ClinReadNet
from clinreadnet.model.soqn import encode

Round = Callable[[Tensor], Tensor]


def to_bits(bits: int) -> Round:
    """Return a function that rounds a tensor to a significand of ``bits`` bits."""

    def round_(x: Tensor) -> Tensor:
        fraction, exponent = torch.frexp(x)
        return torch.ldexp(torch.round(fraction * 2**bits) / 2**bits, exponent)

    return round_


def exact(x: Tensor) -> Tensor:
    """Return the tensor as it is."""
    return x


def edges(image: Tensor) -> Tensor:
    """Return gx, gy and magnitude [1, 3, H, W] of an image [1, 1, H, W]."""
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(image) / 8
    kernels = torch.stack([sobel, sobel.T])[:, None]
    gradient = conv2d(pad(image, (1, 1, 1, 1), mode="replicate"), kernels)
    return torch.cat([gradient, (gradient.square().sum(1, True) + MAGNITUDE_EPS).sqrt()], dim=1)


def novelty(model: ClinReadNet, hu: np.ndarray, weights: Round, tensors: Round) -> np.ndarray:
    """Return the novelty [n] of slices, with weights and tensors rounded.

    Args:
        model: network in float64.
        hu: [n, 512, 512] Hounsfield units.
        weights: rounds the weights of the stem.
        tensors: rounds what the stem's layers read and write; edges, statistics and the novelty
            itself are float32 in every precision, and are not rounded.
    """
    stem = model.stem
    assert stem.conv1.bias is not None and stem.embed.bias is not None
    first, embed = (
        (weights(layer.weight), weights(layer.bias)) for layer in (stem.conv1, stem.embed)
    )
    values = []
    with torch.inference_mode():
        for pixels in hu:
            image = encode(torch.from_numpy(np.asarray(pixels, np.float64))[None, None])
            x = tensors(torch.cat([image, edges(image)], dim=1))
            x = tensors(gelu(tensors(conv2d(x, *first, stride=2, padding=1))))
            x = tensors(conv2d(x, *embed, stride=2, padding=1)).permute(0, 2, 3, 1)
            x = tensors(stem.norm(x))
            values.append(float(model.novelty(model.statistics(x))))
    return np.array(values)
