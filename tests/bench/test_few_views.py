"""The record of simulated scans of few views."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("numba", reason="numba is not installed")

from bench.records import few_views


def test_scans_are_counted_by_views(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(few_views, "SETS", {"one": (7304, 1)})
    assert few_views.main([]) == 0
    (part,) = json.loads(capsys.readouterr().out)["sets"]
    scans = {row["views"]: row for row in part["rows"] if not row["denoised"]}
    assert list(scans) == [120, 240, 720]
    assert all(row["slices"] == 4 for row in scans.values())
    assert sum(row["slices"] for row in part["rows"]) == 16
    assert (scans[120]["seen"], scans[120]["right"], scans[720]["seen"]) == (4, 4, 0)
