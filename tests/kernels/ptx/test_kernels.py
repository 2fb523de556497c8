"""The files of ``export-kernels``, run on the CPU against a float64 oracle.

A sample: `make ptx-check` runs every network, target and precision.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from bench.records.mutants import mutants, verdict
from bench.records.ptx import NETWORKS, PRECISIONS_RUN, TARGETS, exported, known_networks
from clinreadnet.export.kernels import sources
from clinreadnet.kernels import launch as launching
from clinreadnet.kernels.compile import SHARED_MEMORY
from clinreadnet.kernels.ptx.cases import cases, check
from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.launch import Kernel, launch
from clinreadnet.kernels.ptx.program import Address
from clinreadnet.kernels.registry import OPS
from clinreadnet.precision import PRECISIONS

pytestmark = pytest.mark.compile
SAMPLE = [
    ("small", "sm75", "fp16"),
    ("small", "sm80", "fp32"),
    ("small", "sm90", "fp16"),
    ("window-5", "sm89", "bf16"),
    ("window-7", "sm75", "fp32"),
    ("window-4", "sm120", "fp32"),
    ("window-11", "sm80", "fp16"),
    ("window-16", "sm120", "bf16"),
]
"""Every network, target and precision once at least."""
Export = dict[tuple[str, str, str], list[Kernel]]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return the kernels of the sample, exported at the first request."""

    class Exports(dict[tuple[str, str, str], list[Kernel]]):
        def __missing__(self, key: tuple[str, str, str]) -> list[Kernel]:
            network, target, precision = key
            folder = tmp_path_factory.mktemp("ptx") / "kernels"
            self[key] = exported(folder, network, [target], [precision])
            return self[key]

    return Exports()


@pytest.fixture(scope="module")
def attention(exports: Export) -> Kernel:
    """Return a small kernel for the tests of the launch."""
    (kernel,) = (k for k in exports["window-4", "sm120", "fp32"] if "shift2" in k.file)
    return kernel


@pytest.mark.sample(every=5)
@pytest.mark.parametrize("what", SAMPLE, ids="-".join)
def test_exported_kernels_compute_what_the_oracle_does(
    what: tuple[str, str, str], exports: Export
) -> None:
    """In the machine that is also a sanitizer, outputs start as NaN."""
    kernels = exports[what]
    assert len(kernels) >= 3
    over = {
        (kernel.file, case.name): check(kernel, case).over_budget
        for kernel in kernels
        for case in cases(kernel)
    }
    assert {name: value for name, value in over.items() if not value <= 1} == {}


def test_the_sample_reaches_every_network_target_and_precision() -> None:
    networks, targets, precisions = map(set, zip(*SAMPLE, strict=True))
    assert (networks, targets, precisions) == (set(NETWORKS), set(TARGETS), set(PRECISIONS_RUN))


def test_the_networks_reach_every_shipped_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file has an entry that `make ptx-check` does not run; sm_86 and sm_100 share theirs."""
    reached: set[tuple[str, ...]] = set()
    whole = launching.launch_config

    def noted(gpu: str, capability: int, *keys: str) -> dict[str, Any]:
        reached.add((launching.config_file(gpu, capability).name, *keys))
        return whole(gpu, capability, *keys)

    for op in OPS:
        monkeypatch.setattr(f"clinreadnet.kernels.ops.{op}.kernel.launch_config", noted)
    with known_networks():
        for network in NETWORKS:
            for spec, source in sources(network):
                for target in TARGETS:
                    for precision in PRECISIONS_RUN:
                        dtype = PRECISIONS[precision].torch_dtype
                        spec.case(int(target.removeprefix("sm")), dtype, source.shape)

    def leaves(name: str, entry: Any, *keys: str) -> set[tuple[str, ...]]:
        inner = {key: value for key, value in entry.items() if isinstance(value, dict)}
        if not inner:
            return {(name, *keys)}
        return set[tuple[str, ...]]().union(
            *(leaves(name, value, *keys, key) for key, value in inner.items())
        )

    files = sorted(launching.CONFIGS.glob("*.json"))
    shipped = [leaves(path.name, json.loads(path.read_text())) for path in files]
    assert set[tuple[str, ...]]().union(*shipped) == reached
    rest = {f"sm{capability}" for capability in SHARED_MEMORY} - set(TARGETS)
    assert rest == {"sm86", "sm100"}


def test_a_target_whose_kernels_are_those_of_another_is_known(exports: Export) -> None:
    """Bodies are compared without the lines that name the target."""
    (a, *_), (b, *_) = exports["small", "sm75", "fp16"], exports["window-4", "sm120", "fp32"]
    assert a.body != a.text and ".target" not in a.body
    assert replace(a, code=a.code.replace(b".target sm_75", b".target sm_80")).body == a.body
    assert a.body != b.body


def test_an_output_that_is_not_written_is_refused(attention: Kernel) -> None:
    case = cases(attention)[0]
    program = attention.program
    stores = [
        i
        for i, instruction in enumerate(program.code)
        if instruction.opcode.startswith("st.global")
    ]
    with pytest.raises(PtxError, match="bytes of the output are never written"):
        launch(attention, case.tensors, case.sizes, program.with_instruction(stores[-1], None))


def test_tensors_other_than_kernels_json_describes_are_refused(attention: Kernel) -> None:
    case = cases(attention)[0]
    wrong = {**case.tensors, "qkv": case.tensors["qkv"].half()}
    with pytest.raises(ValueError, match="qkv is torch.float16"):
        launch(attention, wrong, case.sizes)


def test_a_wrong_constant_is_over_the_budget(attention: Kernel) -> None:
    """The budget is one that a fault of a thousandth does not pass."""
    case = cases(attention)[0]
    gates = case.tensors["gates"] * 1.001
    changed = replace(case, tensors={**case.tensors, "gates": gates})
    assert check(attention, case).over_budget <= 1
    assert check(attention, changed).over_budget > 1
    assert case.over_budget(torch.full_like(case.expected, torch.nan)) == float("inf")


MUTATED = [
    ("small", "sm80", "fp32", "sobel_stem"),
    ("small", "sm90", "fp16", "window_attention_shift4"),
    ("small", "sm90", "fp16", "attention_block_48_shift4"),
    ("small", "sm90", "fp16", "mlp_48"),
    ("small", "sm90", "fp16", "fused_linear_qkv_192_small"),
    ("small", "sm75", "fp16", "window_attention_shift0"),
]


@pytest.mark.parametrize("what", MUTATED, ids="-".join)
def test_broken_kernels_are_caught(what: tuple[str, str, str, str], exports: Export) -> None:
    """One mutant of each kind; the recorded run of `make ptx-check` has twenty of each kernel."""
    (kernel,) = (k for k in exports[what[:3]] if k.file.startswith(f"{what[3]}."))
    own = [(case, check(kernel, case)) for case in cases(kernel)]
    executed = frozenset[int]().union(*(result.executed for _, result in own))
    made = mutants(kernel, executed, 6)
    assert len({mutant.kind for mutant in made}) >= 4
    missed = [
        (mutant.kind, mutant.line, mutant.text, result.reason)
        for mutant in made
        if (result := verdict(kernel, mutant, own)).missed
    ]
    assert missed == []


def test_mutants_are_the_same_each_time_and_change_one_instruction(attention: Kernel) -> None:
    executed = range(len(attention.program.code))

    def places(seed: int) -> list[tuple[str, int]]:
        return [
            (mutant.kind, mutant.line) for mutant in mutants(attention, set(executed), 12, seed)
        ]

    made = mutants(attention, set(executed), 12)
    assert places(0) == [(mutant.kind, mutant.line) for mutant in made] != places(1)
    code = attention.program.code
    for mutant in made:
        changed = [i for i in executed if mutant.program.code[i] is not code[i]]
        assert [code[i].line for i in changed] == [mutant.line]
    moved = next(mutant for mutant in made if mutant.kind == "an address off by one access")
    (place,) = (i for i in executed if moved.program.code[i] is not code[i])
    before, after = (
        next(o for o in instruction.operands if isinstance(o, Address))
        for instruction in (code[place], moved.program.code[place])
    )
    assert after.base == before.base and after.offset > before.offset


def test_an_unknown_instruction_of_a_file_is_named(attention: Kernel) -> None:
    """An unknown instruction is named with its line before anything runs."""
    lines = attention.text.splitlines()
    number = next(i for i, line in enumerate(lines) if "ex2.approx" in line)
    lines[number] = lines[number].replace("ex2.approx", "ex2.exact")
    broken = Kernel(attention.entry, "\n".join(lines).encode())
    with pytest.raises(PtxError, match=rf"UnknownInstruction: line {number + 1}: .*ex2.exact"):
        _ = broken.program
