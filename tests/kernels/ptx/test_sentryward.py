"""Kernels proven free of races by `sentryward`, a static verifier, if it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")
pytest.importorskip("sentryward", reason="sentryward is not installed: pip install sentryward")

import sentryward

from bench.records.ptx import exported
from clinreadnet.kernels.ptx.launch import grid_of

pytestmark = pytest.mark.compile
SIZES = {"B": 1, "heads": 2, "H": 8, "W": 16, "tokens": 40}


@pytest.mark.parametrize("barriers", [True, False], ids=["whole", "without-barriers"])
@pytest.mark.parametrize(
    "name",
    [
        "window_attention_shift4",
        "sobel_stem",
        "mlp_48",
        "fused_linear_projection_192_small",
        "fused_linear_qkv_192_small",
    ],
)
def test_kernels_are_free_of_races(tmp_path: Path, name: str, barriers: bool) -> None:
    """A file is proven; without its barriers it is not."""
    kernels = exported(tmp_path / "kernels", "small", ["sm80"], ["fp16"])
    (kernel,) = (k for k in kernels if k.file.startswith(f"{name}."))
    lines = [line for line in kernel.text.splitlines() if barriers or "bar.sync" not in line]
    (tmp_path / "kernel.ptx").write_text("\n".join(lines) + "\n")
    arguments = [
        {"parameter": f"{kernel.entry['entry']}_param_{i}", "type": "u32", "value": SIZES[name]}
        for i, name in enumerate(argument["name"] for argument in kernel.entry["arguments"])
        if name in SIZES
    ]
    config = {
        "schema": "spverify.kernel-input/v1",
        "launch": {"grid_dim": [grid_of(kernel, SIZES), 1, 1], "block_dim": kernel.entry["block"]},
        "arguments": arguments,
    }
    (tmp_path / "input.json").write_text(json.dumps(config))
    report = sentryward.verify(tmp_path / "kernel.ptx", input=tmp_path / "input.json")
    assert (report["result"] == "race_free") == barriers, report["diagnostics"]
