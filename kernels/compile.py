"""Compile a kernel for a GPU architecture and read its resources. No GPU is needed.

cuobjdump reads registers and spills from the compiled kernel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from clinreadnet.kernels.spec import Case

SHARED_MEMORY = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""Shared memory per block in KiB, by compute capability (CUDA programming guide, "technical
specifications per compute capability")."""

MOST_SPILLED = 0 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7) else 16
"""Accepted spills per thread in bytes: 0 with the assembler of Triton 3.7. That of Triton 3.6
spills two to four registers of some shipped kernels."""

POINTER_ALIGNMENT = 16
"""Alignment of tensor addresses in bytes that kernels assume."""


@dataclass(frozen=True)
class Resources:
    """Resources of a compiled kernel."""

    registers: int
    """Registers per thread."""
    stack: int
    """Local memory per thread in bytes: spilled registers, because no kernel has arrays."""
    shared: int
    """Shared memory per block in bytes."""

    @property
    def spills(self) -> bool:
        """Whether the kernel spills more registers than accepted."""
        return self.stack > MOST_SPILLED


def compiled(case: Case, ptx_version: int | None = None) -> Any:
    """Compile ``case`` with Triton. ``asm`` contains the machine code, ``metadata`` the launch.

    Args:
        case: case to compile.
        ptx_version: version of the PTX, 87 for ISA 8.7; default the newest of Triton.
    """
    names = case.kernel.arg_names
    # A launch assumes the same alignment for pointers from torch.
    aligned = {
        (names.index(name),): [["tt.divisibility", POINTER_ALIGNMENT]]
        for name, kind in case.signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(case.kernel, case.signature, case.constants, aligned)
    with knobs.compilation.scope():
        knobs.compilation.disable_line_info = True  # it would contain file paths
        return triton.compile(
            source,
            target=GPUTarget("cuda", case.capability, 32),
            options={"num_warps": case.num_warps}
            | ({} if ptx_version is None else {"ptx_version": ptx_version}),
        )


def resources(case: Case) -> Resources:
    """Compile ``case`` and read its resources."""
    return resources_of(compiled(case))


def run_on_cubin(tool: str, option: str, cubin: bytes) -> str:
    """Return the output of a CUDA tool, such as cuobjdump, for a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        return subprocess.run(
            [tool, option, file.name], capture_output=True, text=True, check=True
        ).stdout


def resources_of(kernel: Any) -> Resources:
    """Read the resources of a kernel that ``compiled`` returned."""
    usage = run_on_cubin(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", kernel.asm["cubin"])
    registers, stack, local = (
        int(re.search(rf"{name}:(\d+)", usage)[1])  # type: ignore[index]
        for name in ("REG", "STACK", "LOCAL")
    )
    return Resources(registers, stack + local, kernel.metadata.shared)


def launch_obstacle(taken: Resources, capability: int) -> str | None:
    """Return why a kernel with these resources cannot be launched on an architecture, or None."""
    if taken.spills:
        return f"spills {taken.stack} bytes"
    nearest = max((c for c in SHARED_MEMORY if c <= capability), default=min(SHARED_MEMORY))
    limit = SHARED_MEMORY[nearest] * 1024
    if taken.shared > limit:
        return f"takes {taken.shared} of {limit} bytes of shared memory"
    return None
