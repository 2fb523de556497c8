"""SOQN, the Sobel ordinal quality network: edge stem, edge statistics and ordinal head.

The stem extracts edges. After the attention stages, each 32x32 tile votes a distribution over the
grades, and the head combines the votes into the distribution of the image. The statistics of the
stem's edges give the distance from the training data (novelty).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinreadnet.kernels import (
    Impl,
    fused_linear,
    fused_linear_obstacle,
    ordinal_head,
    ordinal_head_obstacle,
    region_statistics,
    region_statistics_obstacle,
    sobel_stem,
    sobel_stem_obstacle,
)
from clinreadnet.kernels.ops.ordinal_head.reference import MIXTURE_EPS
from clinreadnet.kernels.ops.region_statistics.reference import ROOT_EPS, mean_and_spread
from clinreadnet.model.attention import LayerNorm
from clinreadnet.model.derived import Derived, DerivingModule
from clinreadnet.spec import FINE_GRADES, FINE_STEP, HU_MIN, HU_RANGE, TILE

SOBEL_GAIN = 40.0
"""Initial gain of the Sobel channels. Noise of 30 HU gives edges of 0.01 while x is near 0.7; with
equal initial weights, the network did not learn noise in the first 300 steps."""

STRIDE = 4
"""Pixels between two neighbouring tokens of the stem."""

SMALLEST_DEVIATION = 1e-3
"""Added to the deviation of a statistic, so that a constant statistic stays finite."""


class Prediction(NamedTuple):
    """Outputs of the network for each slice, in float32 or wider."""

    score: Tensor
    """[B], expectation of ``probs`` in grades 0...4."""
    probs: Tensor
    """[B, 21], probability of each fine grade 0, 0.2, ..., 4."""
    quality_map: Tensor
    """[B, H / 32, W / 32], expectation of each tile's vote in grades 0...4."""
    novelty: Tensor
    """[B], distance of the edge statistics from those of the training data: about 1 for similar
    slices, larger for others."""


class TileVotes(NamedTuple):
    """Votes of the tiles before they are combined, for the training loss."""

    votes: Tensor
    """[B, HW, 21], probability of each fine grade."""
    weights: Tensor
    """[B, HW], weight of each vote; rows sum to 1."""


def encode(hu: Tensor) -> Tensor:
    """Clip and scale Hounsfield units to 0...1, in float32 at least (any shape).

    The clipping lies between the offset and the scale: OpenVINO would fuse the two into one
    multiply-add with rounded constants, whose bias exceeds the float32 budget of the novelty.
    """
    hu = hu.to(torch.promote_types(hu.dtype, torch.float32))
    return (hu - HU_MIN).clamp(0.0, HU_RANGE) / HU_RANGE


class SobelStem(nn.Module):
    """Full-resolution edges, then two 3x3 convolutions of stride 2: pixels to tokens.

    Args:
        dim: channels C of a token; the first convolution has C / 2.
        kernels: implementation of ``sobel_stem``.
        fused: whether ``sobel_stem`` encodes Hounsfield units where supported.
        use_sobel: False uses only the image as input, for ablations. The filters are then
            initialised with the same gain on differences between neighbours.
    """

    def __init__(
        self, dim: int, kernels: Impl = "auto", *, fused: bool = False, use_sobel: bool = True
    ):
        super().__init__()
        self.kernels, self.use_sobel = kernels, use_sobel
        self.fuses_encoding = fused and use_sobel and kernels != "reference"
        self.conv1 = nn.Conv2d(4 if use_sobel else 1, dim // 2, 3, stride=2, padding=1)
        self.embed = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = LayerNorm(dim)
        with torch.no_grad():
            if use_sobel:
                self.conv1.weight[:, 1:] *= SOBEL_GAIN
            else:
                mean = self.conv1.weight.mean(dim=(2, 3), keepdim=True)
                self.conv1.weight.sub_(mean).mul_(SOBEL_GAIN).add_(mean)

    def from_hu(self, hu: Tensor) -> Tensor:
        """[B, 1, H, W] Hounsfield units -> [B, H / 4, W / 4, C], dtype of the weights."""
        weight, bias = self.conv1.weight, self.conv1.bias
        assert bias is not None
        if (
            not self.fuses_encoding
            or sobel_stem_obstacle(hu, weight, bias, encodes=True) is not None
        ):
            return self(encode(hu))
        with without_autocast(hu):
            return self._tokens(
                sobel_stem(hu, weight, bias, lowest=HU_MIN, span=HU_RANGE, impl=self.kernels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, H, W] encoded 0...1 -> [B, H / 4, W / 4, C], dtype of the weights."""
        assert self.conv1.bias is not None
        # In bfloat16 the image would be rounded to steps of 5 HU before the edges are computed.
        with without_autocast(x):
            # [B, C / 2, H / 2, W / 2]
            if self.use_sobel:
                x = sobel_stem(x, self.conv1.weight, self.conv1.bias, impl=self.kernels)
            else:
                x = nn.functional.gelu(self.conv1(x.to(self.conv1.weight.dtype)))
            return self._tokens(x)

    def _tokens(self, x: Tensor) -> Tensor:
        """[B, C / 2, H / 2, W / 2] -> [B, H / 4, W / 4, C]."""
        return self.norm(self.embed(x).permute(0, 2, 3, 1))


class TileStatistics(DerivingModule):
    """Mean and log deviation of the stem's channels in each 32x32 tile, standardised.

    ``calibrate`` sets the mean and the deviation of each statistic from training data.

    Args:
        dim: channels C of a token.
        kernels: implementation of ``region_statistics``.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, dim: int, kernels: Impl = "reference"):
        super().__init__()
        self.kernels = kernels
        self.register_buffer("shift", torch.zeros(2 * dim))
        self.register_buffer("scale", torch.ones(2 * dim))

    def raw(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H / 8, W / 8, 2C], not standardised, in float32 or wider."""
        side = TILE // STRIDE
        return mean_and_spread(tokens, region_h=side, region_w=side, log=True)

    @torch.no_grad()
    def calibrate(self, raw: Tensor) -> None:
        """Set mean and deviation from statistics [..., 2C] of ``raw``."""
        raw = raw.reshape(-1, raw.shape[-1])
        self.shift.copy_(raw.mean(dim=0))
        self.scale.copy_(1 / (raw.std(dim=0, correction=0) + SMALLEST_DEVIATION))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H / 8, W / 8, 2C], about Normal(0, 1) over calibrated tiles."""
        wide = torch.promote_types(tokens.dtype, torch.float32)
        shift, scale = self.wide("standard", wide, self.shift, self.scale)
        if self.kernels != "reference" and region_statistics_obstacle(tokens, shift, scale) is None:
            side = TILE // STRIDE
            return region_statistics(
                tokens, shift, scale, region_h=side, region_w=side, log=True, impl=self.kernels
            )
        return (self.raw(tokens) - shift) * scale


class Novelty(DerivingModule):
    """Distance of a slice's statistics from those of the training data.

    This is the Mahalanobis distance of the mean and the deviation of each statistic over the tiles,
    divided by the root of the number of dimensions. Slices like the training data have values near
    1.

    Args:
        statistics: number of statistics of a tile.
        kernels: implementation of ``region_statistics``.
    """

    mean: Tensor
    whitening: Tensor
    threshold: Tensor

    def __init__(self, statistics: int, kernels: Impl = "reference"):
        super().__init__()
        self.kernels = kernels
        size = 2 * statistics
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitening", torch.eye(size))
        self.register_buffer("threshold", torch.tensor(float("inf")))
        """Novelty above which a slice counts as out of domain."""

    def summary(self, statistics: Tensor) -> Tensor:
        """[B, H, W, S] -> [B, 2S], mean and deviation over the tiles."""
        if torch.compiler.is_exporting():
            mean = statistics.mean(dim=(1, 2))
            difference = statistics - mean[:, None, None]
            variance = (difference * difference).mean(dim=(1, 2))
        else:
            variance, mean = torch.var_mean(statistics, dim=(1, 2), correction=0)
        return torch.cat([mean, (variance + ROOT_EPS).sqrt()], dim=-1)

    @torch.no_grad()
    def fit(self, summaries: Tensor, shrinkage: float = 0.1) -> None:
        """Fit mean and whitening to summaries [n, 2S] of the training data.

        Args:
            summaries: summaries of at least two slices.
            shrinkage: share of the covariance that is replaced by its mean variance.
        """
        summaries = summaries.double()
        mean = summaries.mean(dim=0)
        centred = summaries - mean
        covariance = centred.T @ centred / len(summaries)
        size = len(mean)
        usual = covariance.trace() / size
        covariance = (1 - shrinkage) * covariance + shrinkage * usual * torch.eye(size).to(
            covariance
        )
        values, vectors = torch.linalg.eigh(covariance)
        self.mean.copy_(mean)
        self.whitening.copy_(vectors / values.sqrt() / size**0.5)

    def forward(self, statistics: Tensor) -> Tensor:
        """[B, H, W, S] -> [B]."""
        with without_autocast(statistics):
            fused = self._fused(statistics)
            return self.distance(self.summary(statistics)) if fused is None else fused

    def _fused(self, statistics: Tensor) -> Tensor | None:
        """[B, H, W, S] -> [B]; None if the kernel does not support ``statistics``."""
        if self.kernels == "reference":
            return None
        mean, whitening = self._usual(torch.float32)
        (scale,) = self.derived("scale", [self.mean], mean.dtype, lambda: (torch.ones_like(mean),))
        if region_statistics_obstacle(statistics, mean, scale) is not None:
            return None
        _, h, w, _ = statistics.shape
        difference = region_statistics(
            statistics, mean, scale, region_h=h, region_w=w, log=False, impl=self.kernels
        )
        return torch.linalg.vector_norm(difference.flatten(1) @ whitening, dim=-1)

    def _usual(self, dtype: torch.dtype) -> Derived:
        return self.wide("usual", dtype, self.mean, self.whitening)

    def distance(self, summary: Tensor) -> Tensor:
        """Summaries [B, 2S] of ``summary`` -> [B]."""
        mean, whitening = self._usual(summary.dtype)
        far = (summary - mean) @ whitening
        return (far * far).sum(dim=-1).sqrt()


class OrdinalHead(DerivingModule):
    """Each tile votes a distribution over the fine grades; the head combines the votes.

    The image's logits are the logarithm of the weighted mixture of votes, times a learned gain,
    plus the output of a small MLP on the weighted mean of the tiles' features. The score depends on
    the image only through the tokens.

    Args:
        dim: channels C of a token.
        hidden: hidden channels of the MLP.
        kernels: implementation of ``fused``.
    """

    grade_index: Tensor
    temperature: Tensor

    def __init__(self, dim: int, hidden: int = 128, kernels: Impl = "reference"):
        super().__init__()
        self.kernels = kernels
        self.norm = LayerNorm(dim)
        self.vote = nn.Linear(dim, FINE_GRADES)
        self.token_weight = nn.Linear(dim, 1)
        self.gain = nn.Parameter(torch.ones(()))
        self.image = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, FINE_GRADES)
        )
        self.register_buffer("temperature", torch.ones(()))
        """Divisor of the image's logits, fitted on validation data."""
        # Integers, so that casting the network to half precision does not round the grades.
        self.register_buffer("grade_index", torch.arange(FINE_GRADES), persistent=False)

    def tiles(self, x: Tensor) -> tuple[Tensor, TileVotes]:
        """[B, H, W, C] -> normalised tokens [B, HW, C] and their votes, in float32 or wider."""
        x = self.norm(x).flatten(1, 2)
        wide = torch.promote_types(x.dtype, torch.float32)
        votes = self.vote(x).to(wide).softmax(dim=-1)
        weights = self.token_weight(x).to(wide).flatten(1).softmax(dim=-1)
        return x, TileVotes(votes, weights)

    def join(self, x: Tensor, tiles: TileVotes) -> Tensor:
        """Tokens [B, HW, C] and their votes -> logits of the image's grades [B, 21]."""
        weights = tiles.weights[:, None]
        mixture = (weights @ tiles.votes).flatten(1)
        pooled = (weights @ x.to(weights.dtype)).flatten(1)
        (gain,) = self.wide("gain", mixture.dtype, self.gain)
        return torch.addcmul(self._image(pooled), gain, (mixture + MIXTURE_EPS).log())

    def experts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, H, W, C] -> scores [B] of the mixture of votes and of the MLP, separately."""
        tokens, tiles = self.tiles(x)
        weights = tiles.weights[:, None]
        mixture = (weights @ tiles.votes).flatten(1)
        image = self._image((weights @ tokens.to(weights.dtype)).flatten(1))
        return self.expectation(mixture), self.expectation(image.softmax(dim=-1))

    def expectation(self, probs: Tensor) -> Tensor:
        """[..., 21] -> [...], in grades 0...4."""
        return (probs * self._grades(probs.dtype)).sum(dim=-1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, TileVotes]:
        """[B, H, W, C] -> score [B], probs [B, 21], quality_map [B, H, W], votes."""
        _, h, w, _ = x.shape
        tokens, tiles = self.tiles(x)
        with without_autocast(x):
            logits = self.join(tokens, tiles)
            (temperature,) = self.wide("temperature", logits.dtype, self.temperature)
            probs = (logits / temperature).softmax(dim=-1)
            quality_map = self.expectation(tiles.votes).reshape(-1, h, w)
            return self.expectation(probs), probs, quality_map, tiles

    def fused(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Compute score, probs and quality_map of ``forward`` in two launches.

        The layers of the votes, their weights and the first layer of the MLP are one layer: the MLP
        reads the weighted mean of the tokens, and a layer of the mean is the mean of its outputs.

        Returns:
            The outputs; None if a kernel does not support x [B, H, W, C].
        """
        if self.kernels == "reference":
            return None
        _, h, w, _ = x.shape
        norm = self.norm.weight, self.norm.bias
        if fused_linear_obstacle(x, (*norm, *self.image[0].parameters())) is not None:
            return None
        layer, joint = self._token_layer(), self._joint_layer(torch.float32)
        weight, bias = layer
        tokens = fused_linear(x, weight, bias, *norm, eps=self.norm.eps, impl=self.kernels)
        tokens = tokens.flatten(1, 2)
        if ordinal_head_obstacle(tokens, joint) is not None:
            return None
        out = ordinal_head(tokens, *joint, impl=self.kernels)
        score, probs, quality_map = out.split((1, FINE_GRADES, h * w), dim=1)
        return score[:, 0], probs, quality_map.reshape(-1, h, w)

    def _token_layer(self) -> Derived:
        """Weight and bias of the votes, of their weights, and of the MLP's first layer, in order.

        Zeros fill the first two up to a multiple of 32.
        """
        layers = self.vote, self.token_weight, self.image[0]
        sources = [parameter for layer in layers for parameter in layer.parameters()]
        weights, biases = sources[::2], sources[1::2]
        unused = -(FINE_GRADES + 1) % 32

        def compute() -> Derived:
            return tuple(
                torch.cat([vote, weight, vote.new_zeros((unused, *vote.shape[1:])), image])
                for vote, weight, image in (weights, biases)
            )

        return self.derived("tokens", sources, self.vote.weight.dtype, compute)

    def _joint_layer(self, dtype: torch.dtype) -> Derived:
        """Weight and bias of the MLP's last layer and the gain, over the temperature; grades."""
        sources = [*self.image[2].parameters(), self.gain, self.temperature]

        def compute() -> Derived:
            *parameters, temperature = (source.to(dtype) for source in sources)
            return tuple(parameter / temperature for parameter in parameters)

        return *self.derived("joint", sources, dtype, compute), self._grades(dtype)

    def _grades(self, dtype: torch.dtype) -> Tensor:
        """[21], value of each grade."""
        (grades,) = self.derived(
            "grades", [self.grade_index], dtype, lambda: (self.grade_index.to(dtype) * FINE_STEP,)
        )
        return grades

    def _image(self, pooled: Tensor) -> Tensor:
        """[B, C] -> [B, 21], in the dtype of ``pooled``."""
        first, gelu, last = self.image
        parameters = [*first.parameters(), *last.parameters()]
        weight, bias, *output = self.wide("image", pooled.dtype, *parameters)
        return nn.functional.linear(gelu(nn.functional.linear(pooled, weight, bias)), *output)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast; no context, and no graph node, if autocast is off."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
