"""The plugins, registered with TensorRT's real bindings, and what these would build of them.

`plugin_host` calls what TensorRT's builder calls; the PTX and the launch that come back are run on
the CPU against a float64 oracle. TensorRT's own code is not part of it.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from support import plugin_contract  # noqa: E402
from support.plugin_contract import TYPES, Request  # noqa: E402
from support.ptx.cases import Case, cases  # noqa: E402
from support.ptx.errors import PtxError  # noqa: E402
from support.ptx.launch import Kernel, bits_of, execute  # noqa: E402
from support.ptx.memory import GlobalMemory  # noqa: E402
from support.ptx.program import parse  # noqa: E402
from support.real_bindings import BINDINGS, RealBinding, Unavailable  # noqa: E402

from clinreadnet.export.kernels import sources  # noqa: E402
from clinreadnet.export.plugins.kernel import Native  # noqa: E402

pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stubs are ELF libraries"),
]
WITH_PLUGINS = [one for one in BINDINGS if one.flavour == "tensorrt" and "builder" in one.parts]
NETWORK, TARGET = "small", "sm80"
SOURCES = (
    "sobel_stem",
    "window_attention_shift0",
    "window_attention_shift4",
    "attention_block_48_shift0",
    "attention_block_48_shift4",
    "mlp_48",
    "mlp_96",
)
REFUSED = {
    ("attention_block_48_shift0", "fp32"): "float16 or bfloat16",
    ("attention_block_48_shift4", "fp32"): "float16 or bfloat16",
    ("attention_block_96_shift0", "fp16"): "57492 bytes of shared memory on sm80",
    ("attention_block_96_shift4", "bf16"): "57492 bytes of shared memory on sm80",
}
BROKEN = {
    ("mlp_48", "grid-rounded-down"): "bytes of the output are never written",
    ("sobel_stem", "grid-plus-one"): "OutOfBounds|store of",
    ("window_attention_shift4", "grid-plus-one"): "OutOfBounds|load of",
    ("sobel_stem", "integer-missing"): "has 6 parameters, is passed 5",
    ("window_attention_shift0", "integers-swapped"): "division by zero",
    ("attention_block_48_shift4", "hidden-kept"): "has 15 parameters, is passed 13",
}
"""Mistakes of a plugin, and what the machine says of each."""

TOKENS = {1: (1, 1, 1), 135: (3, 5, 9)}
"""Shapes [B, H, W] of the tokens of the MLP's cases."""


@dataclass(frozen=True)
class Call:
    """One plugin on one case, and what a binding answered."""

    request: Request
    case: Case
    answer: dict[str, Any]


@functools.cache
def planned() -> list[tuple[Request, Case]]:
    """Every op, type and shift, on shapes with several batch sizes."""
    found = []
    for source in SOURCES:
        for precision in ("fp16", "fp32", "bf16"):
            if (source, precision) in REFUSED:
                continue
            for case in cases_of(source, precision):
                found.append((request(source, precision, case), case))
    for source, broken in (*BROKEN, ("mlp_96", "typed-otherwise")):
        case = cases_of(source, "fp16")[-1]
        found.append((request(source, "fp16", case, broken), case))
    return found


def cases_of(source: str, precision: str) -> list[Case]:
    made = plugin_contract.kernel(NETWORK, source, precision, TARGET)
    return cases(Kernel(asdict(made.launch), made.ptx))


def request(source: str, precision: str, case: Case, broken: str = "") -> Request:
    made = plugin_contract.kernel(NETWORK, source, precision, TARGET)
    shapes = []
    for argument in made.inputs:
        shape = tuple(case.tensors[argument.name].shape)
        if argument.name == "x" and "tokens" in case.sizes:
            shape = (*TOKENS[shape[0]], shape[1])
        shapes.append(shape)
    return Request(NETWORK, source, precision, TARGET, tuple(shapes), broken)


@functools.cache
def answered(binding: RealBinding) -> list[Call]:
    pairs = planned()
    answers = plugin_contract.ask(binding, [request for request, _ in pairs])
    return [Call(*pair, answer) for pair, answer in zip(pairs, answers, strict=True)]


def calls(binding: RealBinding, *, broken: bool = False) -> list[Call]:
    """What a binding answered: for plugins as they are, or for those with a mistake."""
    try:
        return [one for one in answered(binding) if bool(one.request.broken) == broken]
    except Unavailable as reason:
        pytest.skip(str(reason))


def run(call: Call) -> float:
    """Execute what the binding returned; the error over the budget."""
    made = plugin_contract.kernel(NETWORK, call.request.source, call.request.precision, TARGET)
    answer = call.answer
    program = parse(answer["ptx"], answer["entry"])
    assert answer["block"] == [program.threads, 1, 1] and answer["grid"][1:] == [1, 1]
    memory = GlobalMemory(made.launch.pointer_alignment)
    arguments = [
        memory.put(argument.name, bits_of(call.case.tensors[argument.name].contiguous()))
        for argument in made.inputs
    ]
    out = torch.empty(answer["out_shape"], dtype=getattr(torch, made.output.element))
    arguments += [*answer["integers"], memory.put("out", bits_of(out), output=True)]
    ran = execute(program, arguments, answer["grid"][0], answer["shared"], memory, out)
    return call.case.over_budget(ran.out.reshape(call.case.expected.shape))


@pytest.mark.parametrize("binding", WITH_PLUGINS, ids=lambda one: one.title.replace(" ", "-"))
def test_launches_are_those_of_the_package(binding: RealBinding) -> None:
    """The sizes of a launch, evaluated by hand."""
    assert len(calls(binding)) == 41
    for call in calls(binding):
        answer, sizes = call.answer, call.case.sizes
        expected = call.case.expected.shape
        if "tokens" in sizes:
            expected = torch.Size((*TOKENS[sizes["tokens"]], expected[1]))
        assert tuple(answer["out_shape"]) == expected, call.request
        names = {
            "sobel_stem": ("H", "W"),
            "window_attention": ("heads", "H", "W"),
            "attention_block": ("H", "W"),
            "mlp": ("tokens",),
        }
        (integers,) = (n for op, n in names.items() if call.request.source.startswith(op))
        assert answer["integers"] == [sizes[name] for name in integers], call.request
        assert answer["shared"] <= 48 * 1024
        dtype = {"fp16": "HALF", "fp32": "FLOAT", "bf16": "BF16"}[call.request.precision]
        assert answer["out_type"] == dtype
        assert ".version 8.0" in answer["ptx"] and ".target sm_80\n" in answer["ptx"]


def test_both_bindings_answer_the_same() -> None:
    first, *rest = [[call.answer for call in calls(one)] for one in WITH_PLUGINS]
    assert rest and all(answers == first for answers in rest)


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_built_computes_what_the_oracle_does(source: str) -> None:
    """The other binding answers the same."""
    found = {
        (call.request.precision, call.case.name): run(call)
        for call in calls(WITH_PLUGINS[-1])
        if call.request.source == source
    }
    assert len(found) >= 4
    assert {name: over for name, over in found.items() if not over <= 1} == {}


@pytest.mark.parametrize(("source", "broken"), BROKEN, ids=["-".join(one) for one in BROKEN])
def test_mistakes_are_seen(source: str, broken: str) -> None:
    """A plugin's kernel with a mistake in it goes the same way."""
    (call,) = (
        one
        for one in calls(WITH_PLUGINS[-1], broken=True)
        if (one.request.source, one.request.broken) == (source, broken)
    )
    with pytest.raises(PtxError, match=BROKEN[source, broken]):
        run(call)


@pytest.mark.parametrize(("source", "precision"), REFUSED, ids=["-".join(one) for one in REFUSED])
def test_what_no_plugin_can_be_says_why(source: str, precision: str) -> None:
    with pytest.raises(Native, match=REFUSED[source, precision]):
        plugin_contract.kernel(NETWORK, source, precision, TARGET)


def test_inputs_of_another_type_are_refused() -> None:
    found = [one for one in calls(WITH_PLUGINS[-1], broken=True) if "refused" in one.answer]
    assert [one.request.broken for one in found] == ["typed-otherwise"]
    assert "x is DataType.FLOAT, not DataType.HALF" in found[0].answer["refused"]


def test_every_kernel_of_the_network_is_tried() -> None:
    names = {source.name for _, source in sources(NETWORK)}
    assert names == {*SOURCES, *(source for source, _ in REFUSED)}
    assert set(TYPES) == {"float32", "float16", "bfloat16"}
