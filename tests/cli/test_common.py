"""Failures of several outputs: one of them decides the exit status, and no reason is lost."""

from __future__ import annotations

import errno
import os

import pytest

from clinreadnet.cli.common import raise_failures
from clinreadnet.errors import CheckFailed, InputError

CHECK, BAD = CheckFailed("2 damaged and left out"), InputError("a.csv: is a folder")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.pdf")
PIPE = BrokenPipeError()


@pytest.mark.parametrize(
    ("failures", "raised", "noted"),
    [
        pytest.param([CHECK], CHECK, [], id="single"),
        pytest.param([CHECK, FULL], FULL, ["2 damaged"], id="highest-status"),
        pytest.param([BAD, FULL, CHECK], BAD, ["a.pdf: No space", "2 damaged"], id="tie"),
        pytest.param([PIPE], PIPE, [], id="pipe"),
        pytest.param([PIPE, CHECK, PIPE], CHECK, [], id="pipe-and-check"),
    ],
)
def test_the_highest_status_is_raised_and_the_others_are_noted(
    failures: list[Exception],
    raised: Exception,
    noted: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(type(raised)) as ended:
        raise_failures(failures)
    assert ended.value is raised
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(noted)
    assert all(
        line.startswith(f"clinreadnet: {text}") for line, text in zip(lines, noted, strict=True)
    )


def test_without_failures_nothing_is_raised() -> None:
    raise_failures([])
