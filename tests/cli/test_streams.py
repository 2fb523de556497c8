"""Standard streams that are full or closed: an error of one line and status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.dicom_files import noise
from support.score_files import write_csv
from support.site_readers import site, write_grades
from support.tiny_bundle import write_bundle

FULL = Path("/dev/full")
LINE = "clinreadnet: standard output: No space left on device; free some space\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    write_bundle(folder / "bundle")
    np.save(folder / "a.npy", noise(0))
    return folder


def shell(arguments: str, streams: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command and keep its output until it ends, like a file."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command: Sequence[str] = (
        "sh",
        "-c",
        f'"$0" -m clinreadnet.cli {arguments} {streams}',
        sys.executable,
    )
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments",
    ["--version", "--help", "doctor", "score a.npy --bundle bundle --json", "verify bundle"],
)
def test_a_full_standard_output(arguments: str, folder: Path) -> None:
    done = shell(arguments, ">/dev/full", folder)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(LINE.partition(";")[0])


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_standard_error_costs_no_scores(folder: Path) -> None:
    done = shell("score a.npy --bundle bundle", "2>/dev/full", folder)
    assert done.returncode == 0 and "1 slice: mean" in done.stdout
    assert shell("score nowhere --bundle bundle", "2>/dev/full", folder).returncode == 2


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_file_that_cannot_be_written_costs_no_result(folder: Path) -> None:
    grades, scores = site(patients=24)
    write_grades(folder / "grades.csv", grades)
    write_csv(folder / "scores.csv", scores)
    agree = "agree --labels grades.csv --scores scores.csv --html"
    done = shell(f"{agree} {FULL}", "", folder)
    assert done.returncode == 2 and "kappa" in done.stdout
    assert str(FULL) in done.stderr and len(done.stderr.splitlines()) == 1
    done = shell(f"{agree} page.html", f">{FULL}", folder)
    assert done.returncode == 2
    assert (folder / "page.html").read_text().startswith("<!")
    done = shell(f"score a.npy --bundle bundle --html {FULL}", "", folder)
    assert done.returncode == 2 and "1 slice: mean" in done.stdout
    assert str(FULL) in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.sample(every=3)
@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">&-", "2>&-"])
def test_closed_streams(streams: str, folder: Path) -> None:
    target = folder / "a.csv"
    done = shell("score a.npy --bundle bundle --csv a.csv", streams, folder)
    assert done.returncode == 0 and done.stderr == ""
    assert target.read_text().count("\n") == 2
    assert shell("score nowhere --bundle bundle", streams, folder).returncode == 2
