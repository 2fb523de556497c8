"""Recorded runs: the newest one, and unusable files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support import recorded_run

from bench.results import newest_runs, read_run
from clinreadnet.errors import InputError


def test_the_newest_run_of_each_machine_is_taken(tmp_path: Path) -> None:
    rows = [recorded_run.row("onnxruntime-cpu", "fp32", 0.1)]
    # Named after its commit, which says nothing about which came later.
    later = recorded_run.document(rows, datetime="2026-01-31T13:00:00+00:00")
    recorded_run.write(tmp_path, later, "a").rename(tmp_path / "a" / "2026-01-31-0000000.json")
    recorded_run.write(tmp_path, recorded_run.document(rows), "a")
    recorded_run.write(tmp_path, recorded_run.document([]), "b")
    other = recorded_run.document([], datetime="2026-02-01T13:00:00+00:00")
    other["benchmarks"] = [{"name": "test_start_up", "extra_info": {}}]  # not of the network
    recorded_run.write(tmp_path, other, "a").rename(tmp_path / "a" / "2026-02-01-0000001.json")
    recorded_run.write(tmp_path, recorded_run.document(rows), "a")
    (tmp_path / "simulator").mkdir()
    (tmp_path / "simulator" / "seed-1.json").write_text("{}")  # no benchmark
    runs = newest_runs(tmp_path)
    assert [run.machine for run in runs] == ["a", "b"]
    assert runs[0].path.name == "2026-01-31-0000000.json"
    assert [run.machine for run in newest_runs(tmp_path, "b")] == ["b"]
    (row,) = runs[0].rows
    assert (row.title, row.throughput) == ("onnxruntime-cpu fp32", 10)
    assert runs[0].hardware == "Test CPU, 2 threads"


def broken_row() -> dict[str, Any]:
    row = recorded_run.row("onnxruntime-cpu", "fp32", 0.1)
    del row["extra_info"]["p90"]
    return row


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("{", "cannot be read", id="no-json"),
        pytest.param("[" * 100_000, "cannot be read", id="deep"),
        pytest.param("[]", "not a file of pytest-benchmark", id="another-file"),
        pytest.param({"results_schema": 2}, "results schema 2, this clinreadnet reads 1", id="new"),
        pytest.param({"results_schema": 0}, "results schema 0", id="old"),
        pytest.param({"commit_info": {"id": "unversioned"}}, "commit is unknown", id="no-git"),
        pytest.param({"commit_info": None}, "commit is unknown", id="no-commit"),
        pytest.param({"commit_info": [1]}, "commit is unknown", id="commit-list"),
        pytest.param({"machine_info": []}, "TypeError", id="machine-list"),
        pytest.param({"benchmarks": [broken_row()]}, "field `p90`", id="field"),
        pytest.param({"machine_info": {}}, "KeyError 'cpu'", id="machine"),
    ],
)
def test_a_run_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, content: Any, reason: str
) -> None:
    path = recorded_run.write(tmp_path, recorded_run.document([]))
    if isinstance(content, str):
        path.write_text(content)
    else:
        recorded_run.write(tmp_path, recorded_run.document([]) | content)
    with pytest.raises(InputError) as error:
        read_run(path)
    message = str(error.value)
    assert message.startswith(str(path)) and reason in message and "\n" not in message
    assert "make bench-record" in message


def test_no_results_yet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no results yet; run `make bench-record`"):
        newest_runs(tmp_path)
    with pytest.raises(InputError, match="nowhere: no results yet"):
        newest_runs(tmp_path, "nowhere")


def test_a_pipe_among_the_results_is_not_waited_for(tmp_path: Path) -> None:
    path = recorded_run.write(tmp_path, recorded_run.document([]))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="a pipe; give a regular file"):
        newest_runs(tmp_path)
