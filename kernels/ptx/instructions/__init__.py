"""Functions for instructions, selected by the opcode with all modifiers.

Each function states its section in the chapter "Instruction Set" of the PTX ISA manual. An unknown
opcode is an error when the program is parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from clinreadnet.kernels.ptx.errors import UnknownInstruction

Run = Callable[[Any, Any], None]
FAMILIES = ("integer", "floating", "conversion", "movement", "warp", "tensor", "wgmma")

_found: dict[str, Run] = {}
SECTIONS: dict[str, str] = {}
"""Section of the manual for each opcode."""


def instruction(section: str, *opcodes: str) -> Callable[[Run], Run]:
    """Register a function for opcodes. ``add.{s32,u32}`` stands for two opcodes."""

    def register(run: Run) -> Run:
        for pattern in opcodes:
            for opcode in spelled_out(pattern):
                assert opcode not in _found, opcode
                _found[opcode] = run
                SECTIONS[opcode] = section
        return run

    return register


def spelled_out(pattern: str) -> list[str]:
    """Expand a pattern with braces to all its opcodes."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        return [pattern]
    choices, _, after = rest.partition("}")
    return [before + choice + end for choice in choices.split(",") for end in spelled_out(after)]


def find(opcode: str, line: int = 0, text: str = "") -> Run:
    """Return the function of an opcode.

    Raises:
        UnknownInstruction: the opcode is not supported.
    """
    if not _found:
        for family in FAMILIES:
            import_module(f"clinreadnet.kernels.ptx.instructions.{family}")
    if opcode not in _found:
        raise UnknownInstruction(f"the machine has no function for {opcode}", line, text)
    return _found[opcode]
