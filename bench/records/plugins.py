"""Run the plugins on the PTX machine with the launches of real TensorRT bindings.

PYTHONPATH=tests python -m bench.records.plugins > bench/results/plugins/contract.json
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from support import plugin_contract
from support.plugin_contract import Request
from support.real_bindings import BINDINGS, RealBinding

from bench.recording import print_record, run_facts
from clinreadnet.kernels.ptx.cases import Case, cases
from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.launch import Kernel, bits_of, execute
from clinreadnet.kernels.ptx.memory import GlobalMemory
from clinreadnet.kernels.ptx.parse import parse

WITH_PLUGINS = [
    binding for binding in BINDINGS if binding.flavour == "tensorrt" and "builder" in binding.parts
]
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
    ("window_attention_shift0", "integers-swapped"): "OutOfBounds",
    ("attention_block_48_shift4", "hidden-kept"): "has 15 parameters, is passed 13",
}
"""Mistakes of a plugin, with the expected message of the machine."""

TOKENS = {1: (1, 1, 1), 135: (3, 5, 9)}
"""Shapes [B, H, W] of tokens in the cases of the MLP."""


@dataclass(frozen=True)
class Call:
    """A plugin on a case, with the answer of a binding."""

    request: Request
    case: Case
    answer: dict[str, Any]


@functools.cache
def planned() -> list[tuple[Request, Case]]:
    """Return all ops, types and shifts, on shapes with several batch sizes."""
    pairs = []
    for source in SOURCES:
        for precision in ("fp16", "fp32", "bf16"):
            if (source, precision) in REFUSED:
                continue
            for case in cases_of(source, precision):
                pairs.append((request(source, precision, case), case))
    for source, broken in (*BROKEN, ("mlp_96", "typed-otherwise")):
        case = cases_of(source, "fp16")[-1]
        pairs.append((request(source, "fp16", case, broken), case))
    return pairs


def cases_of(source: str, precision: str) -> list[Case]:
    plugin = plugin_contract.kernel(NETWORK, source, precision, TARGET)
    return cases(Kernel(asdict(plugin.launch), plugin.ptx.encode()))


def request(source: str, precision: str, case: Case, broken: str = "") -> Request:
    plugin = plugin_contract.kernel(NETWORK, source, precision, TARGET)
    shapes = []
    for argument in plugin.inputs:
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


def run(call: Call) -> float:
    """Execute the launch of the binding; return the error relative to the budget."""
    plugin = plugin_contract.kernel(NETWORK, call.request.source, call.request.precision, TARGET)
    answer = call.answer
    program = parse(answer["ptx"], answer["entry"])
    assert answer["block"] == [program.threads, 1, 1] and answer["grid"][1:] == [1, 1]
    memory = GlobalMemory(plugin.launch.pointer_alignment)
    arguments = [
        memory.put(argument.name, bits_of(call.case.tensors[argument.name].contiguous()))
        for argument in plugin.inputs
    ]
    out = torch.empty(answer["out_shape"], dtype=getattr(torch, plugin.output.element))
    arguments += [*answer["integers"], memory.put("out", bits_of(out), output=True)]
    ran = execute(program, arguments, answer["grid"][0], answer["shared"], memory, out)
    return call.case.over_budget(ran.out.reshape(call.case.expected.shape))


def record() -> dict[str, Any]:
    """Return the result of each plugin with each binding, and of each mistake."""
    versions = [item.version for item in WITH_PLUGINS]
    answers = [answered(item) for item in WITH_PLUGINS]
    same = [[call.answer for call in item] for item in answers]
    plugins: dict[str, dict[str, Any]] = {}
    mistakes: list[dict[str, str]] = []
    for call in answers[-1]:
        request = call.request
        if request.broken:
            mistake = {"plugin": request.source, "mistake": request.broken, "seen": _seen(call)}
            mistakes.append(mistake)
            continue
        entry = plugins.setdefault(request.source, {}).setdefault(
            request.precision, {"calls": 0, "over_budget": 0.0}
        )
        entry["calls"] += 1
        entry["over_budget"] = max(entry["over_budget"], run(call))
    for (source, precision), reason in REFUSED.items():
        plugins.setdefault(source, {})[precision] = {"native": reason}
    return {
        **run_facts("make plugins"),
        "triton": triton.__version__,
        "target": TARGET,
        "bindings": versions,
        "bindings_agree": all(item == same[0] for item in same),
        "plugins": plugins,
        "mistakes": mistakes,
    }


def _seen(call: Call) -> str:
    if "refused" in call.answer:
        return str(call.answer["refused"])
    try:
        over = run(call)
    except PtxError as error:
        return str(error).splitlines()[0]
    return f"an error of {over:.1f} budgets" if over > 1 else ""


if __name__ == "__main__":
    print_record(record())
