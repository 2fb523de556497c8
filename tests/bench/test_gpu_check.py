"""What `make gpu-check` runs and records, tested without a GPU."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support import recorded_run

from bench import gpu_check, recording, test_kernels
from bench.studies import stock_attention
from bench.tables import benchmarking
from clinreadnet.kernels import window_attention
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import LayerShape

ROOT = Path(__file__).parents[2]


def step(gpu_check: ModuleType, test: Path, **options: Any) -> Any:
    return gpu_check.Step("proves", (str(test), "-q", "--rootdir", str(test.parent)), **options)


@pytest.mark.parametrize(
    ("code", "status", "note"),
    [
        pytest.param("assert True", "passed", "", id="passed"),
        pytest.param("assert False", "failed", "exit status 1", id="failed"),
        pytest.param("__import__('pytest').skip('-')", "failed", "no test passed", id="skipped"),
    ],
)
def test_a_step_says_how_it_went(tmp_path: Path, code: str, status: str, note: str) -> None:
    test = tmp_path / "test_one.py"
    test.write_text(f"def test_one():\n    {code}\n")
    result = gpu_check.run_step(step(gpu_check, test))
    assert (result["status"], result["note"]) == (status, note)
    assert sum(result[key] for key in ("passed", "failed", "skipped")) == 1


def test_a_measuring_step_brings_what_was_measured(tmp_path: Path) -> None:
    test = tmp_path / "test_one.py"
    test.write_text("def test_one(benchmark):\n    benchmark.pedantic(int, rounds=1)\n")
    result = gpu_check.run_step(step(gpu_check, test, measures=True))
    assert result["status"] == "passed"
    (one,) = result["recorded"]["benchmarks"]
    assert one["name"] == "test_one"


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    result = gpu_check.run_step(gpu_check.STEPS["memcheck"], None, {"PATH": str(tmp_path)})
    assert result == {"status": "not run", "note": "compute-sanitizer is not installed"}


def test_a_tool_runs_the_tests(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("import os\ndef test_one(): assert os.environ['SEEN']\n")
    one = step(gpu_check, tmp_path / "test_one.py", tool=("env", "SEEN=1"))
    assert gpu_check.run_step(one)["status"] == "passed"
    assert gpu_check.run_step(one, "two")["status"] == "failed"


def test_every_gpu_test_is_where_the_step_looks() -> None:
    folders = [ROOT / path for path in gpu_check.GPU_TESTS]
    assert all(folder.exists() for folder in folders)
    marked = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"\bmark\.gpu\b", path.read_text()) and path != Path(__file__)
    ]
    assert len(marked) >= 4
    for path in marked:
        assert any(path == folder or folder in path.parents for folder in folders), path


def test_steps_share_one_file() -> None:
    first = {
        "status": "passed",
        "recorded": {"version": 1, "benchmarks": [{"fullname": "a", "n": 1}]},
    }
    second = {"recorded": {"version": 2, "benchmarks": [{"fullname": n, "n": 2} for n in "ab"]}}
    document = gpu_check.merged({}, "kernels", first)
    document = gpu_check.merged(document, "tests", {"status": "failed", "note": "exit status 1"})
    assert document["benchmarks"] == [{"fullname": "a", "n": 1}]
    document = gpu_check.merged(document, "network", second | {"status": "passed"})
    assert [(one["fullname"], one["n"]) for one in document["benchmarks"]] == [("a", 2), ("b", 2)]
    assert document["version"] == 2
    assert {name: check["status"] for name, check in document["checks"].items()} == {
        "kernels": "passed",
        "tests": "failed",
        "network": "passed",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    assert capsys.readouterr().err == "gpu-check: needs an NVIDIA GPU that PyTorch can use\n"


def record(results: Path, facts: list[dict[str, Any]], network: list[dict[str, Any]]) -> None:
    benchmarks = [
        {
            "fullname": f"bench/test_kernels.py::{i}",
            "extra_info": {"dtype": "float16", "gpu": "NVIDIA H100", "bytes": 2**20} | f,
        }
        for i, f in enumerate(facts)
    ]
    checks = {"tests": {"what": "it works", "status": "passed", "note": "", "passed": 7}}
    content = recorded_run.document([*benchmarks, *network], checks=checks)
    content["machine_info"] |= {"gpu": "NVIDIA H100"}
    recorded_run.write(results, content, "nvidia-h100")


def attention(stage: int, batch: int, percent: float, **ms: float) -> dict[str, Any]:
    times = {"eager": 9.0, "sdpa": 5.0, "sdpa-compile": 4.0, "compile": 3.0, "kernel": 1.0} | ms
    facts = {"op": "window_attention", "stage": stage, "batch": batch, "ms": times}
    return facts | {"percent_of_copy_bandwidth": percent}


def test_targets_speak_of_ops_that_there_are() -> None:
    assert {target.op for target in benchmarking.TARGETS} == {*OPS, "network"}


def test_targets_take_the_worst_of_what_they_speak_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recording, "ROOT", tmp_path)
    monkeypatch.setattr(recording, "RESULTS", tmp_path / "results")
    assert benchmarking.kernel_targets_table().count("not measured") == len(benchmarking.TARGETS)
    assert benchmarking.kernels_table() == benchmarking.TABLES["network"]() == "Not measured.\n"
    graph = {"batch": 64, "clock": "device graph"}
    record(
        tmp_path / "results",
        [
            attention(1, 8, 75.0),
            attention(2, 64, 71.0, sdpa=1.5),
            attention(3, 8, 10.0, compile=0.1),  # no target covers stage 3,
            attention(1, 1, 10.0, compile=0.1),  # nor of batch 1,
            attention(1, 8, 10.0) | {"dtype": "float32"},  # nor of float32,
            attention(1, 8, 10.0) | {"gpu": "NVIDIA L4"},  # nor of other GPUs
        ],
        [
            recorded_run.row("torch-compile", "fp16", 0.008, **graph),
            recorded_run.row("torch-triton", "fp16", 0.004, **graph),
            recorded_run.row("torch-compile", "fp16", 0.008, batch=1),  # nor of the host's clock
        ],
    )
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in benchmarking.kernel_targets_table().splitlines()[2:]
    ]
    link = "[2026-01-31-0123456](../results/nvidia-h100/2026-01-31-0123456.json)"
    assert [row[1:] for row in rows] == [
        ["80 %", "not measured", "", ""],
        ["3.00 ×", "not measured", "", ""],
        ["70 %", "71 %", "reached", link],
        ["2.00 ×", "1.50 ×", "missed", link],
        ["1.00 ×", "not measured", "", ""],
        ["1.00 ×", "not measured", "", ""],
        ["1.50 ×", "2.00 ×", "reached", link],
        ["1.49 ×", "not measured", "", ""],
    ]
    assert len(benchmarking.kernels_table().splitlines()) == 2 + 6
    assert "torch-triton fp16 | 64 | device graph" in benchmarking.TABLES["network"]()
    assert re.search(r"tests \| it works \| passed \| 7 passed", benchmarking.gpu_checks_table())


@pytest.mark.parametrize("shift", [0, 3], ids=["unshifted", "shifted"])
def test_the_stock_baseline_computes_the_same(shift: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    args = [normal(3, 8, 12, 3 * 2 * 16), normal(2, 16, 16), normal(2).exp()]
    args.append(normal(2, 3).softmax(-1))
    where = {"window": 4, "shift": shift}
    stock = stock_attention.StockAttention(*args[1:], h=8, w=12, dtype=torch.float32, **where)
    torch.testing.assert_close(stock(args[0]), window_attention(*args, **where, impl="reference"))


@pytest.mark.parametrize("op", ["attention_block", "mlp"])
def test_the_unfused_baselines_compute_the_same(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    """With the reference in place of the kernel that a CPU lacks."""

    def reference(*args: torch.Tensor, impl: str, **where: int) -> torch.Tensor:
        assert impl == "triton"
        return window_attention(*args, **where, impl="reference")

    monkeypatch.setattr(test_kernels, "window_attention", reference)
    shape = LayerShape("small", 8, 48, 3, 4, 1, 3, 192)
    tensors = OPS[op].arguments(shape, 2, "float32", torch.device("cpu"))
    (unfused,) = test_kernels.BASELINES[op](shape, "float32", tensors).values()
    expected = OPS[op].call(tensors, shape, "reference")
    torch.testing.assert_close(unfused(tensors), expected)


def test_every_op_is_benched_at_the_shapes_of_its_spec() -> None:
    benched = {(p.values[0].name, p.values[1].name, p.values[2]) for p in test_kernels.rows()}
    assert benched == {
        (spec.name, shape.name, dtype)
        for spec in OPS.values()
        for shape in spec.benched
        for dtype in spec.limits.dtypes
    }
