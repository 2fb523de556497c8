"""The compute-intensive ops of the network.

For each op, ``ops/<op>/`` contains ``op.py``, the public function, which checks arguments and
chooses an implementation; ``reference.py``, the mathematics in plain PyTorch; ``kernel.py``, the
Triton kernel; and ``spec.py``, limits, shapes, work and candidates. Triton is imported when a
kernel is first used.
"""

from __future__ import annotations

if __name__ != "clinreadnet.kernels":
    raise ImportError(
        "import clinreadnet.kernels instead: the folder kernels/ is installed under that name"
    )

from clinreadnet.kernels.dispatch import Impl
from clinreadnet.kernels.ops.attention_block.op import attention_block, attention_block_obstacle
from clinreadnet.kernels.ops.fused_linear.op import fused_linear, fused_linear_obstacle
from clinreadnet.kernels.ops.mlp.op import mlp, mlp_obstacle
from clinreadnet.kernels.ops.ordinal_head.op import ordinal_head, ordinal_head_obstacle
from clinreadnet.kernels.ops.region_statistics.op import (
    region_statistics,
    region_statistics_obstacle,
)
from clinreadnet.kernels.ops.sobel_stem.op import sobel_stem, sobel_stem_obstacle
from clinreadnet.kernels.ops.window_attention.op import window_attention

__all__ = [
    "Impl",
    "attention_block",
    "attention_block_obstacle",
    "fused_linear",
    "fused_linear_obstacle",
    "mlp",
    "mlp_obstacle",
    "ordinal_head",
    "ordinal_head_obstacle",
    "region_statistics",
    "region_statistics_obstacle",
    "sobel_stem",
    "sobel_stem_obstacle",
    "window_attention",
]
