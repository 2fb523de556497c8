"""`pytest bench` on a bundle of a few operators: recorded, refused and compared rows."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import recorded_run
from support.tiny_bundle import make_graph, reference, write_bundle

from bench import check, recording
from bench.results import read_run
from bench.rows import BenchRow
from clinreadnet.errors import InputError
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest

ROOT = Path(__file__).parents[2]


def pytest_bench(
    bundle: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CLINREADNET_BUNDLE": str(bundle), "OMP_NUM_THREADS": "1"}
    environment |= variables
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--quick",
        "--rounds=6",
        "-rs",
    ]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    return write_bundle(folder, precisions=("fp32", "fp16", "int8"))


@pytest.fixture(scope="module")
def recorded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a run of the rows of batch 1 and 2 of this machine, and the printed text."""
    path = tmp_path_factory.mktemp("run") / "bench.json"
    chosen = "(test_network and (batch-1-host or batch-2-host)) or test_missing"
    arguments = "bench/test_network.py", "-v", "-k", chosen, f"--benchmark-json={path}"
    done = pytest_bench(bundle, *arguments)
    assert done.returncode == 0, done.stdout
    return path, done.stdout


def test_rows_are_timed_in_turn_and_say_what_was_measured(
    bundle: Path, recorded: tuple[Path, str]
) -> None:
    path, _ = recorded
    content = json.loads(path.read_text())
    assert str(bundle.parent) not in path.read_text() and str(path) not in path.read_text()
    content["commit_info"]["id"] = recorded_run.COMMIT  # also outside a checkout
    path.write_text(json.dumps(content))
    run = read_run(path)
    rows = {row.title: row for row in run.rows}
    graphs = {"onnxruntime-cpu fp32", "onnxruntime-cpu fp16", "onnxruntime-default fp32"}
    assert graphs <= set(rows)
    manifest = load_manifest(bundle)
    for title in graphs:
        row = rows[title]
        assert row.sha256 == manifest.artifact(row.artifact or "").sha256
        assert 0 < row.interval[0] <= row.p50 <= row.interval[1] and row.p90 <= row.p99
        assert row.n == 6 and row.flops > 1e9 and row.percent_of_limit > 0
    assert rows["onnxruntime-cpu fp32"].baseline == "onnxruntime-default-fp32"
    assert rows["onnxruntime-default fp32"].ratio is None
    # pytest-benchmark's own statistics are of the same times.
    for benchmark in content["benchmarks"]:
        assert benchmark["stats"]["median"] == pytest.approx(benchmark["extra_info"]["p50"])
    assert {"copy", "fp32"} <= set(run.rates)
    assert "packages" in content["machine_info"] and "node" not in content["machine_info"]


def test_the_rows_of_a_group_follow_each_other(recorded: tuple[Path, str]) -> None:
    """A group that is left and entered again would be measured again."""
    _, printed = recorded
    batches = re.findall(r"test_network\[\S+-batch-(\d+)-host\] (?:PASSED|SKIPPED)", printed)
    assert len(batches) >= 8 and set(batches) == {"1", "2"} and sorted(batches) == batches


def test_an_8_bit_graph_is_measured_too(recorded: tuple[Path, str]) -> None:
    path, _ = recorded
    rows = {
        row.precision: row
        for benchmark in json.loads(path.read_text())["benchmarks"]
        if (row := BenchRow.from_json(benchmark["extra_info"])).candidate == "onnxruntime-cpu"
        and row.batch == 1
    }
    assert set(rows) == {"fp32", "fp16", "int8"}
    assert rows["int8"].flops == rows["fp32"].flops
    assert rows["int8"].bytes < rows["fp32"].bytes
    assert rows["int8"].percent_of_limit > 0


def test_each_missing_backend_is_one_skip_with_its_reason(recorded: tuple[Path, str]) -> None:
    _, printed = recorded
    assert "holds nothing that tensorrt runs" in printed
    assert "needs PyTorch and the shipped checkpoint" in printed


@pytest.mark.whole
def test_an_artifact_that_is_wrong_is_not_timed(bundle: Path, tmp_path: Path) -> None:
    wrong = write_bundle(tmp_path / "wrong")
    manifest = load_manifest(wrong)
    content = make_graph(half=True, score_offset=0.5)
    artifacts = list(manifest.artifacts)
    artifacts[1] = dataclasses.replace(artifacts[1], sha256=digest(content), size=len(content))
    (wrong / artifacts[1].file).write_bytes(content)
    write_manifest(dataclasses.replace(manifest, artifacts=tuple(artifacts)), wrong)
    path = tmp_path / "bench.json"
    done = pytest_bench(
        wrong,
        "bench/test_network.py",
        *("-k", "test_network and batch-1-host and onnxruntime-cpu"),
        f"--benchmark-json={path}",
    )
    assert done.returncode == 1
    assert "onnxruntime-cpu-fp16 is not timed at batch 1: score is off by" in done.stdout
    (benchmark,) = json.loads(path.read_text())["benchmarks"]
    assert benchmark["extra_info"]["precision"] == "fp32"


def test_a_candidate_that_is_wrong_at_one_batch_is_not_timed_there(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.run import QUICK, Inexact, TimedRow
    from bench.sweeps import candidates, network

    def wrong_from_the_fifth(batch: int) -> Any:
        def run(hu: Any) -> Any:
            outputs = reference(hu[:, 0])
            outputs["score"][4:] += 0.5
            return outputs

        return run

    monkeypatch.setattr(network, "measure_rates", lambda: {"copy": 1e10, "fp32": 1e11})
    bad = candidates.Candidate("bad", "fp32", "artifact", None, wrong_from_the_fifth)
    good = candidates.Candidate(
        "good", "fp32", "peer", None, lambda batch: lambda hu: reference(hu[:, 0])
    )
    for batch, timed in ((1, {"good-fp32", "bad-fp32"}), (8, {"good-fp32"})):
        outcomes, _ = network.measure_group(
            [good, bad], batch=batch, clock="host", bundle=bundle, timing=QUICK, nvml=None
        )
        assert {
            name for name, outcome in outcomes.items() if isinstance(outcome, TimedRow)
        } == timed
        assert isinstance(outcomes["bad-fp32"], Inexact) == (batch == 8)
        reason = str(outcomes["bad-fp32"])
        assert ("bad-fp32 is not timed at batch 8: score is off by" in reason) == (batch == 8)


@pytest.mark.parametrize(("role", "timed"), [("artifact", True), ("peer", False)])
def test_a_peer_is_held_to_the_budget_itself(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, role: str, timed: bool
) -> None:
    """Verification applies the budget to artifacts. Here they have the slack of few slices."""
    from bench.run import QUICK, Inexact, TimedRow
    from bench.sweeps import candidates, network

    def run(hu: Any) -> Any:
        outputs = reference(hu[:, 0])
        outputs["score"] *= 1 + 1.5 * PRECISIONS["fp32"].budget
        return outputs

    monkeypatch.setattr(network, "measure_rates", lambda: {"copy": 1e10, "fp32": 1e11})
    candidate = candidates.Candidate("one", "fp32", role, None, lambda batch: run)
    outcomes, _ = network.measure_group(
        [candidate], batch=1, clock="host", bundle=bundle, timing=QUICK, nvml=None
    )
    outcome = outcomes["one-fp32"]
    assert isinstance(outcome, TimedRow) == timed and isinstance(outcome, Inexact) != timed
    assert ("one-fp32 is not timed at batch 1" in str(outcome)) != timed
    if isinstance(outcome, Inexact):
        assert network.is_skipped(outcome, candidate) == (role == "peer")


def test_the_baseline_is_the_fastest_peer_that_is_at_least_as_exact() -> None:
    from bench.sweeps.candidates import Candidate
    from bench.sweeps.network import baseline_of

    def never(batch: int) -> Any:
        raise AssertionError("nothing runs")

    def baselines(**rows: tuple[str, str, float]) -> dict[str, str | None]:
        candidates = {
            name: Candidate(name, precision, role, None, never)
            for name, (role, precision, _) in rows.items()
        }
        times = {name: [seconds, seconds] for name, (*_, seconds) in rows.items()}
        return {name: baseline_of(name, candidates, times) for name in rows}

    assert baselines(
        eager=("reference", "fp32", 4),
        ours=("artifact", "fp32", 2),
        half=("artifact", "fp16", 2),
        slow=("peer", "fp32", 3),
        fast=("peer", "fp32", 1),
        rough=("peer", "bf16", 0.5),
    ) == {
        "eager": "fast",
        "ours": "fast",
        "half": "fast",
        "slow": "fast",
        "fast": None,
        "rough": None,
    }
    assert baselines(ours=("artifact", "fp32", 2), eager=("reference", "fp32", 4)) == {
        "ours": "eager",
        "eager": None,
    }
    assert baselines(ours=("artifact", "fp32", 2), other=("artifact", "fp16", 1)) == {
        "ours": None,
        "other": "ours",
    }


@pytest.mark.whole
@pytest.mark.usefixtures("interruptible")
def test_pytest_bench_says_what_it_does_and_keeps_what_it_has(bundle: Path, tmp_path: Path) -> None:
    """After an interrupt, the rows are shown, recorded and answer the question."""
    path = tmp_path / "bench.json"
    environment = os.environ | {"CLINREADNET_BUNDLE": str(bundle), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench"]
    process = subprocess.Popen(
        [*command, "--rounds=1000000", f"--benchmark-json={path}"],
        cwd=ROOT,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if re.match(r"(\d+) of \1: ", line):  # all are warm: rounds begin
            time.sleep(2)
            process.send_signal(signal.SIGINT)
    assert process.wait() == 2
    text = "".join(printed)
    assert re.search(r"on \d candidates: onnxruntime-cpu-fp32, onnxruntime-cpu-fp16", text)
    assert re.search(r"about \d minutes", text) and "bench --thorough` measures them" in text
    assert re.search(r"^onnxruntime-cpu-fp16, batch 1, host: [\d.]+ ms", text, re.MULTILINE)
    assert "which backend to deploy" in text and "refused clinreadnet.fp32.onnx" in text
    rows = [
        BenchRow.from_json(benchmark["extra_info"])
        for benchmark in json.loads(path.read_text())["benchmarks"]
    ]
    assert {row.batch for row in rows} == {1} and len(rows) >= 3
    assert all(row.n >= 1 and "interrupted" in row.marks for row in rows)


@pytest.mark.parametrize("arguments", [[], ["bench", "--rounds", "1000"]], ids=["all", "rounds"])
def test_what_is_recorded_is_thorough(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    measured: list[list[str]] = []

    def measure(arguments: list[str], recorded: Path) -> int:
        measured.append(arguments)
        return 3

    monkeypatch.setattr(recording, "measure", measure)
    monkeypatch.setattr(recording, "current_commit", lambda: recorded_run.COMMIT)
    assert recording.main(arguments) == 3
    assert measured == [[*(arguments or ["bench"]), "--thorough"]]


def test_a_gpu_that_is_not_there_is_one_line(bundle: Path, tmp_path: Path) -> None:
    done = pytest_bench(bundle, "bench/test_network.py", "--device", "7", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 4
    assert done.stderr.strip().endswith("--device 7: no such GPU; `nvidia-smi -L` lists them")
    rehearse = ["--rehearse", "--out", str(tmp_path)]
    for module, more in (("recording", []), ("check", []), ("gpu_check", rehearse)):
        command = [sys.executable, "-m", f"bench.{module}", "--device", "7", *more]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert "--device 7: no such GPU" in done.stderr


@pytest.mark.parametrize(
    ("visible", "device", "left"),
    [(None, 1, "1"), ("4,5", 1, "5"), ("4,5", 0, "4"), ("4", 1, None), (None, -1, None)],
    ids=["all", "some", "first", "too-many", "negative"],
)
def test_a_bench_sees_the_named_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, device: int, left: str | None
) -> None:
    from bench import devices

    monkeypatch.setattr(devices, "find_gpus", lambda: ["a GPU"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if left is None:
        with pytest.raises(InputError, match=f"--device {device}: no such GPU"):
            devices.use(device)
    else:
        devices.use(device)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left


def test_what_a_failed_bench_measured_is_not_recorded(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    bench = tmp_path / "test_two.py"
    bench.write_text(
        "def test_right(benchmark):\n    benchmark(int)\n"
        "def test_wrong(benchmark):\n    benchmark(int)\n    assert False\n"
    )
    options = "-p", "bench.conftest", "--rootdir", str(tmp_path), f"--benchmark-json={path}"
    done = pytest_bench(bundle, str(bench), *options, PYTHONPATH=str(ROOT))
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
    assert [benchmark["name"] for benchmark in json.loads(path.read_text())["benchmarks"]] == [
        "test_right"
    ]


def test_a_bundle_that_is_not_verified_is_not_measured(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", verified=False)
    done = pytest_bench(bundle, "bench/test_network.py")
    assert "the bundle is not verified" in done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]


def rows_of(path: Path) -> Any:
    return read_run(path).rows


def test_bench_check_compares_with_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "RESULTS", tmp_path)
    monkeypatch.setattr(check, "this_machine", lambda: "here")
    slow = recorded_run.document([recorded_run.row("onnxruntime-cpu", "fp32", 2)])
    now = recorded_run.write(tmp_path / "elsewhere", slow, "there")
    assert check.main([str(now)]) == 2
    assert "no results yet" in capsys.readouterr().err
    recorded_run.write(
        tmp_path, recorded_run.document([recorded_run.row("onnxruntime-cpu", "fp32", 1)]), "here"
    )
    monkeypatch.setattr(check, "committed", lambda run: False)
    assert check.main([str(now)]) == 2
    assert "not committed" in capsys.readouterr().err
    monkeypatch.setattr(check, "committed", lambda run: True)
    assert check.main([str(now)]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("FAIL test_network[onnxruntime-cpu-fp32-batch-1-host]: +100 % (")
    assert "FAIL: 0 of 1 rows pass" in captured.err
    assert check.main([str(tmp_path / "here" / now.name)]) == 0
    noisy = recorded_run.row("onnxruntime-cpu", "fp32", 1, interval=[0.8, 1.2])
    undecided = recorded_run.write(tmp_path / "noisy", recorded_run.document([noisy]))
    assert check.main([str(undecided)]) == 3
    assert "more rounds would decide" in capsys.readouterr().out
    other = recorded_run.row("onnxruntime-cpu", "fp32", 1, weights_sha256="0" * 64)
    trained_anew = recorded_run.write(tmp_path / "other", recorded_run.document([other]))
    assert check.main([str(trained_anew)]) == 2
    assert "of another checkpoint; run `make bench-record`" in capsys.readouterr().err
