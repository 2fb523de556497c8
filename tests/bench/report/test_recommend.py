"""The recommended artifact, and the reasons against faster ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support import recorded_run

from bench.report.recommend import parse_budget, recommend
from bench.report.tables import artifacts_table
from bench.results import RecordedRun, called, read_run
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.manifest import (
    Artifact,
    BatchRange,
    BuiltOn,
    Golden,
    InputInfo,
    Manifest,
    ModelInfo,
    Parity,
    RanOn,
)

BATCH = BatchRange(1, 4, 8)
UNVERIFIED = "not verified on a processor; run `clinreadnet verify --record` there"


def artifact(precision: str, score: float | None, status: str = "passed") -> Artifact:
    return Artifact(
        file=f"clinreadnet.{precision}.onnx",
        kind="onnx",
        precision=precision,
        sha256=precision * 16,
        size=1,
        batch=BATCH,
        toolchain={},
        built_on=BuiltOn("test"),
        parity=Parity(
            status,
            relative_error={"score": 1e-4, "probs": 1e-3},
            metric_difference={"PLCC": 1e-5, "SROCC": 2e-4, "KROCC": 0.0},
            worst_score_difference=score,
        ),
    )


MANIFEST = Manifest(
    clinreadnet_version="0.1.0",
    created="2026-01-31T12:00:00Z",
    model=ModelInfo("tiny", 1, "0" * 64),
    input=InputInfo(BATCH),
    artifacts=(
        artifact("fp32", 1e-6),
        artifact("fp16", 0.01),
        artifact("int8", 0.05),
        artifact("bf16", None, "not run here"),
    ),
    golden=Golden("golden.npz", "0" * 64, 1, 3),
    verified=True,
)


def measured(*rows: tuple[str, float], **facts: Any) -> list[dict[str, Any]]:
    return [
        recorded_run.row("onnxruntime-cpu", p, s, **({"sha256": p * 16} | facts)) for p, s in rows
    ]


@pytest.fixture
def run(tmp_path: Any) -> Any:
    def of(rows: list[dict[str, Any]]) -> RecordedRun:
        return read_run(recorded_run.write(tmp_path, recorded_run.document(rows)))

    return of


ALL = (("fp32", 0.4), ("fp16", 0.3), ("int8", 0.2), ("bf16", 0.1))


@pytest.mark.parametrize(
    ("budget", "best", "reasons"),
    [
        pytest.param("score<=0.1", "int8", [UNVERIFIED], id="wide"),
        pytest.param("score<=0.02", "fp16", [UNVERIFIED, "score 0.05 > 0.02"], id="usual"),
        pytest.param(
            "score<=0.001",
            "fp32",
            [UNVERIFIED, "score 0.05 > 0.001", "score 0.01 > 0.001"],
            id="narrow",
        ),
        pytest.param("score<=1e-9", None, 4, id="none"),
        pytest.param("error<=0.001,SROCC<=0.0002", "int8", [UNVERIFIED], id="at-the-bound"),
        pytest.param("error<=0.0009", None, 4, id="largest-error-of-an-output"),
    ],
)
def test_the_fastest_within_the_budget_is_named(
    run: Any, budget: str, best: str | None, reasons: Any
) -> None:
    chosen = recommend(run(measured(*ALL)), MANIFEST, budget)
    messages = [refusal.reason for refusal in chosen.refused]
    if best is None:
        assert chosen.best is None and len(messages) == reasons
        assert chosen.lines()[0].endswith(f"no measured artifact is within {budget}")
    else:
        assert chosen.best is not None and chosen.best.row.precision == best
        assert messages == reasons
        assert f"deploy clinreadnet.{best}.onnx with onnxruntime-cpu" in chosen.lines()[0]
        assert all("refused" in line for line in chosen.lines()[1:])


def record(gpu: str | None, backend: str, status: Any = "passed", score: float = 1e-3) -> Parity:
    date = "2026-11-28T12:00:00Z"
    ran = RanOn(backend, date, "test", "Test CPU", gpu, "sm89" if gpu else None, None, {})
    return Parity(status, worst_score_difference=score, ran_on=ran)


def with_records(precision: str, *records: Parity) -> Manifest:
    """Return the bundle with records of one artifact."""
    artifacts = tuple(
        replace(a, records=records if a.precision == precision else ()) for a in MANIFEST.artifacts
    )
    return replace(MANIFEST, artifacts=artifacts)


@pytest.mark.parametrize(
    ("records", "best", "reason"),
    [
        pytest.param([record("NVIDIA L4", "onnxruntime-cuda")], "fp16", None, id="this-gpu"),
        pytest.param([], None, "not verified on NVIDIA L4; run", id="no-record"),
        pytest.param(
            [record("NVIDIA A10", "onnxruntime-cuda")], None, "not verified on", id="another-gpu"
        ),
        pytest.param(
            [record("NVIDIA L4", "tensorrt")], None, "not verified on", id="another-backend"
        ),
        pytest.param([record(None, "onnxruntime-cpu")], None, "not verified on", id="processor"),
        pytest.param(
            [record("NVIDIA L4", "onnxruntime-cuda", "failed")],
            None,
            "verification failed on NVIDIA L4",
            id="failed",
        ),
        pytest.param(
            [record("NVIDIA L4", "onnxruntime-cuda", score=0.5)],
            None,
            "score 0.5 > 0.02",
            id="worse-there-than-on-a-processor",
        ),
    ],
)
def test_what_runs_on_a_gpu_must_have_passed_on_it(
    tmp_path: Any, records: list[Parity], best: str | None, reason: str | None
) -> None:
    rows = [recorded_run.row("onnxruntime-cuda", "fp16", 0.01, sha256="fp16" * 16)]
    document = recorded_run.document(rows)
    document["machine_info"]["gpu"] = "NVIDIA L4"
    run = read_run(recorded_run.write(tmp_path, document))
    chosen = recommend(run, with_records("fp16", *records), "score<=0.02")
    if best is not None:
        assert chosen.best is not None and chosen.best.row.precision == best
        assert chosen.best.cost == 1e-3
    else:
        assert chosen.best is None and str(chosen.refused[0].reason).startswith(str(reason))


def test_another_backend_of_the_processor_needs_its_own_record(run: Any) -> None:
    rows = [*measured(("fp32", 0.2)), recorded_run.row("openvino", "fp32", 0.1, sha256="fp32" * 16)]
    chosen = recommend(run(rows), MANIFEST, "score<=0.02")
    assert chosen.best is not None and chosen.best.row.candidate == "onnxruntime-cpu"
    assert str(chosen.refused[0].reason).startswith("not verified on a processor with openvino;")
    verified = with_records("fp32", record(None, "openvino"))
    chosen = recommend(run(rows), verified, "score<=0.02")
    assert chosen.best is not None and chosen.best.row.candidate == "openvino"


def test_each_precision_of_a_checkpoint_is_judged_by_its_own_record(run: Any) -> None:
    file, digest = "clinreadnet.safetensors", "c" * 64

    def checkpoint(precision: str, score: float) -> Artifact:
        records = (record(None, "native", score=score),)
        return replace(artifact(precision, None), file=file, sha256=digest, records=records)

    manifest = replace(MANIFEST, artifacts=(checkpoint("fp32", 1e-6), checkpoint("int8", 0.01)))
    rows = [
        recorded_run.row("native", precision, seconds, artifact=file, sha256=digest)
        for precision, seconds in (("fp32", 0.2), ("int8", 0.1))
    ]
    for budget, precision, cost in (("score<=0.02", "int8", 0.01), ("score<=0.001", "fp32", 1e-6)):
        best = recommend(run(rows), manifest, budget).best
        assert best is not None and (best.row.precision, best.cost) == (precision, cost)


def test_the_table_of_artifacts_has_every_record() -> None:
    other = record(None, "openvino")
    assert other.ran_on is not None
    manifest = with_records("fp16", record("NVIDIA L4", "onnxruntime-cuda", "failed"), other)
    rows = [(row[1], row[4]) for row in artifacts_table(manifest).rows]
    assert rows == [
        ("fp32", "passed"),
        ("fp16", "passed"),
        ("fp16", "failed on NVIDIA L4"),
        ("fp16", f"passed on {other.ran_on.hardware} with openvino"),
        ("int8", "passed"),
        ("bf16", "not run here"),
    ]


@pytest.mark.parametrize(("status", "best"), [("passed", "int8"), ("failed", "fp16")])
def test_the_newest_record_of_a_processor_counts(run: Any, status: str, best: str) -> None:
    manifest = with_records("int8", record(None, "onnxruntime-cpu", status))
    chosen = recommend(run(measured(*ALL)), manifest, "score<=0.02")
    assert chosen.best is not None and chosen.best.row.precision == best


def test_only_what_can_be_deployed_is_considered(run: Any) -> None:
    rows = [
        *measured(("fp32", 0.4)),
        *measured(("fp16", 0.1), role="peer"),
        *measured(("fp16", 0.1), batch=8),
        *measured(("fp16", 0.1), clock="device graph"),
        *measured(("fp16", 0.2), sha256="0" * 64),
        *measured(("fp16", 0.3), artifact="another.onnx"),
    ]
    chosen = recommend(run(rows), MANIFEST, "score<=0.02")
    assert chosen.best is not None and chosen.best.row.precision == "fp32"
    assert [refusal.reason for refusal in chosen.refused] == [
        "measured on another build of this file; run `make bench-record`",
        "not in this bundle; `clinreadnet export --precision fp16` makes it",
    ]
    assert chosen.missing == ("fp16",)


def test_marks_stay_with_the_recommendation(run: Any) -> None:
    chosen = recommend(run(measured(("fp32", 0.4), marks=["CV 9 %"])), MANIFEST, "score<=1")
    assert chosen.lines()[0].endswith("(CV 9 %)")


@pytest.mark.parametrize("text", ["", "score", "score<0.1", "speed<=1", "score<=-1", "score<=1e"])
def test_a_bad_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not QUANTITY<=NUMBER"):
        parse_budget(text)


def test_a_budget_bounds_several_quantities() -> None:
    assert parse_budget("score<=0.02, KROCC <= 1e-3") == {"score": 0.02, "KROCC": 1e-3}


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        ("Intel(R) Xeon(R) Processor, 2 threads", "Intel Xeon, 2 threads"),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz, 12 threads", "Intel Core i7-8700, 12 threads"),
        ("AMD EPYC 7763 64-Core Processor, 4 threads", "AMD EPYC 7763 64-Core, 4 threads"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
    ],
)
def test_machines_are_called_as_people_do(hardware: str, name: str) -> None:
    assert called(hardware) == name
