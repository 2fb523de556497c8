"""Kernels proven free of races by `sentryward`, a static verifier, if it is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")
pytest.importorskip("sentryward", reason="sentryward is not installed: pip install sentryward")

import sentryward

from bench.records.ptx import exported
from clinreadnet.kernels.ptx.launch import grid_of

pytestmark = pytest.mark.compile
SIZES = {"B": 1, "heads": 2, "H": 8, "W": 16, "tokens": 40}


def report_of(
    folder: Path, name: str, sizes: Mapping[str, int] = SIZES, *, barriers: bool = True
) -> dict[str, Any]:
    """Verify a kernel, with or without its barriers."""
    kernels = exported(folder / "kernels", "small", ["sm80"], ["fp16"])
    (kernel,) = (k for k in kernels if k.file.startswith(f"{name}."))
    lines = [line for line in kernel.text.splitlines() if barriers or "bar.sync" not in line]
    (folder / "kernel.ptx").write_text("\n".join(lines) + "\n")
    arguments = [
        {"parameter": f"{kernel.entry['entry']}_param_{i}", "type": "u32", "value": sizes[name]}
        for i, name in enumerate(argument["name"] for argument in kernel.entry["arguments"])
        if name in sizes
    ]
    config = {
        "schema": "spverify.kernel-input/v1",
        "launch": {"grid_dim": [grid_of(kernel, sizes), 1, 1], "block_dim": kernel.entry["block"]},
        "arguments": arguments,
    }
    (folder / "input.json").write_text(json.dumps(config))
    return sentryward.verify(folder / "kernel.ptx", input=folder / "input.json")


@pytest.mark.parametrize("barriers", [True, False], ids=["whole", "without-barriers"])
@pytest.mark.parametrize(
    "name",
    [
        "window_attention_shift4",
        "sobel_stem",
        "mlp_48",
        "fused_linear_projection_192_small",
        "fused_linear_qkv_192_small",
        "fused_linear_merge_192_small",
    ],
)
def test_kernels_are_free_of_races(tmp_path: Path, name: str, barriers: bool) -> None:
    """A file is proven; without its barriers it is not."""
    report = report_of(tmp_path, name, barriers=barriers)
    assert (report["result"] == "race_free") == barriers, report["diagnostics"]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("ordinal_head", {"B": 1, "N": 40}),
        ("region_statistics_log", SIZES),
        ("region_statistics_root", SIZES | {"H": 16}),
    ],
)
def test_threads_that_write_equal_values_stop_the_proof(
    tmp_path: Path, name: str, sizes: dict[str, int]
) -> None:
    """Threads of a warp write the same bytes in one instruction.

    The verifier compares no values there. The PTX machine does, and reports different ones.
    """
    report = report_of(tmp_path, name, sizes)
    assert report["result"] == "potential_race"
    (diagnostic,) = report["diagnostics"]
    assert diagnostic["message"] == "Conflicting accesses have no proven required ordering"
    (race,) = report["races"]
    first, second = race["first"], race["second"]
    assert race["region"]["address_space"] == "shared"
    assert first["mode"] == second["mode"] == "write"
    assert first["location"]["line"] == second["location"]["line"]
    assert first["actor"] // 32 == second["actor"] // 32
