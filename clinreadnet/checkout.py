"""The commit that a recorded result came from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_commit(folder: Path = Path(__file__).parent) -> str | None:
    """Return the commit that ``folder`` is a checkout of; None outside a checkout.

    Args:
        folder: by default where this package is installed.
    """
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
