"""The network's expensive operations, each behind one function.

For each op: ``<op>.py`` checks arguments and chooses an implementation, ``<op>_reference.py`` holds
the mathematics in plain PyTorch, ``<op>_triton.py`` the kernel. Triton is imported when a kernel is
first asked for, not before.
"""

from __future__ import annotations

if __name__ != "clinreadnet.kernels":
    raise ImportError(
        "import clinreadnet.kernels instead: the folder kernels/ is installed under that name"
    )

# Each name is bound to the function after its module of the same name was imported, and stays so.
from clinreadnet.kernels.dispatch import Impl
from clinreadnet.kernels.ops.attention_block.op import attention_block, attention_block_obstacle
from clinreadnet.kernels.ops.mlp.op import mlp, mlp_obstacle
from clinreadnet.kernels.ops.sobel_stem.op import sobel_stem
from clinreadnet.kernels.ops.window_attention.op import window_attention

__all__ = [
    "Impl",
    "attention_block",
    "attention_block_obstacle",
    "mlp",
    "mlp_obstacle",
    "sobel_stem",
    "window_attention",
]
