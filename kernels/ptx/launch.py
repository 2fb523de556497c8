"""Launch exported kernels according to ``kernels.json``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.machine import Machine
from clinreadnet.kernels.ptx.memory import GlobalMemory
from clinreadnet.kernels.ptx.parse import parse
from clinreadnet.kernels.ptx.program import Program

LANES = 4096
"""Number of concurrent threads. More need more memory, fewer need more time."""

_SAME_BITS = {torch.bfloat16: torch.int16}
"""Types that NumPy lacks, and the types for their bits."""


@dataclass(frozen=True)
class Kernel:
    """An entry of ``kernels.json`` with its file.

    Attributes:
        entry: entry of the list of kernels.
        code: content of the file: PTX or machine code.
    """

    entry: Mapping[str, Any]
    code: bytes = field(repr=False)

    @property
    def file(self) -> str:
        """Name of the file, with kernel, precision and target."""
        return str(self.entry["file"])

    @cached_property
    def text(self) -> str:
        """Text of a PTX file."""
        return self.code.decode("utf-8", "replace")

    @cached_property
    def program(self) -> Program:
        """Instructions of the file."""
        program = parse(self.text, self.entry["entry"])
        if program.threads != self.entry["block"][0]:
            raise PtxError("kernels.json and the file differ in the threads of a block")
        return program

    @cached_property
    def body(self) -> str:
        """Text without version and target. Kernels with equal bodies are equivalent."""
        lines = self.text.splitlines()
        return "\n".join(line for line in lines if not line.startswith((".version", ".target")))


@dataclass(frozen=True)
class Run:
    """Result of a launch.

    Attributes:
        out: output.
        executed: positions of the program that a thread has run.
        steps: number of instructions. Those of concurrent blocks count once.
    """

    out: Tensor
    executed: frozenset[int]
    steps: int


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,  # C's division of integers
}


def evaluated(formula: str, sizes: Mapping[str, int]) -> int:
    """Evaluate a C expression of ``kernels.json``.

    Raises:
        ValueError: it contains anything except integers, sizes, ``+``, ``-``, ``*`` and ``/``.
    """

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and node.id in sizes:
            return sizes[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError(f"{formula!r} is not an expression of {', '.join(sizes)}")

    try:
        return value(ast.parse(formula.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, RecursionError):
        raise ValueError(f"{formula!r} is not an expression of {', '.join(sizes)}") from None


@dataclass(frozen=True)
class Bound:
    """An argument of a launch.

    Attributes:
        name: name in ``kernels.json``.
        c_type: "CUdeviceptr" or "int32_t".
        value: a number, or the contiguous tensor to point to; "out" is uninitialised.
    """

    name: str
    c_type: str
    value: int | Tensor


def bound(
    kernel: Kernel, tensors: Mapping[str, Tensor], sizes: Mapping[str, int]
) -> Iterator[Bound]:
    """Yield the arguments of a launch in order; parameters and errors as in `launch`."""
    for argument in kernel.entry["arguments"]:
        name, c_type = argument["name"], argument["c_type"]
        if argument["value"] is not None:
            yield Bound(name, c_type, argument["value"])
        elif c_type == "int32_t":
            yield Bound(name, c_type, sizes[name])
        else:
            shape = [evaluated(size, sizes) for size in argument["shape"].strip("[]").split(",")]
            dtype = getattr(torch, argument["element"])
            tensor = torch.empty(shape, dtype=dtype) if name == "out" else tensors[name]
            if (tensor.dtype, tensor.numel()) != (dtype, int(np.prod(shape))):
                raise ValueError(f"{kernel.file}: {name} is {tensor.dtype} {list(tensor.shape)}")
            yield Bound(name, c_type, tensor.contiguous())


def grid_of(kernel: Kernel, sizes: Mapping[str, int]) -> int:
    """Return the number of blocks of a launch."""
    return evaluated(kernel.entry["grid"][0], sizes)


def launch(
    kernel: Kernel,
    tensors: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    program: Program | None = None,
) -> Run:
    """Run a kernel.

    Args:
        kernel: exported kernel.
        tensors: inputs by argument name.
        sizes: sizes of the launch by name.
        program: program to run instead of the kernel's, such as a mutant.

    Raises:
        PtxError: the program does what no program may.
        ValueError: the tensors do not match ``kernels.json``.
    """
    program = program or kernel.program
    memory = GlobalMemory(kernel.entry["pointer_alignment"])
    arguments: list[int] = []
    out: Tensor | None = None
    for argument in bound(kernel, tensors, sizes):
        value = argument.value
        if isinstance(value, Tensor):
            output = argument.name == "out"
            out = value if output else out
            value = memory.put(argument.name, bits_of(value), output=output)
        arguments.append(value)
    assert out is not None
    shared = kernel.entry["dynamic_shared_bytes"]
    return execute(program, arguments, grid_of(kernel, sizes), shared, memory, out)


def execute(
    program: Program,
    arguments: Sequence[int],
    grid: int,
    shared: int,
    memory: GlobalMemory,
    out: Tensor,
) -> Run:
    """Run every block of a launch.

    Args:
        program: program to run.
        arguments: values of all parameters.
        grid: number of blocks.
        shared: shared memory per block in bytes.
        memory: memory with the tensors, and the output as "out".
        out: array with shape and type of the output.

    Raises:
        PtxError: the program does what no program may.
    """
    if len(arguments) != len(program.parameters):
        raise PtxError(
            f"{program.entry} has {len(program.parameters)} parameters, is passed {len(arguments)}"
        )
    together = max(1, LANES // program.threads)
    executed: set[int] = set()
    steps = 0
    for first in range(0, grid, together):
        blocks = range(first, min(grid, first + together))
        machine = Machine(program, arguments, grid, blocks, shared, memory)
        steps += machine.run()
        executed |= machine.executed
    if left := memory.unwritten("out"):
        raise PtxError(f"{left} bytes of the output are never written")
    bits = memory.fetch("out", bits_of(out))
    out = torch.from_numpy(bits).view(out.dtype).reshape(out.shape)
    return Run(out, frozenset(executed), steps)


def bits_of(tensor: Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array with the same bits."""
    return tensor.view(_SAME_BITS.get(tensor.dtype, tensor.dtype)).numpy()
