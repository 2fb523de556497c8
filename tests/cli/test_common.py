"""Several outputs: which one is printed, which failure decides the status; no reason is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from clinreadnet.cli.common import check_printed, raise_failures, row_writer
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


def test_a_file_on_standard_output_takes_the_place_of_the_table() -> None:
    assert check_printed({"csv": Path("a.csv"), "html": Path("-")}, as_json=False)
    assert not check_printed({"csv": Path("a.csv"), "html": None}, as_json=True)
    with pytest.raises(InputError, match="`html` and `as_json` both write to standard output"):
        check_printed({"html": Path("-")}, as_json=True)
    with pytest.raises(InputError, match="`csv` and `html` name one place"):
        check_printed({"csv": Path("-"), "html": Path("-")}, as_json=False)


def test_rows_are_printed_to_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row_writer(Path("-"))({"ms": float("nan")})
    assert capsys.readouterr().out == '{"ms": null}\n' and not list(tmp_path.iterdir())
