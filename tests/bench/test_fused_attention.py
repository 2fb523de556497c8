"""The record of both forms of the attention for TensorRT-RTX."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.records import fused_attention


def test_a_row_has_the_error_of_the_graph_and_each_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parity = SimpleNamespace(status="passed", relative_error={"a": 1e-4, "b": 3e-4, "c": None})
    artifacts = [
        SimpleNamespace(kind="checkpoint", file="net.safetensors"),
        SimpleNamespace(kind="onnx", file="net.onnx", parity=parity),
        SimpleNamespace(kind="tensorrt-engine", file="net.rtx", target="sm86", size=7),
    ]
    listed = {"launches": 166, "fused_attentions": 6, "layers": {}}
    (tmp_path / "net.layers.json").write_text(json.dumps(listed))
    manifest = SimpleNamespace(artifacts=artifacts)
    monkeypatch.setattr(fused_attention, "load_manifest", lambda folder: manifest)
    assert fused_attention.row(tmp_path, "fused") == {
        "form": "fused",
        "status": "passed",
        "error": 3e-4,
        "engines": [{"target": "sm86", "bytes": 7, "launches": 166, "fused_attentions": 6}],
    }
