"""SOQN, the Sobel ordinal quality network: an edge stem and an ordinal quality head.

The stem looks at edge detail; the head at the whole image's distribution of quality, in two ways:
in what its tokens vote, and in the statistics of all its edges.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinreadnet.kernels import Impl, sobel_stem
from clinreadnet.model.attention import LayerNorm
from clinreadnet.spec import FINE_GRADES, FINE_STEP

EDGE_GAIN = 40.0
"""Initial gain of the edge channels: noise of 30 HU makes edges of 0.01 where x is near 0.7, and a
network that starts with equal weights did not see any of it in the first 300 steps."""

REGION_SPREAD = 0.3
"""Initial deviation of the weights that tell regions apart. LayerNorm makes a token 7 long at 48
channels: with the 0.02 of other layers all regions would start as the same, the whole image."""

TOKEN_STEP = 2
"""The head takes statistics of every second of the stem's tokens in every second row; a token's
neighbours see nearly the same pixels."""

VARIANCE_EPS = 1e-4
"""Inside the logarithm of a variance of tokens, which LayerNorm has made about 1."""

SMALLEST_DEVIATION = 1e-3
"""Added to the deviation of a statistic between slices: one that never differs stays finite."""


class Prediction(NamedTuple):
    """What the network says of each slice; float32 at least."""

    score: Tensor
    """[B], expectation of ``probs`` in grades 0...4."""
    probs: Tensor
    """[B, 21], probability of each fine grade 0, 0.2, ..., 4."""
    quality_map: Tensor
    """[B, H / 32, W / 32], the expectation of each token, in grades 0...4; of a SOQN alone, whose
    tokens are the stem's, [B, H / 4, W / 4]."""


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
        assert self.edge.bias is not None
        # bfloat16 would round the image to steps of 5 HU before its edges are taken.
        with _without_autocast(x):
            # [B, C / 2, H / 2, W / 2]
            if self.edges:
                x = sobel_stem(x, self.edge.weight, self.edge.bias, impl=self.kernels)
            else:
                x = nn.functional.gelu(self.edge(x.to(self.edge.weight.dtype)))
            return self.norm(self.embed(x).permute(0, 2, 3, 1))


class EdgeStatistics(nn.Module):
    """What edges an image has: mean and log deviation of the stem's channels in R kinds of region.

    Noise shows in even tissue, what a denoiser took in faint structure and at edges: for each kind
    of region a small MLP says how much a token weighs. The numbers are few, but anatomy moves them
    too, and each on a scale of its own. ``calibrate`` standardises them before training.

    Args:
        dim: channels C of a token.
        regions: R.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int, regions: int):
        super().__init__()
        self.region = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, regions))
        self.register_buffer("shift", torch.zeros(2 * regions * dim))
        self.register_buffer("scale", torch.ones(2 * regions * dim))

    def initialise(self) -> None:
        """Start with regions that lie apart."""
        for layer in self.region:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=REGION_SPREAD)

    def raw(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, 1, 2RC] as measured, float32 at least: means, then log deviations."""
        wide = torch.promote_types(tokens.dtype, torch.float32)
        logits = self.region(tokens).to(wide).permute(0, 3, 1, 2)[..., None]
        weights = (logits - logits.amax(dim=(2, 3), keepdim=True)).exp()
        weights = weights / _sum(weights)  # [B, R, H, W, 1]
        tokens = tokens.to(wide)[:, None]
        mean = _sum(weights * tokens)  # [B, R, 1, 1, C]
        difference = tokens - mean
        return _joined(mean, _sum(weights * difference * difference))

    @torch.no_grad()
    def calibrate(self, raw: Tensor) -> None:
        """Take these statistics [B, 1, 2RC], as measured on B slices, as the usual ones."""
        self.shift.copy_(raw.mean(dim=(0, 1)))
        self.scale.copy_(1 / (raw.std(dim=(0, 1), correction=0) + SMALLEST_DEVIATION))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, 1, 2RC], about Normal(0, 1) over the slices calibrated with.

        In float32 at least, as is ``raw``.
        """
        raw = self._raw_quickly(tokens) if self.training else self.raw(tokens)
        return (raw - self.shift.to(raw)) * self.scale.to(raw)

    def _raw_quickly(self, tokens: Tensor) -> Tensor:
        """Return ``raw`` by two products, several times as fast, for training.

        The difference of squares loses digits where a channel hardly varies.
        """
        wide = torch.promote_types(tokens.dtype, torch.float32)
        weights = self.region(tokens).to(wide).flatten(1, 2).softmax(dim=1).transpose(1, 2)
        tokens = tokens.to(wide).flatten(1, 2)
        with _without_autocast(tokens):
            mean = weights @ tokens  # [B, R, C]
            return _joined(mean, (weights @ tokens.square() - mean.square()).clamp(min=0))


def _joined(mean: Tensor, variance: Tensor) -> Tensor:
    """[B, R, ..., C] each -> [B, 1, 2RC], means, then log deviations."""
    return torch.cat([mean, (variance + VARIANCE_EPS).log() / 2], dim=1).flatten(1)[:, None]


def _sum(x: Tensor) -> Tensor:
    """[B, R, H, W, C] -> [B, R, 1, 1, C]: rows first, since one long float32 sum loses digits."""
    return x.sum(dim=3, keepdim=True).sum(dim=2, keepdim=True)


class OrdinalHead(nn.Module):
    """Each token votes a distribution over the fine grades, and how much its vote weighs.

    The statistics of the image's edges shift the votes of all its tokens.

    Args:
        dim: channels C of a token.
        edge_dim: channels E of the stem's tokens.
        regions: kinds of region R whose statistics are taken.
        prior_dim: hidden channels between the statistics and the shift.
    """

    grade_index: Tensor

    def __init__(self, dim: int, edge_dim: int, regions: int, prior_dim: int):
        super().__init__()
        self.edges = EdgeStatistics(edge_dim, regions)
        self.prior = nn.Sequential(
            nn.Linear(2 * regions * edge_dim, prior_dim),
            nn.GELU(),
            nn.Linear(prior_dim, FINE_GRADES),
        )
        self.norm = LayerNorm(dim)
        self.vote = nn.Linear(dim, FINE_GRADES)
        self.weight = nn.Linear(dim, 1)
        # Integers, so that casting the network to half precision does not round the grades.
        self.register_buffer("grade_index", torch.arange(FINE_GRADES), persistent=False)

    def forward(self, x: Tensor, stem: Tensor) -> Prediction:
        """[B, H, W, C], [B, H', W', E] -> score [B], probs [B, 21], quality_map [B, H, W]."""
        _, h, w, c = x.shape
        prior = self._prior(self.edges(stem))  # [B, 1, 21]
        x = self.norm(x).reshape(-1, h * w, c)
        wide = torch.promote_types(x.dtype, torch.float32)
        votes = (self.vote(x).to(wide) + prior).softmax(dim=-1)  # [B, HW, 21]
        weights = self.weight(x).to(wide).softmax(dim=1)  # [B, HW, 1]
        return self._mixture(votes, weights, h, w)

    def from_statistics(self, stem: Tensor) -> Prediction:
        """Predict from the statistics of edges alone, as where no token votes.

        Args:
            stem: [B, H', W', E], as for ``forward``.

        Returns:
            Prediction: score [B], probs [B, 21], quality_map [B, 1, 1].
        """
        vote = self._prior(self.edges(stem)).softmax(dim=-1)  # [B, 1, 21]
        return self._mixture(vote, torch.ones_like(vote[..., :1]), 1, 1)

    def _mixture(self, votes: Tensor, weights: Tensor, h: int, w: int) -> Prediction:
        """[B, HW, 21], [B, HW, 1] -> what the weighted votes say together."""
        grades = self.grade_index.to(votes.dtype) * FINE_STEP
        probs = (weights * votes).sum(dim=1)  # [B, 21]
        return Prediction(
            score=(probs * grades).sum(dim=-1),
            probs=probs,
            quality_map=(votes * grades).sum(dim=-1).reshape(-1, h, w),
        )

    def _prior(self, statistics: Tensor) -> Tensor:
        """[B, 1, 2RC] -> [B, 1, 21] logits, in the type of the statistics.

        One vector an image costs nothing in float32, and in 16 bits would cost most of the digits
        that the statistics have.
        """
        with _without_autocast(statistics):
            for layer in self.prior:
                if isinstance(layer, nn.Linear):
                    weight, bias = layer.weight.to(statistics), layer.bias.to(statistics)
                    statistics = nn.functional.linear(statistics, weight, bias)
                else:
                    statistics = layer(statistics)
        return statistics


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return what keeps products in the type of ``x``; nothing enters a graph without autocast."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
