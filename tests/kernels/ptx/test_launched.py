"""The code that Triton's launcher compiles, run on the CPU against a float64 oracle.

The launcher specialises sizes: those divisible by 16 are assumed to be, and a size of 1 is a
constant. The files of ``export-kernels`` have neither assumption.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from clinreadnet.kernels.ptx.cases import Case
from clinreadnet.kernels.ptx.inputs import (
    attention_block_inputs,
    fused_linear_inputs,
    mlp_inputs,
    ordinal_head_inputs,
    region_statistics_inputs,
    stem_inputs,
    window_attention_inputs,
)
from clinreadnet.kernels.ptx.launch import bits_of, execute
from clinreadnet.kernels.ptx.memory import GlobalMemory
from clinreadnet.kernels.ptx.parse import parse
from clinreadnet.kernels.registry import OPS

pytestmark = pytest.mark.compile
HALF = torch.float16


@dataclass(frozen=True)
class Sample:
    """Arguments of an op, and how the launcher specialises the sizes of its kernel.

    Attributes:
        op: name of the op.
        tensors: tensors of the op.
        where: other arguments.
        ones: sizes that are the constant 1.
        multiples: sizes that are assumed to be divisible by 16.
    """

    op: str
    tensors: Sequence[Tensor | None]
    where: Mapping[str, Any]
    ones: frozenset[str] = frozenset()
    multiples: frozenset[str] = frozenset()


def mixed(tensors: Sequence[Tensor], halves: int) -> list[Tensor]:
    """Convert the first tensors to float16 and the others to float32."""
    return [t.to(HALF if i < halves else torch.float32) for i, t in enumerate(tensors)]


def stem(h: int, w: int) -> list[Tensor]:
    return list(stem_inputs(2, h, w, 24, HALF, HALF))


def attention(h: int, w: int, heads: int) -> list[Tensor]:
    return mixed(window_attention_inputs(1, h, w, heads, 16, 8, 3), 1)


def linear(*shape: int, **parts: bool) -> list[Tensor | None]:
    made = {k: v.to(HALF) for k, v in fused_linear_inputs(*shape, outputs=64, **parts).items()}
    names = ("x", "weight", "bias", "norm_weight", "norm_bias", "residual")
    return [made.get(name) for name in names]


WINDOWED = {"window": 8, "shift": 4}
EPS = {"eps": 1e-5}
LINEAR = {"gelu": False, "merge": False} | EPS
LOG = {"region_h": 8, "region_w": 8, "log": True}
ROOT = {"region_h": 4, "region_w": 1, "log": False}
SAMPLES = {
    "stem-16": Sample("sobel_stem", stem(16, 32), {}, multiples=frozenset("HW")),
    "stem-1": Sample("sobel_stem", stem(1, 48), {}, frozenset("H"), frozenset("W")),
    "attention-16": Sample(
        "window_attention",
        attention(16, 16, 1),
        WINDOWED,
        frozenset({"heads"}),
        frozenset("HW"),
    ),
    "attention-block-16": Sample(
        "attention_block",
        mixed(attention_block_inputs(1, 16, 16, 48, 3, 8, 3), 7),
        WINDOWED | EPS,
        multiples=frozenset("HW"),
    ),
    "mlp-1": Sample("mlp", mixed(mlp_inputs(1, 48, hidden=192), 7), EPS, frozenset({"tokens"})),
    "mlp-16": Sample(
        "mlp", mixed(mlp_inputs(80, 48, hidden=192), 7), EPS, multiples=frozenset({"tokens"})
    ),
    "linear-1": Sample("fused_linear", linear(1, 64, norm=True), LINEAR, frozenset({"tokens"})),
    "linear-16": Sample(
        "fused_linear", linear(48, 64, residual=True), LINEAR, multiples=frozenset({"tokens"})
    ),
    "merge-16": Sample(
        "fused_linear",
        linear(1, 4, 16, 32, norm=True, merge=True),
        LINEAR | {"merge": True},
        multiples=frozenset({"tokens", "W"}),
    ),
    "head-1": Sample(
        "ordinal_head", mixed(ordinal_head_inputs(2, 1, 21, 32, 128), 1), {}, frozenset("N")
    ),
    "head-16": Sample(
        "ordinal_head",
        mixed(ordinal_head_inputs(2, 80, 21, 32, 128), 1),
        {},
        multiples=frozenset("N"),
    ),
    "statistics-16": Sample(
        "region_statistics",
        mixed(region_statistics_inputs(2, 8, 16, 48), 1),
        LOG,
        multiples=frozenset("W"),
    ),
    "statistics-1": Sample(
        "region_statistics", mixed(region_statistics_inputs(2, 4, 1, 96), 0), ROOT, frozenset("W")
    ),
}


@dataclass(frozen=True)
class Launch:
    """What an op passes to Triton's launcher."""

    kernel: Any
    grid: int
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def launch_of(monkeypatch: pytest.MonkeyPatch, sample: Sample, capability: int) -> Launch:
    """Call an op with a launcher that only records."""
    module = importlib.import_module(f"clinreadnet.kernels.ops.{sample.op}.kernel")
    launches: list[Launch] = []

    class Recorder:
        def __init__(self, kernel: Any):
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *arguments, **options: launches.append(
                Launch(self.kernel, *grid, arguments, options)
            )

    monkeypatch.setattr(module, "wrap_triton", Recorder)
    monkeypatch.setattr(module, "gpu_of", lambda device: ("", capability))
    getattr(module, f"{sample.op}_op")._init_fn(*sample.tensors, **sample.where)
    (launch,) = launches
    return launch


def specialised(launch: Launch, capability: int) -> tuple[ASTSource, Any, GPUTarget]:
    """Return what the launcher would compile: source, options and target."""
    kernel, target = launch.kernel, GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    options = launch.options | {"debug": False, "instrumentation_mode": ""}
    bound, specialization, rest = binder(*launch.arguments, **options)
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, rest
    )
    return ASTSource(kernel, signature, constants, attributes), parsed, target


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("capability", [80, 90], ids=lambda c: f"sm_{c}")
@pytest.mark.parametrize("name", SAMPLES)
def test_specialised_code_computes_what_the_oracle_does(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: int
) -> None:
    sample = SAMPLES[name]
    launch = launch_of(monkeypatch, sample, capability)
    source, options, target = specialised(launch, capability)
    names = launch.kernel.arg_names
    sizes = {
        argument: value
        for argument, value in zip(names, launch.arguments, strict=False)
        if isinstance(value, int)
    }
    ones = {names[place] for (place,) in source.constants if names[place] in sizes}
    multiples = {names[i] for (i,), assumed in source.attrs.items() if assumed} & sizes.keys()
    assert (ones, multiples) == (sample.ones, sample.multiples)

    made = triton.compile(source, target=target, options=options.__dict__)
    memory = GlobalMemory(16)
    arguments: list[int] = []
    for argument, value in zip(names, launch.arguments, strict=False):
        if isinstance(value, Tensor):
            output = argument == "out_ptr"
            # The output of the stem has its channels last.
            flat = value.as_strided((value.numel(),), (1,))
            arguments.append(memory.put(argument[:-4], bits_of(flat), output=output))
            out = flat
        elif argument in sizes and argument not in ones:
            arguments.append(value)
    program = parse(made.asm["ptx"], made.metadata.name)
    arguments += [0, 0]  # scratch memory, which the kernels do not use
    run = execute(program, arguments, launch.grid, made.metadata.shared, memory, out)

    tensors = list(sample.tensors)
    wide = [None if tensor is None else tensor.double() for tensor in tensors]
    reference = getattr(
        importlib.import_module(f"clinreadnet.kernels.ops.{sample.op}.reference"),
        f"{sample.op}_reference",
    )
    near, right = reference(*tensors, **sample.where), reference(*wide, **sample.where)
    if OPS[sample.op].channels_last:
        near, right = near.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)
    case = Case(name, {}, {}, near, right)
    assert case.over_budget(run.out.reshape(right.shape)) <= 1
