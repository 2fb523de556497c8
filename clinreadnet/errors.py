"""Errors that reach a user as one line.

Every message names what is wrong, where, and what to do. The command line prints it without a
traceback and exits with ``exit_code``.

ClinReadNetError
├── InputError            bad usage or bad input
│   ├── Untrusted         a bundle's file is not the one that was vouched for
│   └── BackendUnavailable  a backend cannot be had on this machine
├── CheckFailed           a verification did not pass
├── BackendError          a backend failed while it ran
│   ├── OutOfMemory
│   ├── DeviceLost
│   └── PartialResult     some slices of a series failed; the others' scores are in it
├── SessionClosed
└── StreamFull            a slice came while too many others waited
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clinreadnet.runtime.scores import Scores


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error, or of a message, for use inside another message.

    An error without a message gives its type's name.
    """
    if lines := str(error).strip().splitlines():
        return lines[0]
    return type(error).__name__ if isinstance(error, BaseException) else "no reason given"


class ClinReadNetError(Exception):
    """Base of the errors this package raises on purpose."""

    exit_code = 1


class InputError(ClinReadNetError):
    """Bad usage or bad input: a missing file, an unreadable image, an unknown option value."""

    exit_code = 2


class Untrusted(InputError):
    """A file of a bundle is not the one its manifest, or the manifest's signature, vouches for."""


class BackendUnavailable(InputError):
    """A backend cannot be had here: a package, a GPU, a fitting engine is missing."""


class CheckFailed(ClinReadNetError):
    """A verification ran to its end and the artifact did not pass."""

    exit_code = 1


class BackendError(ClinReadNetError):
    """A backend failed on slices that are fit to be scored; the session can be used again."""


class OutOfMemory(BackendError):
    """The smallest batch the artifact accepts does not fit in memory."""


class DeviceLost(BackendError):
    """The GPU is gone for this process: every later call fails too, until a new process starts."""


class PartialResult(BackendError):
    """Some slices of a series were not scored.

    Attributes:
        scores: of the slices that were, in the order of ``done``.
        done: their indices.
        failed: the indices of the others.
    """

    def __init__(
        self, message: str, scores: Scores, done: Sequence[int], failed: Sequence[int]
    ) -> None:
        super().__init__(message)
        self.scores = scores
        self.done = list(done)
        self.failed = list(failed)


class SessionClosed(ClinReadNetError):
    """The session, or the stream, was closed; make another."""


class StreamFull(ClinReadNetError):
    """A stream's queue stayed full for as long as the caller would wait."""
