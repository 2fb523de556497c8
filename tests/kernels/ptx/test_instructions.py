"""Each instruction of the machine against a second implementation of the PTX manual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.ptx_snippet import registers_after

from clinreadnet.kernels.ptx import instructions
from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.instructions import SECTIONS, find, spelled_out

LANES = np.arange(32)
U32 = NDArray[np.uint32]


def words(seed: int = 0) -> U32:
    """Return random words; the first are zero, one, the largest and the sign."""
    made = np.random.default_rng(seed).integers(0, 2**32, 32, dtype=np.uint32)
    made[:4] = 0, 1, 0xFFFF_FFFF, 0x8000_0000
    return np.roll(made, 5 * seed)


def floats(seed: int = 0) -> NDArray[np.float32]:
    """Return random numbers; among them zeros, infinities and NaN."""
    made = np.random.default_rng(seed).standard_normal(32).astype(np.float32)
    made[:5] = 0.0, -0.0, np.inf, -np.inf, np.nan
    return np.roll(made, 7 * seed)


def signed(value: int, bits: int = 32) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def of_words(body: str, *operands: U32) -> list[int]:
    """Return ``%r0`` after a body that reads ``%r1``, ``%r2`` and so on."""
    before = {f"%r{i}": operand for i, operand in enumerate(operands, 1)}
    return [int(value) for value in registers_after(body, before)["%r0"]]


def of_floats(body: str, *operands: NDArray[np.float32]) -> NDArray[np.float32]:
    before = {f"%r{i}": operand.view(np.uint32) for i, operand in enumerate(operands, 1)}
    return registers_after(body, before)["%r0"].view(np.float32)


def byte(a: int, b: int, nibble: int) -> int:
    """Return the byte that ``prmt`` selects."""
    chosen = (b << 32 | a) >> 8 * (nibble & 7) & 0xFF
    return (0xFF if chosen & 0x80 else 0) if nibble & 8 else chosen


def permuted(a: int, b: int, c: int) -> int:
    return sum(byte(a, b, c >> 4 * i & 15) << 8 * i for i in range(4))


def field(a: int, position: int, length: int) -> int:
    return (a >> (position & 255)) & ((1 << (length & 255)) - 1) & 0xFFFF_FFFF


def table(a: int, b: int, c: int, lut: int) -> int:
    """Return the result of ``lop3``: for each bit, an entry of the table."""
    rows = [(a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1) for i in range(32)]
    return sum((lut >> row & 1) << i for i, row in enumerate(rows))


def by_halves(a: int, b: int, change: Callable[[int, int], int]) -> int:
    low, high = (change(a >> i & 0xFFFF, b >> i & 0xFFFF) & 0xFFFF for i in (0, 16))
    return high << 16 | low


def towards_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


INTEGERS = {
    "add.s32 %r0, %r1, %r2;": lambda a, b, c: a + b,
    "sub.s32 %r0, %r1, %r2;": lambda a, b, c: a - b,
    "mul.lo.s32 %r0, %r1, %r2;": lambda a, b, c: a * b,
    "mul.hi.u32 %r0, %r1, %r2;": lambda a, b, c: a * b >> 32,
    "mul.hi.s32 %r0, %r1, %r2;": lambda a, b, c: signed(a) * signed(b) >> 32,
    "mad.lo.s32 %r0, %r1, %r2, %r3;": lambda a, b, c: a * b + c,
    "div.s32 %r0, %r1, 7;": lambda a, b, c: towards_zero(signed(a), 7),
    "rem.s32 %r0, %r1, 7;": lambda a, b, c: signed(a) - 7 * towards_zero(signed(a), 7),
    "div.u32 %r0, %r1, 7;": lambda a, b, c: a // 7,
    "rem.u32 %r0, %r1, 7;": lambda a, b, c: a % 7,
    "min.s32 %r0, %r1, %r2;": lambda a, b, c: min(signed(a), signed(b)),
    "max.u32 %r0, %r1, %r2;": lambda a, b, c: max(a, b),
    "add.s16x2 %r0, %r1, %r2;": lambda a, b, c: by_halves(a, b, lambda x, y: x + y),
    "max.u16x2 %r0, %r1, %r2;": lambda a, b, c: by_halves(a, b, max),
    "min.s16x2 %r0, %r1, %r2;": (
        lambda a, b, c: by_halves(a, b, lambda x, y: min(signed(x, 16), signed(y, 16)))
    ),
    "neg.s32 %r0, %r1;": lambda a, b, c: -a,
    "abs.s32 %r0, %r1;": lambda a, b, c: abs(signed(a)),
    "and.b32 %r0, %r1, %r2;": lambda a, b, c: a & b,
    "or.b32 %r0, %r1, %r2;": lambda a, b, c: a | b,
    "xor.b32 %r0, %r1, %r2;": lambda a, b, c: a ^ b,
    "not.b32 %r0, %r1;": lambda a, b, c: ~a,
    "lop3.b32 %r0, %r1, %r2, %r3, 0xE8;": lambda a, b, c: table(a, b, c, 0xE8),
    "lop3.b32 %r0, %r1, %r2, %r3, 0x1B;": lambda a, b, c: table(a, b, c, 0x1B),
    "shl.b32 %r0, %r1, 5;": lambda a, b, c: a << 5,
    "shl.b32 %r0, %r1, 40;": lambda a, b, c: 0,
    "shr.u32 %r0, %r1, 5;": lambda a, b, c: a >> 5,
    "shr.s32 %r0, %r1, 5;": lambda a, b, c: signed(a) >> 5,
    "shr.s32 %r0, %r1, 40;": lambda a, b, c: signed(a) >> 31,
    "shf.l.wrap.b32 %r0, %r1, %r2, 9;": lambda a, b, c: (b << 32 | a) << 9 >> 32,
    "shf.r.wrap.b32 %r0, %r1, %r2, 9;": lambda a, b, c: (b << 32 | a) >> 9,
    "bfe.u32 %r0, %r1, 3, 9;": lambda a, b, c: field(a, 3, 9),
    "bfe.s32 %r0, %r1, 3, 9;": lambda a, b, c: signed(field(a, 3, 9), 9),
    "bfi.b32 %r0, %r1, %r2, 3, 9;": lambda a, b, c: b & ~(511 << 3) | (a & 511) << 3,
    "prmt.b32 %r0, %r1, %r2, 0x5410;": lambda a, b, c: permuted(a, b, 0x5410),
    "prmt.b32 %r0, %r1, %r2, 0xB98A;": lambda a, b, c: permuted(a, b, 0xB98A),
    "mul.wide.u32 %d0, %r1, %r2;\nshr.u64 %d0, %d0, 32;\ncvt.u32.u64 %r0, %d0;": (
        lambda a, b, c: a * b >> 32
    ),
    "mul.wide.s32 %d0, %r1, %r2;\nshr.u64 %d0, %d0, 32;\ncvt.u32.u64 %r0, %d0;": (
        lambda a, b, c: signed(a) * signed(b) >> 32
    ),
    "mov.b32 {%h0, %h1}, %r1;\nmad.wide.u16 %r0, %h0, %h1, %r3;": (
        lambda a, b, c: (a & 0xFFFF) * (a >> 16) + c
    ),
    "mov.b32 {%h0, %h1}, %r1;\nmad.wide.s16 %r0, %h0, %h1, %r3;": (
        lambda a, b, c: signed(a & 0xFFFF, 16) * signed(a >> 16, 16) + c
    ),
    "setp.lt.s32 %p0, %r1, %r2;\nselp.b32 %r0, %r1, %r3, %p0;": (
        lambda a, b, c: a if signed(a) < signed(b) else c
    ),
    "setp.lo.u32 %p0, %r1, %r2;\nselp.b32 %r0, %r1, %r3, %p0;": (
        lambda a, b, c: a if a < b else c
    ),
    "setp.lt.s32 %p0, %r1, %r2;\nmov.b32 %r0, %r3;\n@!%p0 mov.b32 %r0, 5;": (
        lambda a, b, c: c if signed(a) < signed(b) else 5
    ),
    "mov.b32 {%h0, %h1}, %r1;\nmov.b32 %r0, {%h1, %h0};": lambda a, b, c: a << 16 | a >> 16,
    "cvt.s64.s32 %d0, %r1;\nshr.s64 %d0, %d0, 8;\ncvt.u32.u64 %r0, %d0;": (
        lambda a, b, c: signed(a) >> 8
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", INTEGERS, ids=lambda body: body.splitlines()[-1])
def test_integers(body: str) -> None:
    operands = words(1), words(2), words(3)
    expected = [
        INTEGERS[body](*map(int, words)) & 0xFFFF_FFFF for words in zip(*operands, strict=True)
    ]
    assert of_words(body, *operands) == expected


FLOATS = {
    "add.f32 %r0, %r1, %r2;": lambda a, b, c: a + b,
    "sub.f32 %r0, %r1, %r2;": lambda a, b, c: a - b,
    "mul.f32 %r0, %r1, %r2;": lambda a, b, c: a * b,
    "div.rn.f32 %r0, %r1, %r2;": lambda a, b, c: a / b,
    "sqrt.rn.f32 %r0, %r1;": lambda a, b, c: a.double().sqrt().float(),
    "rcp.rn.f32 %r0, %r1;": lambda a, b, c: 1 / a,
    "fma.rn.f32 %r0, %r1, %r2, %r3;": lambda a, b, c: (a.double() * b + c).float(),
    "neg.f32 %r0, %r1;": lambda a, b, c: -a,
    "abs.f32 %r0, %r1;": lambda a, b, c: a.abs(),
    "copysign.f32 %r0, %r1, %r2;": lambda a, b, c: torch.copysign(b, a),
    "min.f32 %r0, %r1, %r2;": lambda a, b, c: torch.fmin(a, b),
    "max.f32 %r0, %r1, %r2;": lambda a, b, c: torch.fmax(a, b),
    "setp.lt.f32 %p0, %r1, %r2;\nselp.f32 %r0, %r1, %r3, %p0;": (
        lambda a, b, c: torch.where(a < b, a, c)
    ),
    "setp.geu.f32 %p0, %r1, %r2;\nselp.f32 %r0, %r1, %r3, %p0;": (
        lambda a, b, c: torch.where(~(a < b), a, c)
    ),
    "setp.nan.f32 %p0, %r1, %r2;\nselp.f32 %r0, %r3, %r1, %p0;": (
        lambda a, b, c: torch.where(a.isnan() | b.isnan(), c, a)
    ),
    "mov.b64 %d0, {%r1, %r2};\nmov.b64 %d1, {%r3, %r3};\nfma.rn.f32x2 %d0, %d0, %d1, %d1;\n"
    "mov.b64 {%r9, %r0}, %d0;": lambda a, b, c: (b.double() * c + c).float(),
    "cvt.rn.f16.f32 %h0, %r1;\ncvt.f32.f16 %r0, %h0;": lambda a, b, c: a.half().float(),
    "cvt.rn.bf16.f32 %h0, %r1;\ncvt.f32.bf16 %r0, %h0;": lambda a, b, c: a.bfloat16().float(),
    "cvt.rn.f16x2.f32 %r4, %r1, %r2;\nmov.b32 {%h0, %h1}, %r4;\ncvt.f32.f16 %r0, %h1;": (
        lambda a, b, c: a.half().float()
    ),
    "cvt.rn.bf16x2.f32 %r4, %r1, %r2;\nmov.b32 {%h0, %h1}, %r4;\ncvt.f32.bf16 %r0, %h0;": (
        lambda a, b, c: b.bfloat16().float()
    ),
    "cvt.rn.f16.f32 %h0, %r1;\nadd.f32.f16 %r0, %h0, %r2;": lambda a, b, c: a.half().float() + b,
}  # fmt: skip


@pytest.mark.parametrize("body", FLOATS, ids=lambda body: body.splitlines()[-1])
def test_floats(body: str) -> None:
    operands = floats(1), floats(2), floats(3)
    expected = FLOATS[body](*map(torch.from_numpy, operands)).numpy()
    actual = of_floats(body, *operands)
    np.testing.assert_array_equal(actual, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual)[number], np.signbit(expected)[number])


APPROXIMATIONS: dict[str, tuple[Any, float]] = {
    "ex2.approx.ftz.f32": (np.exp2, 2.0**-22),
    "rcp.approx.ftz.f32": (lambda x: 1 / x, 2.0**-23),
    "sqrt.approx.f32": (np.sqrt, 2.0**-23),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), 2.0**-22.9),
    "tanh.approx.f32": (np.tanh, 2.0**-11),
}
"""The function in float64 and the relative error that the manual allows."""


@pytest.mark.parametrize("opcode", APPROXIMATIONS)
def test_an_approximation_errs_by_what_the_manual_allows(opcode: str) -> None:
    x = np.linspace(0.1, 3, 32, dtype=np.float32)
    function, bound = APPROXIMATIONS[opcode]
    actual = of_floats(f"{opcode} %r0, %r1;", x)
    wrong = actual / function(x.astype(np.float64)) - 1
    rounding = 2.0**-24
    assert (np.abs(np.abs(wrong) - bound) <= rounding).all()
    assert 8 <= (wrong > 0).sum() <= 24
    assert (of_floats(f"{opcode} %r0, %r1;", x[::-1].copy()) == actual[::-1]).all()


def test_what_ftz_flushes() -> None:
    small = np.full(32, 1e-39, np.float32)
    ones = np.ones(32, np.float32)
    assert not of_floats("mul.ftz.f32 %r0, %r1, %r2;", small, ones).any()
    assert (of_floats("mul.f32 %r0, %r1, %r2;", small, ones) == small).all()


def test_tf32_keeps_ten_bits_and_rounds_ties_away() -> None:
    step = 2.0**-10
    x = np.resize(np.float32([1 + step / 2, -1 - step / 2, 1 + 0.49 * step, 1 + step]), 32)
    expected = np.resize(np.float32([1 + step, -1 - step, 1, 1 + step]), 32)
    assert (of_floats("cvt.rna.tf32.f32 %r0, %r1;", x) == expected).all()


SHUFFLES = {
    "bfly.b32 %r0, %r1, 5, 31": LANES ^ 5,
    "bfly.b32 %r0, %r1, 1, 31": LANES ^ 1,
    "idx.b32 %r0, %r1, 3, 31": np.full(32, 3),
    "idx.b32 %r0, %r1, 3, 6175": LANES // 8 * 8 + 3,  # segments of 8
    "up.b32 %r0, %r1, 2, 0": np.where(LANES < 2, LANES, LANES - 2),
    "down.b32 %r0, %r1, 2, 31": np.where(LANES > 29, LANES, LANES + 2),
}


@pytest.mark.parametrize("text", SHUFFLES)
def test_shuffles(text: str) -> None:
    assert of_words(f"shfl.sync.{text}, -1;", words(1)) == list(words(1)[SHUFFLES[text]])


def test_a_division_by_zero_is_refused() -> None:
    with pytest.raises(PtxError, match="division by zero"):
        of_words("div.u32 %r0, %r1, 0;", words(1))


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_the_products_of_a_warp(kind: str) -> None:
    """D = A B + C, each element where the manual's formulas put it."""
    k = 8 if kind == "tf32" else 16
    a, b, c = (
        torch.randn(shape, generator=torch.Generator().manual_seed(i))
        for i, shape in enumerate([(16, k), (k, 8), (16, 8)])
    )
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}[kind]
    if kind == "tf32":
        a, b = ((operand * 2**8).round() / 2**8 for operand in (a, b))  # of ten bits or fewer
    a, b = a.to(dtype), b.to(dtype)
    group, inner = LANES // 4, LANES % 4

    def packed(pairs: list[torch.Tensor]) -> U32:
        bits = torch.stack(pairs, 1).contiguous()
        return bits.view(torch.int32).numpy().view(np.uint32).reshape(32)

    if kind == "tf32":
        rows = [(group + 8 * (i % 2), inner + 4 * (i // 2)) for i in range(4)]
        left = [packed([a[row, column]]) for row, column in rows]
        right = [packed([b[inner + 4 * i, group]]) for i in range(2)]
    else:
        rows = [(group + 8 * (i % 2), 2 * inner + 8 * (i // 2)) for i in range(4)]
        left = [packed([a[row, column], a[row, column + 1]]) for row, column in rows]
        where = [2 * inner + 8 * i for i in range(2)]
        right = [packed([b[row, group], b[row + 1, group]]) for row in where]
    places = [(group + 8 * (i // 2), 2 * inner + i % 2) for i in range(4)]
    total = [packed([c[place]]) for place in places]
    before = {f"%r{4 + i}": operand for i, operand in enumerate([*left, *right, *total])}
    shape = f"m16n8k{k}.row.col.f32.{kind}.{kind}.f32"
    text = (
        f"mma.sync.aligned.{shape} {{%r0, %r1, %r2, %r3}}, {{%r4, %r5, %r6, %r7}}, "
        "{%r8, %r9}, {%r10, %r11, %r12, %r13};"
    )
    after = registers_after(text, before)
    expected = (a.double() @ b.double() + c.double()).numpy()
    for i, place in enumerate(places):
        actual = after[f"%r{i}"].view(np.float32)
        # Cut to float32 after 4 terms of tf32, or 8 of a half: twice at most.
        np.testing.assert_allclose(actual, expected[place], rtol=0, atol=2 * 2.0**-23 * 32)


@pytest.mark.parametrize("trans", ["", ".trans"], ids=["as it is", "transposed"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices_pass_through_shared_memory(count: int, trans: str) -> None:
    """Lane i gives the address of row i; it gets two elements of row i / 4, or of that column."""
    registers = [f"%r{20 + i}" for i in range(count)]
    store = "\n".join(f"st.shared.b32 [%r1 + {128 * i}], %r{10 + i};" for i in range(count))
    body = f"""
        {store}
        bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{", ".join(registers)}}}, [%r2];
        mov.b32 %r0, %r20;
    """
    halves = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8)
    before = {"%r1": (4 * LANES).astype(np.uint32), "%r2": (16 * LANES).astype(np.uint32)}
    for i in range(count):
        before[f"%r{10 + i}"] = halves[i].reshape(-1).view(np.uint32)
    after = registers_after(body, before, shared=512)
    for matrix, register in zip(halves, registers, strict=True):
        matrix = matrix.T if trans else matrix
        expected = np.stack([matrix[LANES // 4, 2 * (LANES % 4) + i] for i in range(2)], 1)
        assert (after[register].view(np.uint16).reshape(32, 2) == expected).all()


def test_every_instruction_names_its_section_of_the_manual() -> None:
    find("add.s32")
    assert len(SECTIONS) > 400
    assert all(": " in section for section in SECTIONS.values())
    homes = {find(opcode).__module__.rpartition(".")[2] for opcode in SECTIONS}
    assert homes == set(instructions.FAMILIES)


def test_braces_spell_out_opcodes() -> None:
    assert spelled_out("add{,.sat}.{s32,u32}") == [
        "add.s32", "add.u32", "add.sat.s32", "add.sat.u32"
    ]  # fmt: skip
