"""Errors of the PTX machine, with the line of the PTX file."""

from __future__ import annotations


class PtxError(Exception):
    """A fault of a program at a line of its text.

    Args:
        message: description of the fault.
        line: line number in the file, from 1; 0 if unknown.
        text: text of the line.
    """

    def __init__(self, message: str, line: int = 0, text: str = ""):
        super().__init__(message)
        self.message, self.line, self.text = message, line, text

    def __str__(self) -> str:
        where = f"line {self.line}: {self.text}: " if self.line else ""
        return f"{type(self).__name__}: {where}{self.message}"


class UnknownInstruction(PtxError):
    """An instruction that the machine does not support."""


class OutOfBounds(PtxError):
    """An access outside every allocation, or outside the block's shared memory."""


class Misaligned(PtxError):
    """An address that is not a multiple of the access size."""


class Unwritten(PtxError):
    """A read of uninitialised memory or of an uninitialised register."""


class Race(PtxError):
    """Two threads access the same bytes without synchronisation."""


class NotWaited(PtxError):
    """A use of data that an asynchronous instruction still reads or writes."""


class Divergence(PtxError):
    """A barrier or a warp-wide instruction that some threads do not reach."""


class Endless(PtxError):
    """The kernel does not end within the limit of instructions."""
