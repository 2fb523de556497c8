"""Errors that reach a user as one line.

Every message states what is wrong, where, and what to do. The command line prints it without a
traceback and exits with ``exit_code``.

ClinReadNetError
├── InputError            bad usage or bad input
│   ├── Untrusted         a bundle's file is not the one that was listed or signed
│   └── BackendUnavailable  a backend cannot run on this machine
├── CheckFailed           a verification did not pass
├── LimitExceeded         a series exceeds a limit of the site
├── BackendError          a backend failed while it ran
│   ├── OutOfMemory
│   ├── DeviceLost
│   └── PartialResult     some slices of a series failed; it holds the other scores
├── SessionClosed
└── StreamFull            a stream's queue stayed full
"""

from __future__ import annotations

import errno
import os
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from clinreadnet.limits import MESSAGE

if TYPE_CHECKING:
    from clinreadnet.runtime.scores import Scores


_PLURALS = {"is": "are", "was": "were", "has": "have"}


def visible(text: str) -> str:
    """Escape all characters that a terminal or a log would interpret or not show.

    These are control characters, line ends, directional marks and bytes of file names that are not
    UTF-8.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def one_line(text: str, limit: int = MESSAGE) -> str:
    """Return a message as one line of visible characters, shortened in its middle.

    Start and end are kept: they say what is wrong and what to do.
    """
    text = visible(text)
    if len(text) <= limit:
        return text
    tail = limit * 2 // 5
    return f"{text[: limit - tail - 5]} ... {text[-tail:]}"


def shell_word(path: str | os.PathLike[str]) -> str:
    """Return a path as a word of a command line, in quotes where a shell needs them."""
    return shlex.quote(os.fspath(path))


def counted(count: int, noun: str, of: int | None = None, verb: str = "") -> str:
    """Return a count with its noun, such as ``1 slice``, ``3 series`` or ``1 of 3 slices has``.

    Args:
        count: the count.
        noun: noun in the singular, of which the plural ends in s.
        of: of how many; None without.
        verb: verb that follows, as after a count of 1; empty without.
    """
    among = count if of is None else of
    words = [str(count), *(["of", str(of)] if of is not None else [])]
    words.append(noun if among == 1 or noun.endswith("series") else f"{noun}s")
    if verb:
        words.append(verb if count == 1 else _PLURALS.get(verb, verb.removesuffix("s")))
    return " ".join(words)


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error, or of a message, for use inside another message.

    Returns the name of the type if an error has no message.
    """
    if lines := str(error).strip().splitlines():
        return lines[0]
    return type(error).__name__ if isinstance(error, BaseException) else "no reason given"


def os_error_line(error: OSError) -> str:
    """Return the file and the reason of an OSError, with advice if the disk is full."""
    where = "" if error.filename is None else f"{error.filename}: "
    advice = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{where}{error.strerror or first_line(error)}{advice}"


def origin(error: BaseException) -> str:
    """Return the type of an error and its source line, such as ``ValueError in a/b.py:7``.

    Use this for errors of libraries, whose messages can repeat header values.
    """
    place = error.__traceback__
    if place is None:
        return type(error).__name__
    while place.tb_next is not None:
        place = place.tb_next
    file = PurePath(place.tb_frame.f_code.co_filename)
    return f"{type(error).__name__} in {'/'.join(file.parts[-2:])}:{place.tb_lineno}"


class ClinReadNetError(Exception):
    """Base of the errors that this package raises for a user.

    The message is one line of visible characters, at most ``limits.MESSAGE`` long.

    Attributes:
        full: the complete message.
        exit_code: exit status of the command line.
    """

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))
        self.full = visible(message)


class InputError(ClinReadNetError):
    """Bad usage or bad input: a missing file, an unreadable image, an unknown option value."""

    exit_code = 2


class Untrusted(InputError):
    """A file of a bundle differs from its manifest, or the manifest differs from the signed one."""


class BackendUnavailable(InputError):
    """A backend cannot run on this machine: a package, a GPU or a fitting engine is missing."""


class CheckFailed(ClinReadNetError):
    """A check ran to its end and failed."""

    exit_code = 1


class LimitExceeded(ClinReadNetError):
    """A series exceeds a limit of the site. Its scores are complete."""

    exit_code = 4


class BackendError(ClinReadNetError):
    """A backend failed on valid slices. The session can still be used."""


class OutOfMemory(BackendError):
    """The smallest batch the artifact accepts does not fit in memory."""


class DeviceLost(BackendError):
    """The GPU failed. Later calls of this process fail too."""


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
