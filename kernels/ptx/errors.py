"""What the machine refuses, each with the line of the PTX file."""

from __future__ import annotations


class PtxError(Exception):
    """A fault of a program, at a line of its text.

    Args:
        message: what is wrong.
        line: number of the line in the file, from 1; 0 where it is not known yet.
        text: the line.
    """

    def __init__(self, message: str, line: int = 0, text: str = ""):
        super().__init__(message)
        self.message, self.line, self.text = message, line, text

    def __str__(self) -> str:
        where = f"line {self.line}: {self.text}: " if self.line else ""
        return f"{type(self).__name__}: {where}{self.message}"


class UnknownInstruction(PtxError):
    """An instruction that the machine has no function for."""


class OutOfBounds(PtxError):
    """An access outside every allocation, or outside the block's shared memory."""


class Misaligned(PtxError):
    """An address that is no multiple of the size of the access."""


class Unwritten(PtxError):
    """A read of memory or of a register that nothing has written."""


class Race(PtxError):
    """Two threads touch the same bytes with nothing between them that orders the two."""


class NotWaited(PtxError):
    """A use of what an asynchronous instruction still reads or writes."""


class Divergence(PtxError):
    """A barrier or a warp-wide instruction that some of its threads never reach."""


class Endless(PtxError):
    """More instructions than a kernel of this size can need."""
