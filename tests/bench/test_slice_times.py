"""The record of the processor time of the looks at a slice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.dicom_files import write_series

from bench.records import slice_times
from clinreadnet.library import engine_version


def test_each_look_is_timed_with_the_library_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slice_times, "RUNS", 3)
    versions = []
    monkeypatch.setitem(slice_times.LOOKS, "seen", lambda hu, mm: versions.append(engine_version()))
    write_series(tmp_path / "series", 2, PixelSpacing=[0.7, 0.7])
    assert slice_times.main([str(tmp_path / "series")]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["slices"], record["library"]) == (2, engine_version())
    assert record["command"] == "python -m bench.records.slice_times series"
    looks = ["counts of pixels", "region", "figures", "seen"]
    for name in ("with", "without"):
        assert [row["look"] for row in record[name]] == looks
        assert all(0 < row["median_ms"] <= row["most_ms"] for row in record[name][:3])
    assert versions == [engine_version()] * 6 + [None] * 6


def test_slices_without_a_pixel_size_cannot_be_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "series", 1, PixelSpacing=None)
    with pytest.raises(SystemExit, match="2"):
        slice_times.main([str(tmp_path / "series")])
    assert "no slice states the size of its pixels" in capsys.readouterr().err
