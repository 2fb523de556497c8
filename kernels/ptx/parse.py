"""Parse the text of a PTX file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from clinreadnet.kernels.ptx.errors import PtxError, UnknownInstruction
from clinreadnet.kernels.ptx.instructions import find
from clinreadnet.kernels.ptx.program import (
    Address,
    Immediate,
    Instruction,
    Name,
    Operand,
    Program,
    Register,
    Special,
    Vector,
)

_LABEL = re.compile(r"(\$?\w[\w$]*):\s*(.*)")
_GUARD = re.compile(r"@(!?)(%\w+)\s+(.*)")
_REGISTERS = re.compile(r"\.reg\s+\.\w+\s+(%\w+)<(\d+)>")
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\w+)\s*)?\]")


def parse(text: str, entry: str) -> Program:
    """Parse the kernel ``entry`` of a PTX file.

    Raises:
        UnknownInstruction: the machine does not support an instruction; the error has its line.
        PtxError: the entry does not exist.
    """
    head = re.search(rf"\.entry\s+{entry}\s*\((.*?)\)(.*?)\{{", text, re.S)
    if head is None:
        raise PtxError(f"no entry {entry}")
    parameters = re.findall(r"(\w+)\s*(?:,|$)", head[1].strip())
    threads = re.search(r"\.reqntid\s+(\d+)", head[2])
    if threads is None:
        raise PtxError(f"{entry} does not say how many threads it has")
    target = re.search(r"\.target\s+(\w+)", text)
    start = text.count("\n", 0, head.end())

    registers: dict[str, int] = {}
    labels: dict[str, int] = {}
    code: list[Instruction] = []
    for number, line in _statements(text.splitlines()[start:], start + 1):
        while match := _LABEL.fullmatch(line):
            labels[match[1]] = len(code)
            line = match[2]
        if match := _REGISTERS.fullmatch(line):
            for i in range(int(match[2])):
                registers[f"{match[1]}{i}"] = len(registers)
            continue
        if not line or line.startswith((".pragma", ".loc", ".reg")):
            if line.startswith(".reg"):
                raise UnknownInstruction("a declaration of this form", number, line)
            continue
        guard = _GUARD.fullmatch(line)
        opcode, _, rest = (guard[3] if guard else line).partition(" ")
        if opcode.startswith("."):
            raise UnknownInstruction("an unknown directive", number, line)
        operands = tuple(_operand(item, registers) for item in _split(rest))
        code.append(
            Instruction(
                line=number,
                text=line,
                opcode=opcode,
                operands=operands,
                guard=Register(registers[guard[2]], guard[2]) if guard else None,
                negated=bool(guard and guard[1]),
                run=find(opcode, number, line),
                together=_together(opcode),
            )
        )
    for place, item in enumerate(code):
        if item.opcode in ("bra", "bra.uni"):
            code[place] = replace(item, target=labels[item.operands[0].text])
    return Program(
        entry,
        target[1] if target else "",
        tuple(parameters),
        int(threads[1]),
        tuple(code),
        len(registers),
    )


def _together(opcode: str) -> str:
    if opcode.startswith(("cp.async.commit", "cp.async.wait", "wgmma")):
        return "launch"
    if opcode == "bar.sync":
        return "block"
    return "warp" if ".sync" in opcode else "thread"


def _statements(lines: list[str], first: int) -> Iterator[tuple[int, str]]:
    """Yield each statement of a body with its line number, after the opening brace."""
    open_braces = 1
    for number, raw in enumerate(lines, first):
        line = raw.partition("//")[0].strip()
        if line == "{":
            if number != first:  # of the entry
                open_braces += 1
            continue
        if line == "}":
            open_braces -= 1
            if open_braces == 0:
                return
            continue
        for statement in line.split(";"):
            if statement := " ".join(statement.split()):
                yield number, statement


def _split(text: str) -> Iterator[str]:
    """Split the operands of an instruction at commas outside braces and brackets."""
    depth, start = 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "{[") - (letter in "}]")
        if letter == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    if text[start:].strip():
        yield text[start:].strip()


def _operand(text: str, registers: dict[str, int]) -> Operand:
    if text in registers:
        return Register(registers[text], text)
    if text.startswith("{"):
        return Vector(tuple(_operand(part, registers) for part in _split(text[1:-1])))
    if match := _ADDRESS.fullmatch(text):
        base = match[1]
        known = Register(registers[base], base) if base in registers else base
        return Address(known, int(match[2], 0) if match[2] else 0)
    if text.startswith("%"):
        return Special(text)
    if text.startswith("0f"):
        return Immediate(int(text[2:], 16))
    try:
        return Immediate(int(text.removesuffix("U"), 0))
    except ValueError:
        return Name(text)
