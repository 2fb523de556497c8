"""Each fault that the machine must report, and the same program without it."""

from __future__ import annotations

import numpy as np
import pytest
from support.ptx_snippet import memory_after, snippet

from clinreadnet.kernels.ptx.errors import (
    Divergence,
    Endless,
    Misaligned,
    NotWaited,
    OutOfBounds,
    PtxError,
    Race,
    UnknownInstruction,
    Unwritten,
)
from clinreadnet.kernels.ptx.parse import parse

SHARED = 264
"""Bytes of shared memory: a word for each of 64 threads, and two more."""

COPY = "ld.global.u32 %r2, [%d2];\nst.global.u32 [%d3], %r2;"
OTHER_WARP = "xor.b32 %r3, %r1, 128;"
OTHER_LANE = "xor.b32 %r3, %r1, 4;"
EXCHANGE = """
    ld.global.u32 %r2, [%d2];
    {other}
    st.shared.b32 [%r1], %r2;
    {barrier}
    ld.shared.b32 %r4, [%r3];
    {again}
    st.global.u32 [%d3], %r4;
"""
ACROSS = EXCHANGE.format(other=OTHER_WARP, barrier="bar.sync 0;", again="")
WITHIN = EXCHANGE.format(other=OTHER_LANE, barrier="bar.warp.sync -1;", again="")
REUSED = EXCHANGE.format(
    other=OTHER_WARP, barrier="bar.sync 0;", again="bar.sync 0;\nst.shared.b32 [%r1], %r4;"
)
ASYNC = """
    cp.async.ca.shared.global [%r1], [%d2], 4;
    cp.async.commit_group;
    cp.async.wait_group 0;
    bar.sync 0;
    xor.b32 %r3, %r1, 128;
    ld.shared.b32 %r4, [%r3];
    st.global.u32 [%d3], %r4;
"""
SHUFFLE = """
    ld.global.u32 %r2, [%d2];
    setp.lt.u32 %p0, %r0, 32;
    @%p0 shfl.sync.bfly.b32 %r2, %r2, 0, 31, -1;
    st.global.u32 [%d3], %r2;
"""
BRANCH = """
    ld.global.u32 %r2, [%d2];
    setp.lt.u32 %p0, %r0, 0;
    @%p0 bra $L1;
    bar.sync 0;
    $L1:
    st.global.u32 [%d3], %r2;
"""
LOOP = """
    mov.u32 %r5, 3;
    $L1:
    add.s32 %r5, %r5, -1;
    setp.ne.u32 %p0, %r5, 0;
    @%p0 bra $L1;
    ld.global.u32 %r2, [%d2];
    st.global.u32 [%d3], %r2;
"""
VECTOR = """
    and.b32 %r3, %r1, 240;
    cvt.u64.u32 %d5, %r3;
    add.s64 %d5, %d0, %d5;
    ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%d5];
    ld.global.u32 %r2, [%d2];
    st.global.u32 [%d3], %r2;
"""
SAME = """
    ld.global.u32 %r2, [%d0];
    st.global.u32 [%d1], %r2;
    ld.global.u32 %r2, [%d2];
    setp.ne.u32 %p0, %r0, 0;
    @%p0 st.global.u32 [%d3], %r2;
"""

FAULTS = {
    "a load past the end": (COPY, "[%d2]", "[%d2 + 4]", OutOfBounds),
    "a load before the start": (COPY, "[%d2]", "[%d2 + -4]", OutOfBounds),
    "a store past the end": (COPY, "[%d3]", "[%d3 + 4]", OutOfBounds),
    "a store to an input": (COPY, "[%d3]", "[%d2]", OutOfBounds),
    "a load from the output": (COPY, "[%d2]", "[%d3]", Unwritten),
    "a load across a word": (COPY, "[%d2]", "[%d2 + 2]", Misaligned),
    "a vector across its size": (VECTOR, ", 240", ", 124", Misaligned),
    "a register that nothing has written": (COPY, "%r2;", "%r9;", Unwritten),
    "different values in one place of the output": (SAME, "[%d0]", "[%d2]", Race),
    "shared memory past its end": (ACROSS, "[%r1]", "[%r1 + 16]", OutOfBounds),
    "shared memory that nothing has written": (ACROSS, "st.shared", "@%p0 st.shared", Unwritten),
    "shared memory across a word": (ACROSS, "[%r3]", "[%r3 + 2]", Misaligned),
    "no barrier between two warps": (ACROSS, "bar.sync 0;", "", Race),
    "a warp's barrier between two warps": (ACROSS, "bar.sync 0;", "bar.warp.sync -1;", Race),
    "no barrier within a warp": (WITHIN, "bar.warp.sync -1;", "", Race),
    "no barrier before a write over what is read": (
        REUSED, "bar.sync 0;\nst.shared", "st.shared", Race
    ),
    "a barrier that half of a block skips": (BRANCH, "%r0, 0", "%r0, 32", Divergence),
    "a barrier that half of a warp skips": (BRANCH, "%r0, 0", "%r0, 16", Divergence),
    "a shuffle without half of its warp": (SHUFFLE, "%r0, 32", "%r0, 16", Divergence),
    "a shuffle that leaves threads out": (SHUFFLE, "31, -1", "31, 255", PtxError),
    "a copy that nothing waits for": (ASYNC, "cp.async.wait_group 0;", "", NotWaited),
    "a wait that leaves the copy's group": (ASYNC, "wait_group 0", "wait_group 1", NotWaited),
    "a copy of a group that is not closed": (ASYNC, "cp.async.commit_group;", "", NotWaited),
    "no barrier after a wait": (ASYNC, "bar.sync 0;", "", Race),
    "a loop without an end": (LOOP, "-1;", "-2;", Endless),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_an_error_at_its_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinreadnet.kernels.ptx.machine.STEPS", 1000)
    good, before, after, error = FAULTS[name]
    if "%p0 st.shared" in after:
        good = "setp.ne.u32 %p0, %r0, 5;\n" + good
    assert set(memory_after(good, threads=64, shared=SHARED)) == set(range(100, 164))
    assert good.count(before) >= 1
    with pytest.raises(error) as caught:
        memory_after(good.replace(before, after, 1), threads=64, shared=SHARED)
    assert type(caught.value) is error
    assert f"line {caught.value.line}: " in str(caught.value)
    assert caught.value.text and caught.value.line > 1


def test_blocks_are_apart() -> None:
    """Each block has its own shared memory and its own barrier."""
    out = memory_after(ACROSS, threads=64, shared=SHARED, blocks=3)
    assert (out == 100 + (np.arange(64) ^ 32)).all()


def test_what_a_copy_of_no_bytes_leaves_is_zero() -> None:
    body = ASYNC.replace("[%d2], 4;", "[%d2], 4, %r8;").replace("cp.async.ca", "{}cp.async.ca")
    out = memory_after(body.format("mov.b32 %r8, 0;\n"), threads=64, shared=SHARED)
    assert not out.any()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        pytest.param("brkpt.all 1;", "brkpt.all", id="an opcode"),
        pytest.param("add.sat.s32 %r0, %r1, %r2;", "add.sat.s32", id="a modifier"),
        pytest.param(".branchtargets $L;", ".branchtargets", id="a directive"),
        pytest.param(".reg .b32 %x;", ".reg .b32 %x", id="a declaration"),
    ],
)
def test_what_the_machine_does_not_know_is_refused_with_its_line(line: str, named: str) -> None:
    with pytest.raises(UnknownInstruction) as caught:
        snippet(f"mov.u32 %r0, %tid.x;\n{line}")
    assert named in str(caught.value) and "line 9: " in str(caught.value)


def test_a_program_without_the_entry_is_refused() -> None:
    with pytest.raises(PtxError, match="no entry other"):
        parse(".entry kernel()\n.reqntid 32\n{\nret;\n}\n", "other")


def test_an_unknown_operand_is_refused() -> None:
    with pytest.raises(PtxError, match="%clock64"):
        memory_after("mov.u64 %d9, %clock64;")
