"""A recorded benchmark run around a bundle of `tiny_bundle`, without measuring anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def row(
    candidate: str, precision: str, seconds: float, *, batch: int = 1, **facts: Any
) -> dict[str, Any]:
    """Return a benchmark of the network: of an artifact, unless ``facts`` say otherwise."""
    extra = {
        "op": "network",
        "candidate": candidate,
        "role": "artifact",
        "precision": precision,
        "batch": batch,
        "clock": "host",
        "n": 20,
        "p50": seconds,
        "p90": 1.1 * seconds,
        "p99": 1.2 * seconds,
        "interval": [0.98 * seconds, 1.02 * seconds],
        "variation": 0.01,
        "marks": [],
        "baseline": None,
        "ratio": None,
        "flops": 1e9 * batch,
        "bytes": 1e6,
        "percent_of_limit": 40.0,
        "artifact": f"clinreadnet.{precision}.onnx",
        "sha256": None,
        "score_difference": 1e-6,
    } | facts
    name = f"test_network[{candidate}-{precision}-batch-{batch}-{extra['clock']}]"
    fullname = f"bench/test_network.py::{name}"
    return {"name": name, "fullname": fullname, "extra_info": extra, "stats": {}}


def document(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a file of pytest-benchmark with this package's additions."""
    return {
        "machine_info": {
            "cpu": {"brand_raw": "Test CPU", "count": 2},
            "packages": {"onnxruntime": "1.0"},
            "rates": {"copy": 1e10, "fp32": 1e11},
        },
        "commit_info": {"id": COMMIT, "dirty": False},
        "benchmarks": rows,
        "datetime": "2026-01-31T12:00:00+00:00",
        "version": "5.3.1",
        "results_schema": 1,
    } | changes


def write(results: Path, content: dict[str, Any], machine: str = "test-cpu-2-threads") -> Path:
    """Write a document where `bench-record` would."""
    path = results / machine / f"2026-01-31-{COMMIT[:7]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
