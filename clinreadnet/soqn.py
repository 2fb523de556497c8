"""SOQN, the Sobel ordinal quality network: an edge stem and an ordinal quality head.

The stem looks at edge detail, the head at the whole image's distribution of quality.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinreadnet.attention import LayerNorm
from clinreadnet.grading import FINE_GRADES, FINE_STEP
from clinreadnet.kernels import Impl, sobel_stem

EDGE_GAIN = 40.0
"""Initial gain of the edge channels: noise of 30 HU makes edges of 0.01 where x is near 0.7, and a
network that starts with equal weights did not see any of it in the first 300 steps."""


class Prediction(NamedTuple):
    """What the network says of each slice; float32 at least."""

    score: Tensor
    """[B], expectation of ``probs`` in grades 0...4."""
    probs: Tensor
    """[B, 21], probability of each fine grade 0, 0.2, ..., 4."""
    quality_map: Tensor
    """[B, H / 32, W / 32], the expectation of each token, in grades 0...4."""


class SobelStem(nn.Module):
    """Full-resolution edges, then two 3x3 convolutions of stride 2: pixels to tokens.

    Args:
        dim: channels C of a token; the first convolution has C / 2.
        kernels: implementation of ``sobel_stem``.
        edges: False leaves the image alone as input, for ablations; its filters then start with
            the edges' gain on differences between neighbours.
    """

    def __init__(self, dim: int, kernels: Impl = "auto", *, edges: bool = True):
        super().__init__()
        self.kernels, self.edges = kernels, edges
        self.edge = nn.Conv2d(4 if edges else 1, dim // 2, 3, stride=2, padding=1)
        self.embed = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = LayerNorm(dim)
        with torch.no_grad():
            if edges:
                self.edge.weight[:, 1:] *= EDGE_GAIN
            else:
                mean = self.edge.weight.mean(dim=(2, 3), keepdim=True)
                self.edge.weight.sub_(mean).mul_(EDGE_GAIN).add_(mean)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, H, W] encoded 0...1 -> [B, H / 4, W / 4, C], dtype of the weights."""
        if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
            # bfloat16 would round the image to steps of 5 HU before its edges are taken.
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x)
        assert self.edge.bias is not None
        # [B, C / 2, H / 2, W / 2]
        if self.edges:
            x = sobel_stem(x, self.edge.weight, self.edge.bias, impl=self.kernels)
        else:
            x = nn.functional.gelu(self.edge(x.to(self.edge.weight.dtype)))
        return self.norm(self.embed(x).permute(0, 2, 3, 1))


class OrdinalHead(nn.Module):
    """Each token votes a distribution over the fine grades, and how much its vote weighs.

    Args:
        dim: channels C of a token.
    """

    grade_index: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.norm = LayerNorm(dim)
        self.vote = nn.Linear(dim, FINE_GRADES)
        self.weight = nn.Linear(dim, 1)
        # Integers, so that casting the network to half precision does not round the grades.
        self.register_buffer("grade_index", torch.arange(FINE_GRADES), persistent=False)

    def forward(self, x: Tensor) -> Prediction:
        """[B, H, W, C] -> score [B], probs [B, 21], quality_map [B, H, W]."""
        _, h, w, c = x.shape
        x = self.norm(x).reshape(-1, h * w, c)
        wide = torch.promote_types(x.dtype, torch.float32)
        grades = self.grade_index.to(wide) * FINE_STEP
        votes = self.vote(x).to(wide).softmax(dim=-1)  # [B, HW, 21]
        weights = self.weight(x).to(wide).softmax(dim=1)  # [B, HW, 1]
        probs = (weights * votes).sum(dim=1)  # [B, 21]
        return Prediction(
            score=(probs * grades).sum(dim=-1),
            probs=probs,
            quality_map=(votes * grades).sum(dim=-1).reshape(-1, h, w),
        )
