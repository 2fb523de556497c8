"""Errors that reach a user as one line.

Every message names what is wrong, where, and what to do. The command line prints it without a
traceback and exits with ``exit_code``.

ClinReadNetError
├── InputError            bad usage or bad input
│   ├── Untrusted         a bundle's file is not the one that was listed or signed
│   └── BackendUnavailable  a backend cannot run on this machine
├── CheckFailed           a verification did not pass
├── BackendError          a backend failed while it ran
│   ├── OutOfMemory
│   ├── DeviceLost
│   └── PartialResult     some slices of a series failed; it holds the other scores
├── SessionClosed
└── StreamFull            a stream's queue stayed full
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
    """Base of the errors that this package raises for a user."""

    exit_code = 1


class InputError(ClinReadNetError):
    """Bad usage or bad input: a missing file, an unreadable image, an unknown option value."""

    exit_code = 2


class Untrusted(InputError):
    """A file of a bundle is not the one in its manifest, or the manifest is not the signed one."""


class BackendUnavailable(InputError):
    """A backend cannot run on this machine: a package, a GPU or a fitting engine is missing."""


class CheckFailed(ClinReadNetError):
    """A check ran to its end and failed."""

    exit_code = 1


class BackendError(ClinReadNetError):
    """A backend failed on valid slices; the session can be used again."""


class OutOfMemory(BackendError):
    """The smallest batch the artifact accepts does not fit in memory."""


class DeviceLost(BackendError):
    """The GPU failed; every later call of this process fails too."""


class PartialResult(BackendError):
    """Some slices of a series were not scored.

    Attributes:
        scores: scores of the other slices, in the order of ``done``.
        done: indices of the scored slices.
        failed: indices of the slices that failed.
    """

    def __init__(
        self, message: str, scores: Scores, done: Sequence[int], failed: Sequence[int]
    ) -> None:
        super().__init__(message)
        self.scores = scores
        self.done = list(done)
        self.failed = list(failed)


class SessionClosed(ClinReadNetError):
    """The session or the stream is closed."""


class StreamFull(ClinReadNetError):
    """A stream's queue stayed full for the whole timeout."""
