"""The ClinReadNet network: Hounsfield units -> distribution over quality grades.

Based on ClinReadNet (arXiv 2606.10372), of which only the abstract is public. docs/model.md lists
the choices that are specific to this package.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clinreadnet.errors import InputError
from clinreadnet.kernels import Impl, fused_linear, fused_linear_obstacle, mlp, mlp_obstacle
from clinreadnet.kernels.ops.fused_linear.reference import merge_patches
from clinreadnet.model.attention import LayerNorm, MultiTemperatureAttention
from clinreadnet.model.soqn import (
    Novelty,
    OrdinalHead,
    Prediction,
    SobelStem,
    TileStatistics,
    TileVotes,
)


@dataclass(frozen=True)
class ClinReadNetConfig:
    """Hyperparameters of the network."""

    preset: str = "small"
    embed_dim: int = 48
    """Channels of the first stage. Each later stage doubles them."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    heads: tuple[int, ...] = (3, 6, 12, 24)
    """Attention heads of each stage."""
    window: int = 8
    """Side of an attention window in tokens."""
    octaves: int = 3
    """Sharpness levels T of the attention."""
    mlp_ratio: int = 4
    """Hidden channels of a block's MLP over its channels."""
    image_dim: int = 128
    """Hidden channels of the MLP that reads the image's pooled tokens."""
    use_sobel: bool = True
    """Whether Sobel edges are input channels of the stem; False for ablations."""
    use_attention: bool = True
    """Whether blocks have attention; False keeps only their MLPs, for ablations."""

    @classmethod
    def from_preset(cls, preset: str) -> ClinReadNetConfig:
        """Return the configuration called ``preset``.

        Raises:
            InputError: unknown preset; the message lists the known ones.
        """
        if preset not in PRESETS:
            raise InputError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        return PRESETS[preset]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ClinReadNetConfig:
        """Inverse of ``to_dict``."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**values)


PRESETS = {
    config.preset: config
    for config in (
        ClinReadNetConfig("tiny", embed_dim=32, depths=(1, 1, 2, 1), heads=(2, 4, 8, 16)),
        ClinReadNetConfig("small"),
        ClinReadNetConfig("base", embed_dim=96),
    )
}
"""tiny: 1.5 M parameters, for tests; small: 7.0 M, the default; base: 27.7 M, Swin-T's size."""


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With ``fused`` and ``kernels`` other than "reference", each half runs in one launch if its
    kernel supports the input, otherwise with fused linear layers if supported (docs/kernels.md),
    otherwise as written above.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        shift: int,
        config: ClinReadNetConfig,
        kernels: Impl,
        fused: bool = True,
    ):
        super().__init__()
        self.kernels = kernels
        self.fuses_attention = self.fuses_mlp = self.fuses_linear = fused and kernels != "reference"
        self.attends = config.use_attention
        if self.attends:
            self.norm1 = LayerNorm(dim)
            self.attention = MultiTemperatureAttention(
                dim, heads, config.window, shift, config.octaves, kernels
            )
        self.norm2 = LayerNorm(dim)
        hidden = config.mlp_ratio * dim
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        if self.attends:
            x = self._attend(x)
        return self._mix(x)

    @torch.no_grad()
    def damp(self) -> None:
        """Halve the residual branches, so that the stack starts near the identity."""
        if self.attends:
            self.attention.projection.weight.mul_(0.5)
        self.mlp.get_submodule("2").get_parameter("weight").mul_(0.5)

    def _attend(self, x: Tensor) -> Tensor:
        if self.fuses_attention and self.attention.fused_obstacle(x, self.norm1) is None:
            return self.attention.fused(x, self.norm1)
        if self.fuses_linear and self.attention.fused_linears_obstacle(x, self.norm1) is None:
            return self.attention.fused_linears(x, self.norm1)
        return x + self.attention(self.norm1(x))

    def _mix(self, x: Tensor) -> Tensor:
        layers = [*self.norm2.parameters(), *self.mlp.parameters()]
        if self.fuses_mlp and mlp_obstacle(x, layers) is None:
            return mlp(x, *layers, eps=self.norm2.eps, impl=self.kernels)
        if self.fuses_linear and fused_linear_obstacle(x, layers) is None:
            norm, fc1, fc2 = layers[:2], layers[2:4], layers[4:]
            eps, kernels = self.norm2.eps, self.kernels
            hidden = fused_linear(x, *fc1, *norm, gelu=True, eps=eps, impl=kernels)
            return fused_linear(hidden, *fc2, residual=x, impl=kernels)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Merge 2x2 neighbouring tokens: halve each side and double the channels.

    With ``fused`` and ``kernels`` other than "reference", one launch if its kernel supports the
    input.
    """

    def __init__(self, dim: int, kernels: Impl, fused: bool = True):
        super().__init__()
        self.kernels = kernels
        self.fuses_linear = fused and kernels != "reference"
        self.norm = LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H / 2, W / 2, 2C]."""
        weight, norm = self.reduction.weight, (self.norm.weight, self.norm.bias)
        if self.fuses_linear and fused_linear_obstacle(x, (weight, *norm), merge=True) is None:
            eps, kernels = self.norm.eps, self.kernels
            return fused_linear(x, weight, None, *norm, merge=True, eps=eps, impl=kernels)
        return self.reduction(self.norm(merge_patches(x)))


class ClinReadNet(nn.Module):
    """No-reference image quality network for CT slices.

    Args:
        config: hyperparameters; default the preset ``small``.
        kernels: implementation of the ops. "auto" uses Triton if supported, otherwise plain
            PyTorch; "triton" and "reference" never fall back. The default stays "reference" until
            the kernels have been checked on a GPU (docs/kernels.md).
        fused: whether to use the kernels of whole halves of a block (``attention_block``, ``mlp``)
            where supported: 48 or 96 channels, compute capability 8.0 or later, and for
            ``attention_block`` float16 or bfloat16; ``fused_linear`` in the other halves and
            between the stages, and ``ordinal_head``, in float16 or bfloat16 on the same GPUs;
            ``region_statistics``; and the encoding of Hounsfield units in ``sobel_stem``.
            Elsewhere, and with false, ``kernels`` is the implementation of ``sobel_stem`` and
            ``window_attention`` alone.
    """

    def __init__(
        self,
        config: ClinReadNetConfig | None = None,
        kernels: Impl = "reference",
        *,
        fused: bool = True,
    ):
        super().__init__()
        self.config = config = config or ClinReadNetConfig()
        self.stem = SobelStem(config.embed_dim, kernels, fused=fused, use_sobel=config.use_sobel)
        outer: Impl = kernels if fused else "reference"
        self.statistics = TileStatistics(config.embed_dim, outer)
        self.novelty = Novelty(2 * config.embed_dim, outer)
        self.stages = nn.ModuleList()
        dim = config.embed_dim
        for i, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            layers: list[nn.Module] = []
            if i > 0:
                layers.append(PatchMerging(dim, kernels, fused))
                dim *= 2
            for j in range(depth):
                # Odd blocks shift by half a window, so that information crosses window borders.
                shift = config.window // 2 if j % 2 else 0
                layers.append(Block(dim, heads, shift, config, kernels, fused))
            self.stages.append(nn.Sequential(*layers))
        self.head = OrdinalHead(dim, config.image_dim, outer)
        self.apply(_initialise)
        with torch.no_grad():
            for block in self.modules():
                if isinstance(block, Block):
                    block.damp()
            # At initialisation the image's distribution is the mixture of its tiles' votes.
            nn.init.zeros_(self.head.image.get_submodule("2").get_parameter("weight"))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.stem.conv1.weight.dtype

    def forward(self, hu: Tensor) -> Prediction:
        """Score slices.

        Args:
            hu: [B, 1, H, W] Hounsfield units, any float dtype; H and W multiples of 256
                (512 for valid scores).

        Returns:
            Prediction: score [B], probs [B, 21], quality_map [B, H / 32, W / 32], novelty [B].
        """
        stem = self.stem.from_hu(hu)
        tokens = self.attend(stem)
        outputs = self.head.fused(tokens)
        if outputs is None:
            return self.read(tokens, stem)[0]
        return Prediction(*outputs, self.novelty(self.statistics(stem)))

    def predict(self, hu: Tensor) -> tuple[Prediction, TileVotes]:
        """Score slices as ``forward`` does, and also return the votes of their tiles."""
        stem = self.stem.from_hu(hu)
        return self.read(self.attend(stem), stem)

    def read(self, tokens: Tensor, stem: Tensor) -> tuple[Prediction, TileVotes]:
        """Apply the head to the tokens of the last stage and of the stem; see ``predict``."""
        score, probs, quality_map, tiles = self.head(tokens)
        novelty = self.novelty(self.statistics(stem))
        return Prediction(score, probs, quality_map, novelty), tiles

    def attend(self, x: Tensor) -> Tensor:
        """Run the stages: tokens of the stem [B, H / 4, W / 4, C] -> [B, H / 32, W / 32, 8C]."""
        for stage in self.stages:
            x = stage(x)
        return x

    @torch.no_grad()
    def calibrate(self, hu: Tensor) -> None:
        """Set mean and deviation of the edge statistics before training.

        Args:
            hu: [B, 1, H, W] Hounsfield units of training slices.
        """
        raw = [self.statistics.raw(self.stem.from_hu(image)) for image in hu.split(1)]
        self.statistics.calibrate(torch.cat(raw))


def _initialise(module: nn.Module) -> None:
    # With a smaller deviation, a narrow MLP is nearly linear and cannot measure noise, whose mean
    # is zero.
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
