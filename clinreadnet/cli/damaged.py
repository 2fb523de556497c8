"""Damaged slices of `clinreadnet score`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clinreadnet.console import note
from clinreadnet.data.slices import any_readable
from clinreadnet.errors import CheckFailed, InputError


class DamagedSlices:
    """Leaves damaged slices out and counts them, or ends the command at the first."""

    def __init__(self, paths: Sequence[Path], *, resample: bool, keep_going: bool) -> None:
        """Create it for the slices of ``paths``, see `find_slices`."""
        self._paths, self._resample, self._keep_going = paths, resample, keep_going
        self._count = 0

    def leave_out(self, where: object, error: InputError) -> None:
        """Note that the slice ``where`` is left out because of ``error``.

        Raises:
            InputError: slices are not to be left out.
        """
        if not self._keep_going:
            readable = any_readable(self._paths, resample=self._resample)
            hint = "; `keep_going` leaves it out" if readable else ""
            raise InputError(f"{error.full}{hint}")
        self._count += 1
        note(f"left out: {error}")

    def failures(self, scored: int) -> list[CheckFailed]:
        """Return the failure of the command beside ``scored`` slices; none without damage."""
        if not self._count:
            return []
        reason = f"{self._count} damaged and left out, {scored} scored"
        return [CheckFailed(f"{reason}; the lines above say why")]
