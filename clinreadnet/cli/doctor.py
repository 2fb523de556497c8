"""`clinreadnet doctor`."""

from __future__ import annotations

from clinreadnet.cli.common import print_result
from clinreadnet.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """List what this machine can build and run, and how to install what is missing.

    Examples:
    - `clinreadnet doctor`
    - `clinreadnet doctor --json`
    """
    from clinreadnet.runtime.doctor import diagnose, print_diagnosis

    diagnosis = diagnose()
    print_result(diagnosis, as_json, print_diagnosis)
