"""Resources of the shipped launch configurations on each GPU generation; needs no GPU.

``python -m clinreadnet.kernels.compile`` compiles each kernel for each compute capability and
writes docs/kernels.md. cuobjdump reads registers and spills from the compiled
kernel.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from clinreadnet.kernels.dispatch import FUSED_CHANNELS
from clinreadnet.kernels.ops.attention_block.kernel import (
    _attention_block_fwd_kernel,
    attention_block_config,
    attention_block_constants,
)
from clinreadnet.kernels.ops.mlp.kernel import _mlp_fwd_kernel, mlp_config, mlp_constants
from clinreadnet.kernels.ops.sobel_stem.kernel import (
    _sobel_stem_fwd_kernel,
    sobel_stem_config,
    sobel_stem_constants,
)
from clinreadnet.kernels.ops.window_attention.kernel import (
    _window_attention_fwd_kernel,
    window_attention_config,
    window_attention_constants,
)

SHARED_MEMORY = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that one block can use, by compute capability (CUDA programming guide,
"technical specifications per compute capability")."""

POINTER_ALIGNMENT = 16
"""Assumed alignment of the address of each tensor, in bytes."""

_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True)
class Case:
    """A kernel with everything that decides its machine code."""

    op: str
    capability: int
    """Compute capability as one number, 89 for 8.9."""
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int


@dataclass(frozen=True)
class Resources:
    """Resources of one compiled kernel."""

    registers: int
    """Registers of a thread."""
    stack: int
    """Local memory of a thread in bytes: spilled registers, since no kernel has arrays."""
    shared: int
    """Shared memory of a block in bytes."""


def _signature(kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> dict[str, str]:
    return {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in kernel.arg_names
    }


def sobel_stem_case(
    capability: int, c0: int, dtype: torch.dtype, *, wide_input: bool = True
) -> Case:
    """The stem with ``c0`` output channels; x in float32 unless ``wide_input`` is false."""
    config = sobel_stem_config(c0, "", capability)
    constants = sobel_stem_constants(c0, config)
    pointer = _POINTERS[dtype]
    pointers = {
        "x_ptr": "*fp32" if wide_input else pointer,
        "weight_ptr": pointer,
        "bias_ptr": pointer,
        "out_ptr": pointer,
    }
    kernel = _sobel_stem_fwd_kernel
    signature = _signature(kernel, pointers, constants)
    return Case(
        "sobel_stem",
        capability,
        kernel,
        signature,
        constants,
        config.num_warps,
    )


def window_attention_case(
    capability: int, window: int, shift: int, head_dim: int, octaves: int, dtype: torch.dtype
) -> Case:
    """Attention with these compile-time arguments."""
    config = window_attention_config(window, dtype, "", capability)
    constants = window_attention_constants(window, shift, head_dim, octaves, config)
    pointers = {
        "qkv_ptr": _POINTERS[dtype],
        "bias_ptr": "*fp32",
        "inv_temperature_ptr": "*fp32",
        "gates_ptr": "*fp32",
        "out_ptr": _POINTERS[dtype],
    }
    kernel = _window_attention_fwd_kernel
    signature = _signature(kernel, pointers, constants)
    return Case(
        "window_attention",
        capability,
        kernel,
        signature,
        constants,
        config.num_warps,
    )


def attention_block_case(
    capability: int,
    channels: int,
    heads: int,
    window: int,
    shift: int,
    octaves: int,
    dtype: torch.dtype,
) -> Case:
    """The fused attention half of a block with these compile-time arguments."""
    config = attention_block_config(channels, dtype, "", capability)
    constants = attention_block_constants(channels, heads, octaves, window, shift, 1e-5, config)
    kernel = _attention_block_fwd_kernel
    pointers = {name: _POINTERS[dtype] for name in kernel.arg_names if name.endswith("_ptr")}
    pointers |= dict.fromkeys(("position_bias_ptr", "inv_temperature_ptr", "gates_ptr"), "*fp32")
    signature = _signature(kernel, pointers, constants)
    return Case(
        "attention_block",
        capability,
        kernel,
        signature,
        constants,
        config.num_warps,
    )


def mlp_case(capability: int, channels: int, dtype: torch.dtype) -> Case:
    """The fused MLP half of a block, four times as wide inside."""
    config = mlp_config(channels, dtype, "", capability)
    constants = mlp_constants(channels, 4 * channels, 1e-5, config)
    kernel = _mlp_fwd_kernel
    pointers = {name: _POINTERS[dtype] for name in kernel.arg_names if name.endswith("_ptr")}
    signature = _signature(kernel, pointers, constants)
    return Case(
        "mlp",
        capability,
        kernel,
        signature,
        constants,
        config.num_warps,
    )


def compiled(case: Case) -> Any:
    """Compile ``case`` with Triton; the machine code is in ``asm``, the launch in ``metadata``."""
    names = case.kernel.arg_names
    # A launch assumes the same of pointers from torch.
    aligned = {
        (names.index(name),): [["tt.divisibility", POINTER_ALIGNMENT]]
        for name, kind in case.signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(case.kernel, case.signature, case.constants, aligned)
    with knobs.compilation.scope():
        knobs.compilation.disable_line_info = True  # it would contain paths of this machine
        return triton.compile(
            source,
            target=GPUTarget("cuda", case.capability, 32),
            options={"num_warps": case.num_warps},
        )


def resources(case: Case) -> Resources:
    """Compile ``case`` and read its resources."""
    return resources_of(compiled(case))


def resources_of(kernel: Any) -> Resources:
    """Read the resources of a kernel from ``compiled``."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(kernel.asm["cubin"])
        usage = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, stack, local = (
        int(re.search(rf"{name}:(\d+)", usage)[1])  # type: ignore[index]
        for name in ("REG", "STACK", "LOCAL")
    )
    return Resources(registers, stack + local, kernel.metadata.shared)


def _shipped(kernel: str, capability: int, dtype: torch.dtype, channels: int) -> Case | None:
    """The kernel as the preset ``small`` uses it, or None where it is refused."""
    if kernel == "sobel_stem":
        return sobel_stem_case(capability, channels, dtype)
    if kernel == "window_attention":
        return window_attention_case(capability, 8, 4, 16, 3, dtype)
    if capability < 80:
        return None
    if kernel == "mlp":
        return mlp_case(capability, channels, dtype)
    if dtype == torch.float32:
        return None
    return attention_block_case(capability, channels, channels // 16, 8, 4, 3, dtype)


def _cell(case: Case | None) -> str:
    if case is None:
        return "refused"
    taken = resources(case)
    return f"{taken.registers} / {taken.stack} / {taken.shared / 1024:.1f}"


def page() -> Iterator[str]:
    """Yield the lines of docs/kernels.md."""
    yield f"""\
# Kernels

<!-- Written by `make kernel-table`. -->

Resources of the kernels of the preset `small` (window 8, shift 4, head_dim 16, 3 octaves) with the
launch configurations in `kernels/configs`, compiled with Triton {triton.__version__} for each
compute capability: **registers of a thread / spilled bytes of a thread / KiB of shared memory of a
block**. float32 is the full-precision mode: three TF32 products for each. sm_75 has smaller tiles,
because Triton multiplies there without tensor cores.

`attention_block` and `mlp` are the two halves of a block, each fused from its LayerNorm to its
residual; they hold all channels C of a token, 48 or 96 (stages 1 and 2 of `small`). If one is
refused, the network runs that half unfused.

The kernels have run only in Triton's interpreter, not on a GPU. GPU speed: not measured. A fused
kernel that is not faster on a GPU than its unfused form will be removed (`pytest
bench/test_kernels.py` times both).
"""
    header = [f"sm_{capability}" for capability in SHARED_MEMORY]
    yield f"| kernel | C | type | {' | '.join(header)} |"
    yield "|---" * (3 + len(header)) + "|"
    for kernel, channels in (
        ("sobel_stem", 24),
        ("window_attention", 48),
        *itertools.product(("attention_block", "mlp"), FUSED_CHANNELS),
    ):
        for dtype in _POINTERS:
            cells = [_cell(_shipped(kernel, sm, dtype, channels)) for sm in SHARED_MEMORY]
            name = str(dtype).removeprefix("torch.")
            yield f"| `{kernel}` | {channels} | {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in page():
        print(line, flush=True)
