"""What the checks of a release share: the distributions, built once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from release.commands import ROOT, copy_of_checkout, run


@pytest.fixture(scope="session")
def committed() -> str:
    """When the last commit was made, in seconds since 1970: the time of files in the wheel."""
    return run(["git", "log", "-1", "--format=%ct"], ROOT).stdout.strip()


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory, committed: str) -> tuple[Path, Path]:
    """Build the sdist and, from what it holds, the wheel; return their paths."""
    source = copy_of_checkout(tmp_path_factory.mktemp("first"))
    out = tmp_path_factory.mktemp("dist")
    run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source],
        SOURCE_DATE_EPOCH=committed,
    )
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel
