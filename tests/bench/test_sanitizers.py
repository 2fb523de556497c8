"""The record of the CPU engine under sanitizers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.records import sanitizers


def test_parts_are_recorded_until_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exercise(sanitizer: str, *arguments: object, **options: object) -> str:
        if sanitizer == "thread" and "int8" in arguments and len(called) == 7:
            raise AssertionError("WARNING: ThreadSanitizer: data race")
        called.append(sanitizer)
        return "20 mutations: 19 refused, 1 loaded" if arguments[0] == "mutate" else "30 calls"

    called: list[str] = []
    monkeypatch.setattr(sanitizers, "exercise", exercise)
    monkeypatch.setattr(sanitizers, "instructions", lambda: "avx2")
    out = tmp_path / "out.json"
    status = sanitizers.main(["--out", str(out), "--calls", "30", "--mutations", "20"])
    assert status == 1
    assert "16 threads, avx2 int8, thread: WARNING: ThreadSan" in capsys.readouterr().err
    parts = json.loads(out.read_text())["parts"]
    assert [(part["part"], part["sanitizer"], part["counts"]) for part in parts] == [
        ("mutated checkpoints", called[0], {"mutations": 40, "refused": 38, "loaded": 2}),
        ("16 threads, avx2 fp32", "thread", {"calls": 60}),
        ("16 threads, avx2 int8", "thread", {"calls": 30}),
        ("16 threads, avx2 fp32", "address-undefined", {"calls": 30}),
        ("16 threads, avx2 int8", "address-undefined", {"calls": 30}),
    ]
