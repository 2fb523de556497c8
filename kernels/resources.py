"""What the shipped launch configurations cost on each GPU generation, found without a GPU.

``python -m clinreadnet.kernels.resources`` compiles each kernel for each compute capability and
writes docs/kernels.md. Registers and spills are what cuobjdump reads from the compiled
kernel.
"""

from __future__ import annotations

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

from clinreadnet.kernels.sobel_stem_triton import (
    _sobel_stem_fwd_kernel,
    sobel_stem_config,
    sobel_stem_constants,
)
from clinreadnet.kernels.window_attention_triton import (
    _window_attention_fwd_kernel,
    window_attention_config,
    window_attention_constants,
)

SHARED_MEMORY = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that one block can use, by compute capability (CUDA programming guide,
"technical specifications per compute capability")."""

POINTER_ALIGNMENT = 16
"""Bytes that the address of each tensor is taken to be a multiple of."""

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
    """What one compiled kernel takes."""

    registers: int
    """Of each thread."""
    stack: int
    """Bytes of each thread in local memory: spilled registers, since no kernel has arrays."""
    shared: int
    """Bytes of each block."""


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


def compiled(case: Case) -> Any:
    """Compile ``case`` with Triton; the machine code is in ``asm``, its launch in ``metadata``."""
    names = case.kernel.arg_names
    # A launch says the same of pointers that come from torch.
    aligned = {
        (names.index(name),): [["tt.divisibility", POINTER_ALIGNMENT]]
        for name, kind in case.signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(case.kernel, case.signature, case.constants, aligned)
    with knobs.compilation.scope():
        knobs.compilation.disable_line_info = True  # it holds this machine's paths
        return triton.compile(
            source,
            target=GPUTarget("cuda", case.capability, 32),
            options={"num_warps": case.num_warps},
        )


def resources(case: Case) -> Resources:
    """Compile ``case`` and read what it takes."""
    return resources_of(compiled(case))


def resources_of(kernel: Any) -> Resources:
    """Read what a kernel from ``compiled`` takes."""
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


def _shipped(kernel: str, capability: int, dtype: torch.dtype) -> Case:
    """The kernel as the preset ``small`` uses it."""
    if kernel == "sobel_stem":
        return sobel_stem_case(capability, 24, dtype)
    return window_attention_case(capability, 8, 4, 16, 3, dtype)


def page() -> Iterator[str]:
    """Lines of docs/kernels.md."""
    yield f"""\
# Kernels

<!-- Written by `make kernel-table`. -->

What the kernels of the preset `small` (24 stem channels; window 8, shift 4, head_dim 16, 3 octaves)
take with the launch configurations in `kernels/configs`, compiled with Triton {triton.__version__}
for each compute capability: **registers of a thread / spilled bytes of a thread / KiB of shared
memory of a block**. float32 is the full-precision mode: three TF32 products for each. sm_75 has
smaller tiles, because Triton multiplies there without tensor cores.

The kernels have run in Triton's interpreter only, never on a GPU. GPU speed: not measured.
"""
    header = [f"sm_{capability}" for capability in SHARED_MEMORY]
    yield f"| kernel | type | {' | '.join(header)} |"
    yield "|---" * (2 + len(header)) + "|"
    for kernel in ("sobel_stem", "window_attention"):
        for dtype in _POINTERS:
            taken = [resources(_shipped(kernel, sm, dtype)) for sm in SHARED_MEMORY]
            cells = [f"{r.registers} / {r.stack} / {r.shared / 1024:.1f}" for r in taken]
            yield f"| `{kernel}` | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in page():
        print(line, flush=True)
