"""Resources of the shipped launch configurations on each GPU generation; needs no GPU.

``python -m clinreadnet.kernels.compile`` compiles each kernel for each compute capability and
writes docs/kernels.md. cuobjdump reads registers and spills from the compiled
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

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from clinreadnet.kernels.dispatch import DTYPES, listed
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import FUSED_CHANNELS, STAGES, Case

SHARED_MEMORY = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that one block can use, by compute capability (CUDA programming guide,
"technical specifications per compute capability")."""

POINTER_ALIGNMENT = 16
"""Assumed alignment of the address of each tensor, in bytes."""


@dataclass(frozen=True)
class Resources:
    """Resources of one compiled kernel."""

    registers: int
    """Registers of a thread."""
    stack: int
    """Local memory of a thread in bytes: spilled registers, since no kernel has arrays."""
    shared: int
    """Shared memory of a block in bytes."""


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


def _cell(case: Case | None) -> str:
    if case is None:
        return "refused"
    taken = resources(case)
    return f"{taken.registers} / {taken.stack} / {taken.shared / 1024:.1f}"


def page() -> Iterator[str]:
    """Yield the lines of docs/kernels.md."""
    small, channels = STAGES[0], listed(FUSED_CHANNELS)
    sizes = f"window {small.window}, shift {small.shift}, head_dim {small.head_dim}"
    yield f"""\
# Kernels

<!-- Written by `make kernel-table`. -->

Resources of the kernels of the preset `small` ({sizes}, {small.octaves} octaves) with the
launch configurations in `kernels/configs`, compiled with Triton {triton.__version__} for each
compute capability: **registers of a thread / spilled bytes of a thread / KiB of shared memory of a
block**. float32 is the full-precision mode: three TF32 products for each. sm_75 has smaller tiles,
because Triton multiplies there without tensor cores.

`attention_block` and `mlp` are the two halves of a block, each fused from its LayerNorm to its
residual; they hold all channels C of a token, {channels} (stages 1 and 2 of `small`). If one is
refused, the network runs that half unfused.

The kernels have run only in Triton's interpreter, not on a GPU. GPU speed: not measured. A fused
kernel that is not faster on a GPU than its unfused form will be removed (`pytest
bench/test_kernels.py` times both).
"""
    header = [f"sm_{capability}" for capability in SHARED_MEMORY]
    yield f"| kernel | C | type | {' | '.join(header)} |"
    yield "|---" * (3 + len(header)) + "|"
    for spec in OPS.values():
        for shape in spec.compiled:
            for dtype in DTYPES:
                cells = [_cell(spec.case(sm, dtype, shape)) for sm in SHARED_MEMORY]
                yield f"| `{spec.name}` | {shape.channels} | {dtype} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in page():
        print(line, flush=True)
