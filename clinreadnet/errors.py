"""Errors that reach a user as one line.

Every message names what is wrong, where, and what to do. The command line prints it without a
traceback and exits with ``exit_code``.
"""

from __future__ import annotations


class ClinReadNetError(Exception):
    """Base of the errors this package raises on purpose."""

    exit_code = 1


class InputError(ClinReadNetError):
    """Bad usage or bad input: a missing file, an unreadable image, an unknown option value."""

    exit_code = 2


class CheckFailed(ClinReadNetError):
    """A verification ran to its end and the artifact did not pass."""

    exit_code = 1
