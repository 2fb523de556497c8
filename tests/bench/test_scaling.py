"""The study of workers and threads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import write_bundle

from bench.records import scaling


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(1, 1), (2, 1)]),
        (3, [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)]),
    ],
)
def test_sessions_have_up_to_twice_the_processors(
    count: int, expected: list[tuple[int, int]]
) -> None:
    assert scaling.shapes(count) == expected


def test_each_way_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archives: list[int] = []

    def score_archive(
        paths: Sequence[Path], bundle: Path, out: Path, *, workers: int, **rest: Any
    ) -> None:
        archives.append(workers)
        out.touch()

    monkeypatch.setattr(scaling, "score_archive", score_archive)
    monkeypatch.setattr(scaling, "processors", lambda: 2)
    bundle = write_bundle(tmp_path / "bundle")
    assert scaling.main(["--bundle", str(bundle), "--slices", "2", "--rounds", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(row["workers"], row["threads"]) for row in record["rows"]] == [
        *scaling.shapes(2),
        (1, 1),
        (1, 1),
        (2, 1),
    ]
    assert all(row["slices_per_second"] > 0 for row in record["rows"])
    assert set(archives) == {1, 2} and record["backend"] == "onnxruntime-cpu"
