"""What a recorded row says of the session that was measured."""

from __future__ import annotations

from typing import Any

from clinreadnet.runtime import Session


def session_facts(session: Session) -> dict[str, Any]:
    """Return what runs, without a path of this machine.

    Args:
        session: the one that is measured.
    """
    # Why a backend was refused may name a path: its name is enough.
    named = {"bundle": session.bundle.name, "refused": sorted(session.refused)}
    return session.describe() | named
