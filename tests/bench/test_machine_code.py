"""Instructions counted from machine code, and ceilings that do not fall."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import triton
from triton import knobs

from bench.measure.cards import CARDS, H200, Card
from bench.measure.machine_code import count, kernels
from bench.records.machine_code import RECORD, counted
from bench.tables.kernels import bound_text
from clinreadnet.kernels.compile import SHARED_MEMORY, compiled
from clinreadnet.kernels.grid import Formula, ceil_div
from clinreadnet.kernels.machine_code import (
    MULTIPROCESSORS,
    Instruction,
    Multiprocessor,
    disassemble,
    executed,
    occupancy,
    widths,
)


def nvdisasm_is_missing() -> bool:
    try:
        return not knobs.nvidia.nvdisasm.path
    except RuntimeError:  # Triton's wheel lacks it, and so does the PATH
        return True


pytestmark = [
    pytest.mark.compile,
    pytest.mark.skipif(nvdisasm_is_missing(), reason="nvdisasm is not installed"),
]


def run_of(*lines: str, trips: int = 1) -> list[str]:
    """Return the names of the instructions that a warp runs; "BRA x" branches, "x:" is a label."""
    code: list[Instruction | str] = []
    for line in lines:
        name, _, target = line.partition(" ")
        code.append(line[:-1] if line.endswith(":") else Instruction(name, target or None))
    return [instruction.name for instruction in executed(code, trips)]


def test_straight_code_counts_once() -> None:
    assert run_of("FADD", "LDG.E", "EXIT") == ["FADD", "LDG.E", "EXIT"]


def test_a_loop_counts_as_often_as_it_runs() -> None:
    run = run_of("MOV", "top:", "FFMA", "BRA top", "STG.E", "EXIT", trips=3)
    assert [run.count(name) for name in ("MOV", "FFMA", "BRA", "STG.E")] == [1, 3, 3, 1]


def test_both_sides_of_a_branch_count() -> None:
    assert run_of("BRA over", "FADD", "over:", "FMUL", "EXIT").count("FADD") == 1


def test_a_loop_that_waits_counts_once_and_what_follows_the_end_not_at_all() -> None:
    run = run_of("top:", "NANOSLEEP", "BRA top", "FADD", "EXIT", "again:", "SYNCS", "BRA again")
    assert run == ["NANOSLEEP", "BRA", "FADD", "EXIT"]


def test_a_slow_path_does_not_count() -> None:
    run = run_of("BRA fast", "MOV", "CALL $slow", "BRA on", "fast:", "FMUL", "on:", "EXIT")
    assert run == ["BRA", "FMUL", "EXIT"]


def test_a_loop_that_the_source_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="1 loops where the kernel's source has 0"):
        run_of("top:", "FADD", "BRA top", "EXIT")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("HMMA.16816.F32", "tensor"),
        ("FFMA.FTZ", "float"),
        ("HADD2.F32", "conversion"),
        ("MUFU.EX2", "special"),
        ("LDG.E.128", "global load"),
        ("STS.64", "shared store"),
        ("BAR.SYNC.DEFER_BLOCKING", "barrier"),
        ("IMAD.MOV.U32", "integer and moves"),
    ],
)
def test_classes(name: str, kind: str) -> None:
    assert Instruction(name).kind == kind


def test_widths_of_accesses() -> None:
    run = [Instruction(name) for name in ("LDG.E.128", "LDG.E", "LDG.E.U16.CONSTANT", "STG.E.64")]
    assert widths(run, ("LDG",)) == {128: 1, 32: 1, 16: 1}
    assert widths(run, ("STG",)) == {64: 1}


@pytest.mark.parametrize(
    ("capability", "registers", "shared", "warps", "expected"),
    [
        pytest.param(80, 64, 0, 4, 32 / 64, id="registers: 65536 / (64 * 32) warps"),
        pytest.param(80, 32, 40 * 1024, 4, 16 / 64, id="shared memory: 4 blocks of 41 KiB in 164"),
        pytest.param(80, 16, 0, 1, 32 / 64, id="32 blocks at most"),
        pytest.param(75, 16, 0, 4, 32 / 32, id="all warps"),
        pytest.param(120, 65, 0, 8, 24 / 48, id="registers in steps of 256 for a warp: 72"),
    ],
)
def test_occupancy(
    capability: int, registers: int, shared: int, warps: int, expected: float
) -> None:
    assert occupancy(capability, registers, shared, warps) == expected


def test_every_architecture_has_its_limits_and_a_gpu() -> None:
    assert set(MULTIPROCESSORS) == set(CARDS) == set(SHARED_MEMORY)
    assert all(isinstance(entry, Multiprocessor) for entry in MULTIPROCESSORS.values())
    assert CARDS[90].copy == pytest.approx(13.0, abs=0.05)
    assert H200.copy == pytest.approx(16.45, abs=0.05)


def test_programs_of_a_grid() -> None:
    assert ceil_div(Formula("tokens"), 64).at({"tokens": 65}) == 2


@pytest.mark.parametrize(
    "name",
    [
        "mlp_48",
        "attention_block_48_shift4",
        "window_attention_shift0",
        "fused_linear_qkv_192_small",
        "fused_linear_fc2_192_small",
    ],
)
def test_the_tensor_instructions_are_those_of_the_products(name: str) -> None:
    """On sm_80 each is 16 x 8 x 16: the loop is counted as often as the mathematics asks."""
    ((spec, source),) = [pair for pair in kernels() if pair[1].name == name]
    case = spec.case(80, "float16", source.shape)
    assert case is not None
    c, shape = case.constants, source.shape
    run = executed(disassemble(compiled(case).asm["cubin"]), spec.trips(case, source.shape))
    products = sum(step.kind == "tensor" for step in run) * case.num_warps * 16 * 8 * 16
    n, d = shape.window**2, shape.head_dim
    # The scores, and for each octave the attended values and the rows' sums, 8 columns alike.
    attention = n * n * (d + shape.octaves * (d + 8))
    if name.startswith("mlp"):
        expected = 2 * c["BLOCK_M"] * c["BLOCK_C"] * shape.hidden
    elif name.startswith("fused_linear"):
        expected = c["BLOCK_M"] * c["BLOCK_N"] * c["CHANNELS"]
    elif name.startswith("window"):
        expected = attention
    else:  # q, k, v and the projection of each head, and its attention
        expected = shape.heads * (4 * n * c["BLOCK_C"] * d + attention)
    assert products == expected


@pytest.mark.whole
@pytest.mark.parametrize("capability", [75, 80, 90], ids=lambda c: f"sm_{c}")
def test_no_ceiling_falls(capability: int) -> None:
    """A kernel that needs more instructions, or holds fewer warps, than recorded is a regression.

    `make kernel-table` records anew.
    """
    record = json.loads(RECORD.read_text())
    if triton.__version__ != record["triton"]:
        pytest.skip(f"recorded with triton {record['triton']}: another compiler, other counts")

    def key(row: dict[str, Any]) -> tuple[str, str]:
        return row["kernel"], row["dtype"]

    def repeats(name: str) -> bool:
        """Return whether a kernel is the linear layer of another one with twice the channels."""
        return name.startswith("fused_linear") and "_384_" in name

    before = {
        key(row): row
        for row in record["kernels"]
        if row["capability"] == capability and not repeats(row["kernel"])
    }
    chosen = [entry for entry in kernels() if not repeats(entry[1].name)]
    now = {key(row): row for row in counted(capability, ("float32", "float16"), chosen)}
    assert set(now) == {row for row in before if row[1] != "bfloat16"}
    lower = {
        (name, what): (row[what], before[name][what])
        for name, row in now.items()
        for what in ("ceiling", "occupancy")
        if row[what] < before[name][what]
    }
    assert lower == {}
    more = {
        (name, what): (row[what], before[name][what])
        for name, row in now.items()
        for what in ("bytes", "spilled")
        if row[what] > before[name][what]
    }
    assert more == {}


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        pytest.param({}, "memory", id="a copy takes longest"),
        pytest.param({"issued": 400.0}, "issue 50 %", id="issue"),
        pytest.param({"cache": 2 * 10**6}, "L2 21 %", id="cache"),
        pytest.param({"flops": 10**9}, "products 60 %", id="products"),
    ],
)
def test_what_bounds_a_kernel(changed: dict[str, Any], shown: str) -> None:
    """At 10 bytes, 2100 bytes of the cache and 3e6 operations a cycle, 2000 bytes take 200."""
    card = Card("made up", 10, 1, 1.0, copied=10, cache_gigabytes=2100, teraflops=3000)
    row = {"bytes": 2000, "issued": 100.0, "cache": 2000, "flops": 1000, "dtype": "float16"}
    assert bound_text(row | changed, card) == shown


def test_a_count_is_of_what_a_program_moves() -> None:
    """Window attention reads q, k and v and writes the output: 4 x 64 x 16 halves."""
    (spec, source) = next(pair for pair in kernels() if pair[1].name == "window_attention_shift0")
    case = spec.case(80, "float16", source.shape)
    assert case is not None
    moved = count(spec, source, case)
    assert moved.bytes == pytest.approx(4 * 64 * 16 * 2, rel=1e-3)
    assert moved.ceiling == pytest.approx(moved.bytes / moved.issued / CARDS[80].copy)
    assert moved.issued == sum(moved.instructions.values())
