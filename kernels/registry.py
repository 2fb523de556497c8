"""All ops with a kernel, in the order of the tables."""

from __future__ import annotations

from clinreadnet.kernels.ops.attention_block.spec import ATTENTION_BLOCK
from clinreadnet.kernels.ops.fused_linear.spec import FUSED_LINEAR
from clinreadnet.kernels.ops.mlp.spec import MLP
from clinreadnet.kernels.ops.ordinal_head.spec import ORDINAL_HEAD
from clinreadnet.kernels.ops.region_statistics.spec import REGION_STATISTICS
from clinreadnet.kernels.ops.sobel_stem.spec import SOBEL_STEM
from clinreadnet.kernels.ops.window_attention.spec import WINDOW_ATTENTION
from clinreadnet.kernels.spec import OpSpec

OPS: dict[str, OpSpec] = {
    spec.name: spec
    for spec in (
        SOBEL_STEM,
        WINDOW_ATTENTION,
        ATTENTION_BLOCK,
        MLP,
        FUSED_LINEAR,
        ORDINAL_HEAD,
        REGION_STATISTICS,
    )
}
"""Specs by name of the op."""
