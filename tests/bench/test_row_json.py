"""Rows as JSON, written and read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support import recorded_run

from bench.report.tables import energy_table
from bench.results import newest_runs, read_run, result_files
from bench.rows import ArrivalRow, BenchRow, ColdStartRow, KernelRow, OpRow, WarmUp, row_id

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"
ROWS: list[Any] = [
    BenchRow(
        candidate="onnxruntime-cuda",
        role="artifact",
        precision="int8",
        batch=8,
        clock="device graph",
        n=20,
        p50=0.25,
        p90=0.5,
        p99=0.75,
        interval=(0.125, 0.375),
        variation=0.01,
        marks=("not settled",),
        flops=1e9,
        bytes=1e6,
        percent_of_limit=40.0,
        score_difference=1e-6,
        baseline="torch-eager-fp32",
        ratio=(2.0, 1.5, 2.5),
        artifact="clinreadnet.int8.onnx",
        sha256="0" * 64,
        weights_sha256="1" * 64,
        warm_up=WarmUp(3, 1.5, True),
        before={"sm_mhz": 1000, "throttled": []},
        after={"sm_mhz": 900, "throttled": ["sw_power_cap"]},
        others_busy=0.5,
        joules_per_slice=1.25,
        gpu_memory_mib=812.5,
    ),
    ColdStartRow("openvino", "bf16", 3, 1.5, 0.25),
    ArrivalRow("onnxruntime-cpu", "fp32", 1, "Server", 2.5, 100, 2.25, 0.25, 0.5, 1.5, "1" * 64),
    OpRow("mlp 1", 1e9, 1e6, 0.5, 0.75, 66.0, "fp32", 1, 20, (0.5, 1.0), 0.1, ("CV 10 %",)),
    KernelRow(
        "mlp", "float16", 8, "NVIDIA H100", {"kernel": 0.5}, 1e6, 70.0, 2, "fc1", 1e12, ((1, 48),)
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_comes_back_from_its_json(row: Any) -> None:
    facts = json.loads(json.dumps(row.to_json()))
    assert type(row).from_json(facts) == row
    assert [type(kind) for kind in ROWS if kind.holds(facts)] == [type(row)]
    assert {f.name for f in dataclasses.fields(row)} == set(facts) - {"op"} | (
        {"op"} if isinstance(row, KernelRow) else set()
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_row_without_one_of_its_fields_is_refused(row: Any) -> None:
    required = [
        field.name
        for field in dataclasses.fields(row)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    for name in required:
        facts = row.to_json()
        del facts[name]
        with pytest.raises(ValueError, match=f"field `{name}`"):
            type(row).from_json(facts)


def test_the_name_of_a_row_is_that_of_its_benchmark() -> None:
    assert row_id("openvino", "bf16", 4, "device graph") == "openvino-bf16-batch-4-device-graph"
    for path in result_files(RESULTS):
        document = json.loads(path.read_text())
        for entry in document["benchmarks"]:
            if BenchRow.holds(entry["extra_info"]):
                assert BenchRow.from_json(entry["extra_info"]).name == entry["name"]


def test_recorded_rows_are_what_is_written_today() -> None:
    """The recorded files have all fields that are written; newer fields are empty."""
    runs = newest_runs(RESULTS)
    assert any(run.cold_starts for run in runs) and any(run.ops for run in runs)
    for run in runs:
        recorded = [
            entry["extra_info"]
            for entry in run.document["benchmarks"]
            if BenchRow.holds(entry["extra_info"])
        ]
        assert recorded
        for facts, row in zip(recorded, run.rows, strict=True):
            written = json.loads(json.dumps(row.to_json()))
            assert {key: written.pop(key) for key in facts} == facts
            assert not any(written.values())


def test_every_kind_of_row_is_read_with_its_run(tmp_path: Path) -> None:
    benchmarks = [
        {"name": "", "fullname": "", "extra_info": json.loads(json.dumps(row.to_json()))}
        for row in ROWS
    ]
    run = read_run(recorded_run.write(tmp_path, recorded_run.document(benchmarks)))
    assert [*run.rows, *run.cold_starts, *run.arrivals, *run.ops, *run.kernels] == ROWS


def test_energy_stands_in_a_table_where_it_is_known() -> None:
    rows = [
        BenchRow.from_json(recorded_run.row(name, "fp16", 0.01, batch=4, **more)["extra_info"])
        for name, more in (
            ("tensorrt", {"joules_per_slice": 1.234, "gpu_memory_mib": 812.4}),
            ("onnxruntime-cuda", {}),
        )
    ]
    assert energy_table(rows).rows == (("tensorrt fp16", "4", "host", "1.23", "812"),)
    assert energy_table(rows[1:]).markdown() == "Not measured.\n"
