"""The units and the record of `gpu-check`, without a GPU."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support import recorded_run

from bench import recording
from bench.gpu_check import __main__ as command
from bench.gpu_check import counters, install, pack, plan, tune
from bench.gpu_check.plan import STEPS, Step, Unit
from bench.gpu_check.run import SPARE_SECONDS, TAIL, merged, run_steps, run_unit
from bench.measure import cuda_clock, device, stock_attention
from bench.measure.cards import CARDS, H200
from bench.rows import KernelRow, row_id
from bench.sweeps import candidates, graph, kernels
from bench.tables import benchmarking
from bench.tables.kernels import COUNTS, issue_ceiling
from bench.targets import TARGET_GPU, TARGETS
from clinreadnet.export.check_kernels import read_kernels
from clinreadnet.kernels import window_attention
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import LayerShape

ROOT = Path(__file__).parents[2]


def unit(test: Path, limit: float = 60, **options: Any) -> Unit:
    return Unit(test.stem, (str(test), "--rootdir", str(test.parent)), limit, **options)


def write(folder: Path, body: str, name: str = "test_one.py") -> Path:
    path = folder / name
    path.write_text(f"import pytest\ndef test_one():\n    {body}\n")
    return path


@pytest.mark.parametrize(
    ("body", "status", "note"),
    [
        pytest.param("assert True", "passed", "", id="passed"),
        pytest.param("assert False", "failed", "exit status 1", id="failed"),
        pytest.param("pytest.skip('needs a GPU')", "skipped", "needs a GPU", id="skipped"),
    ],
)
def test_a_unit_says_how_it_went(tmp_path: Path, body: str, status: str, note: str) -> None:
    result = run_unit(unit(write(tmp_path, body)), tmp_path)
    assert (result["status"], result["note"]) == (status, note)
    assert sum(result[key] for key in ("passed", "failed", "skipped")) == 1
    assert ("assert False" in result["output"]) == (status == "failed")
    assert {"passed": "1 passed", "failed": "1 failed", "skipped": "1 skipped"}[status] in (
        result["output"]
    )
    assert result["output"] == (tmp_path / "gpu-check.log").read_text()[-TAIL:]


def test_a_skipped_test_is_no_pass_and_its_reason_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "test_many.py"
    path.write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_one(n):\n"
        "    if n: pytest.skip('needs tensorrt' if n > 1 else 'needs pycuda')\n"
    )
    result = run_unit(unit(path), tmp_path)
    assert result["status"] == "passed" and (result["passed"], result["skipped"]) == (1, 3)
    assert result["reasons"] == {"needs tensorrt": 2, "needs pycuda": 1}


def test_nothing_selected_is_a_failure(tmp_path: Path) -> None:
    test = write(tmp_path, "pass")
    result = run_unit(Unit("one", (str(test), "-k", "other"), 60), tmp_path)
    assert (result["status"], result["note"]) == ("failed", "no test was selected")


def test_a_unit_that_measures_brings_what_was_measured(tmp_path: Path) -> None:
    test = tmp_path / "test_one.py"
    test.write_text("def test_one(benchmark):\n    benchmark.pedantic(int, rounds=1)\n")
    result = run_unit(unit(test, measures=True), tmp_path)
    assert result["status"] == "passed"
    (benchmark,) = result["recorded"]["benchmarks"]
    assert benchmark["name"] == "test_one"


def test_a_stopped_unit_keeps_its_rows_and_its_output(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "with open('{rows}', 'a') as rows:\n"
        "    for n in range(2): print('{\"n\": %d}' % n, file=rows, flush=True)\n"
        "    print('{\"n\": ', end='', file=rows, flush=True)\n"
        "print('two rows')\n"
        "time.sleep(600)\n"
    )
    steps = {"tune": Step("it works", (Unit("one", ("-c", code), 1.5, tests=False),))}
    path, said = tmp_path / "gpu" / "results.json", []
    assert run_steps(steps, path, say=said.append) == 1
    result = json.loads(path.read_text())["checks"]["tune"]["units"]["one"]
    assert (result["status"], result["note"]) == ("failed", "ended after its limit of 6 s")
    assert result["rows"] == [{"n": 0}, {"n": 1}] and result["output"] == "two rows\n"
    assert said[2:5] == ['    {"n": 0}', '    {"n": 1}', "    two rows"]
    assert sorted(path.parent.iterdir()) == [path, path.with_suffix(".log")]


def test_a_stopped_benchmark_keeps_what_was_measured(tmp_path: Path) -> None:
    test = ROOT / "bench" / "test_of_a_stopped_unit.py"
    test.write_text(
        "import os, signal, pytest\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_one(benchmark, n):\n"
        "    if n == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    benchmark.extra_info['n'] = n\n"
        "    benchmark.pedantic(int, rounds=3)\n"
    )
    try:
        result = run_unit(Unit("one", (str(test), "--thorough"), 200, measures=True), tmp_path)
    finally:
        test.unlink()
    assert result["note"] == "exit status -9"
    recorded = result["recorded"]
    assert [row["extra_info"]["n"] for row in recorded["benchmarks"]] == [0, 1]
    assert all(len(row["stats"]["data"]) == 3 for row in recorded["benchmarks"])
    assert recorded["machine_info"]["cpu"] and recorded["results_schema"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    unit = Unit("one", (), 1, needs=("json", "no_such_package", "no_such.part"))
    assert run_unit(unit, tmp_path) == {
        "status": "skipped",
        "note": "needs no_such_package, no_such.part",
    }
    unit = Unit("one", (), 1, tool=("compute-sanitizer",))
    result = run_unit(unit, tmp_path, None, {"PATH": str(tmp_path)})
    assert result == {"status": "skipped", "note": "compute-sanitizer is not installed"}


def test_a_tool_runs_the_tests(tmp_path: Path) -> None:
    test = write(tmp_path, "import os; assert os.environ['SEEN']")
    assert run_unit(unit(test, tool=("env", "SEEN=1")), tmp_path)["status"] == "passed"
    assert run_unit(unit(test, environment={"SEEN": "1"}), tmp_path)["status"] == "passed"


@pytest.mark.parametrize(
    ("left", "status", "note"),
    [
        pytest.param(None, "failed", "ended after its limit of 1 s", id="its-own-limit"),
        pytest.param(0.5, "did not fit", "out of time", id="the-time-of-all"),
    ],
)
def test_a_unit_that_hangs_is_ended_with_its_children(
    tmp_path: Path, left: float | None, status: str, note: str
) -> None:
    pid = tmp_path / "pid"
    hangs = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pid)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    limit = 1.0 / plan.PATIENCE if left is None else 60.0
    result = run_unit(Unit("hangs", ("-c", hangs), limit, tests=False), tmp_path, left)
    assert (result["status"], result["note"]) == (status, note)
    child = pid.read_text() if pid.exists() else ""  # a busy machine may start none
    if child and Path("/proc").exists():
        until = time.monotonic() + 20
        while state_of(child) not in (None, "Z") and time.monotonic() < until:
            time.sleep(0.05)  # a signal takes its time
        assert state_of(child) in (None, "Z")


def state_of(pid: str) -> str | None:
    """Return the letter of a process's state in Linux, or None if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


class Clock:
    """A clock that units advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 50
        return self.now


def one_line(name: str, code: str) -> Unit:
    return Unit(name, ("-c", code), 60, tests=False)


def test_each_call_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "gpu" / "results.json"
    log = tmp_path / "log"
    names = ["one", "two", "three"]
    steps = {
        "tests": Step(
            "it works", tuple(one_line(n, f"open({str(log)!r}, 'a').write('{n} ')") for n in names)
        )
    }
    said: list[str] = []
    assert run_steps(steps, path, minutes=2.5, say=said.append, clock=Clock()) == 3
    assert log.read_text() == "one two "
    assert said[-1].endswith("did not fit, run again to go on: tests: three")
    assert run_steps(steps, path, say=said.append) == 0
    assert log.read_text() == "one two three "
    assert run_steps(steps, path, say=said.append) == 0 and log.read_text() == "one two three "
    assert run_steps(steps, path, again=True, say=said.append) == 0
    assert log.read_text() == "one two three one two three "
    units = json.loads(path.read_text())["checks"]["tests"]["units"]
    assert [unit["status"] for unit in units.values()] == ["passed"] * 3
    log_file = path.with_suffix(".log")
    assert sorted(path.parent.iterdir()) == [path, log_file]
    assert log_file.read_text().count("== tests: three: ") == 2


def test_results_can_have_files_beside_them(tmp_path: Path) -> None:
    unit = Unit("one", ("-c", "open('{out}/tuned.json', 'w').write('{}')"), 60, tests=False)
    steps = {"tune": Step("it works", (unit,))}
    assert run_steps(steps, tmp_path / "gpu" / "results.json", say=lambda line: None) == 0
    assert (tmp_path / "gpu" / "tuned.json").read_text() == "{}"


def test_a_rehearsal_skips_what_only_a_gpu_can_do(tmp_path: Path) -> None:
    unit = Unit("one", ("-c", "raise SystemExit(1)"), 60, tests=False, rehearsed=False)
    result = run_unit(unit, tmp_path, None, {plan.REHEARSAL: "1"})
    assert result == {"status": "skipped", "note": "needs an NVIDIA GPU"}
    assert run_unit(unit, tmp_path)["status"] == "failed"


def test_a_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    steps = {
        "tests": Step("it works", (one_line("bad", "raise SystemExit(7)"), one_line("good", ""))),
    }
    said: list[str] = []
    assert run_steps(steps, tmp_path / "results.json", say=said.append) == 1
    assert "gpu-check: tests: bad: failed exit status 7" in said
    assert "gpu-check: tests: good: passed" in said
    assert said[-1] == "gpu-check: units: 1 passed, 1 failed, 0 skipped"


def test_every_gpu_test_is_in_the_plan() -> None:
    files = plan.gpu_test_files()
    assert len(files) >= 7 and all((ROOT / file).is_file() for file in files)
    units = (*STEPS["plumbing"].units, *STEPS["tests"].units)
    planned = [argument for unit in units for argument in unit.arguments]
    assert len(planned) == len({*planned}) + 2 * (len(units) - 1)  # none twice, beside "-m gpu"
    assert set(files) <= set(planned)


def test_the_plan_measures_every_op() -> None:
    assert plan.OPS == tuple(OPS)
    assert tuple(plan.COMPILED) == (*OPS, "plugins")
    for name in ("kernels", "kernels-compiled", "autotune"):
        assert [unit.name for unit in STEPS[name].units] == list(OPS)
    assert {entry.partition("/")[0] for entry in tune.entries()} == set(OPS)
    assert len(STEPS["tune"].units) == len(tune.entries())


def test_the_plan_selects_rows_that_there_are() -> None:
    """The expression of each unit, on the ids of the benchmarks."""
    from _pytest.mark.expression import Expression

    ids = [f"test_kernels[{row}]" for row in kernels.rows()]
    for unit in (*STEPS["kernels"].units, *STEPS["autotune"].units):
        chosen = Expression.compile(unit.arguments[unit.arguments.index("-k") + 1])
        tests = [test for test in ids if chosen.evaluate(lambda name, test=test, **_: name in test)]
        assert tests and all(
            f"[{unit.name}-" in test and "-float16-batch-" in test for test in tests
        )
        assert {test.rstrip("]").rsplit("-", 1)[1] for test in tests} == {"8", "64"}


def test_what_travels_fits() -> None:
    try:
        files = pack.tracked()
    except ValueError:
        pytest.skip("not a git checkout")
    # The rows of PyTorch need these two of a bundle.
    files += [ROOT / "bundle" / name for name in ("manifest.json", "golden.npz")]
    carried = 10 * 2**20  # the pack: kernels and wheels
    assert pack.size_of([path for path in files if path.exists()]) + carried < pack.TRAVELS


def test_a_call_reaches_the_counters() -> None:
    """Every unit uses its whole limit."""
    names = list(STEPS)
    first = names[: names.index("counters") + 1]
    assert first == ["compiled", "plumbing", "network", "graph", "kernels", "counters"]
    seconds = sum(unit.limit for name in first for unit in STEPS[name].units)
    assert seconds <= 60 * plan.CALL_MINUTES - SPARE_SECONDS


def test_the_plan_selects_the_rows_of_the_network() -> None:
    from _pytest.mark.expression import Expression

    names = ("torch-eager", "torch-compile", *candidates.TRITON)
    ids = [
        f"test_network[{row_id(name, precision, batch, clock)}]"
        for name in names
        for precision in ("fp32", "fp16", "bf16")
        for batch in (1, 8, 16, 64)
        for clock in ("host", "device", "device graph")
    ]

    def chosen(unit: Unit) -> list[str]:
        expression = Expression.compile(unit.arguments[unit.arguments.index("-k") + 1])
        return [
            test for test in ids if expression.evaluate(lambda name, test=test, **_: name in test)
        ]

    for step, expected in (
        ("network", ("torch-eager", "torch-triton")),
        ("network-compiled", names[1:]),
    ):
        for unit, batch in zip(STEPS[step].units, plan.NETWORK_BATCHES, strict=True):
            assert chosen(unit) == [
                f"test_network[{name}-fp16-batch-{batch}-device-graph]" for name in expected
            ]


def test_a_unit_without_its_pack_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan, "ROOT", tmp_path)
    monkeypatch.setattr(plan, "PACK", tmp_path / "pack")
    unit = STEPS["compiled"].units[0]
    result = run_unit(unit, tmp_path)
    assert result == {"status": "skipped", "note": "needs pack/kernels"}
    (tmp_path / "pack" / "kernels").mkdir(parents=True)
    assert unit.missing() == []
    command = unit.command(tmp_path)
    assert command[1:6] == [
        *("-m", "clinreadnet.cli", "check-kernels"),
        *(str(tmp_path / "pack" / "kernels"), "--rows"),
    ]
    assert command[-3:] == ["--gpu", "--only", "sobel_stem"]
    assert unit.command(tmp_path, rehearsed=True)[-2:] == ["--only", "sobel_stem.fp16"]


def test_launches_of_a_graph_come_from_the_trace() -> None:
    def event(name: str, start: float, duration: float, cat: str = "kernel") -> dict[str, Any]:
        arguments = {"grid": [132, 1, 1], "block": [128, 1, 1], "registers per thread": 96}
        return {"name": name, "ts": start, "dur": duration, "cat": cat, "args": arguments}

    events = [event("host", 0, 99, "cpu_op"), event("b", 21, 4), event("a", 20, 1)]
    events += [event("a", 10, 3), event("b", 13, 2), event("a", 30, 2), event("b", 32, 3)]
    rows = graph.launches({"traceEvents": events}, 64, 3)
    assert rows == [
        graph.LaunchRow(64, 0, "a", (132, 1, 1), 128, 96, 2.0),
        graph.LaunchRow(64, 1, "b", (132, 1, 1), 128, 96, 3.0),
    ]
    assert graph.by_kernel(rows) == {"b": (1, 3.0), "a": (1, 2.0)}
    with pytest.raises(ValueError, match="6 launches in 4 replays"):
        graph.launches({"traceEvents": events}, 64, 4)
    with pytest.raises(ValueError, match="0 launches"):
        graph.launches({"traceEvents": events[:1]}, 64, 3)
    events[-1]["name"] = "c"
    with pytest.raises(ValueError, match="launch 1 is another kernel"):
        graph.launches({"traceEvents": events}, 64, 3)


# As ncu prints it.
NCU = """==PROF== Connected to process 7
batch 64
"ID","Process ID","Kernel Name","Grid Size","Block Size","Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","a_kernel","(8, 1, 1)","(128, 1, 1)","Occupancy","Achieved Occupancy","%","24.5"
"0","7","a_kernel","(8, 1, 1)","(128, 1, 1)","Occupancy","","",""
"1","7","a_kernel","(9, 1, 1)","(128, 1, 1)","Occupancy","Achieved Occupancy","%","1,000.5"
"""  # noqa: E501


def test_counters_are_of_the_kernels_that_take_most(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the step `graph` first"):
        counters.longest(tmp_path)
    times = {"a_kernel": (3.0, 3.0), "b": (5.0,), "c": (0.5,), "d": (1.0,)}
    rows = [
        {"batch": 64, "kernel": kernel, "microseconds": each}
        for kernel, all_of in times.items()
        for each in all_of
    ]
    rows.append({"batch": 1, "kernel": "c", "microseconds": 99.0})
    document = {"checks": {"graph": {"units": {"launches": {"rows": rows}}}}}
    (tmp_path / "2026-01-31-0123456.json").write_text(json.dumps(document))
    assert counters.longest(tmp_path) == ["a_kernel", "b", "d"]
    command = counters.command(["a_kernel", "b"])
    assert command[:3] == ["ncu", "--clock-control", "none"]
    assert command[command.index("--kernel-name") + 1] == "regex:^(a_kernel|b)$"
    assert counters.rows_of(NCU.splitlines()) == [
        {
            "ID": str(number),
            "Kernel Name": "a_kernel",
            "Grid Size": f"({grid}, 1, 1)",
            "Block Size": "(128, 1, 1)",
            "metrics": {"Occupancy: Achieved Occupancy": value},
        }
        for number, grid, value in ((0, 8, "24.5 %"), (1, 9, "1,000.5 %"))
    ]


def kernel_row(
    op: str, stage: int | None, layer: str, batch: int, dtype: str = "float16", **ms: float
) -> KernelRow:
    return KernelRow(op, dtype, batch, "NVIDIA H200", ms, 2**20, 70.0, stage, layer)


LOST = ("fused_linear/float16/norm/large", "attention_block/float16/48", "sobel_stem/float16/32")
MEASURED = (
    kernel_row("attention_block", 1, "", 64, kernel=2.0, unfused=1.5, eager=9.0, copy=0.1),
    kernel_row("attention_block", 2, "", 64, kernel=9.0, unfused=9.5, eager=9.9, copy=0.1),
    kernel_row("fused_linear", 3, "fc1", 64, kernel=1.0, eager=0.9, copy=0.1),  # six blocks
    kernel_row("fused_linear", 3, "fc1", 8, kernel=0.1, eager=0.2, copy=0.1),
    kernel_row("fused_linear", 3, "fc2", 64, kernel=0.9, eager=1.0, copy=0.1),
    kernel_row("mlp", 1, "", 64, "float32", kernel=9.0, unfused=1.0, eager=1.0, copy=0.1),
    kernel_row("sobel_stem", None, "", 64, kernel=1.0, eager=5.0, compile=2.9, copy=0.9),
    kernel_row("sobel_stem", None, "", 1, kernel=1.0, eager=5.0, compile=2.9, copy=0.9),
)
"""The stem misses a target at batch 64; targets say nothing of batch 1."""


def test_what_lost_is_slower_than_a_baseline_or_misses_a_target() -> None:
    reasons = [tune.why_lost(row) for row in MEASURED]
    assert reasons == [
        "unfused takes 1.5000 ms",
        None,
        "eager takes 0.9000 ms",
        None,
        None,
        "unfused takes 1.0000 ms",
        "Sobel stem, batch ≥ 8: over compiled reference: 2.90 ×, at least 3.00 ×",
        None,
    ]
    lost = tune.lost(MEASURED)
    assert tuple(lost) == LOST and [len(rows) for rows in lost.values()] == [1, 1, 1]
    assert "fused_linear/float16/norm/medium" not in tune.unmeasured(MEASURED)
    assert set(tune.unmeasured(MEASURED)) >= {"fused_linear/float16/norm/small", "mlp/float16/48"}


def every_row(*batches: int, **ms: float) -> tuple[KernelRow, ...]:
    return tuple(
        kernel_row(
            spec.name,
            int(shape.name.split()[1]) if "stage" in shape.name else None,
            shape.linear or shape.spread,
            batch,
            **ms,
        )
        for spec, shape, dtype, batch in kernels.rows().values()
        if dtype == "float16" and (not batches or batch in batches)
    )


WON = every_row(8, 64, kernel=0.1, eager=9.0, copy=0.1)
"""All rows of the step `kernels`, without a loss."""
SMALL = ("fused_linear/float16/norm/small", "fused_linear/float16/plain/small")
"""The entries of batch 1."""


def test_every_row_that_the_plan_measures_has_an_entry_to_tune() -> None:
    rows = every_row(kernel=1.0)
    of = [list(tune.rows_of(entry, rows)) for entry in tune.entries()]
    assert all(of) and sum(map(len, of)) == len(rows)
    assert tune.unmeasured(rows) == []


@pytest.mark.parametrize(
    ("rows", "rank", "said", "entry"),
    [
        pytest.param(MEASURED, 1, "1 of 11: " + LOST[0], LOST[0], id="longest"),
        pytest.param(MEASURED, 3, "stem, batch 64: 1.0000 ms; Sobel stem", LOST[2], id="last"),
        pytest.param(MEASURED, 4, "4 of 11: ", "window_attention/float16/64", id="unmeasured"),
        pytest.param(MEASURED, 12, "lost: " + ", ".join(LOST), None, id="no-twelfth"),
        pytest.param(WON, 1, "lost: nothing\n", SMALL[0], id="batch-1"),
        pytest.param(WON, 2, f"not measured: {', '.join(SMALL)}\n", SMALL[1], id="batch-1-too"),
        pytest.param(WON, 3, "lost: nothing\n", None, id="nothing-lost"),
        pytest.param((), 1, "1 of 14: ", "sobel_stem/float16/32", id="no-rows"),
    ],
)
def test_only_what_lost_or_was_not_measured_is_tuned(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: tuple[KernelRow, ...],
    rank: int,
    said: str,
    entry: str | None,
) -> None:
    monkeypatch.setenv(recording.COMMIT_VARIABLE, recorded_run.COMMIT)
    benchmarks = [{"fullname": str(n), "extra_info": r.to_json()} for n, r in enumerate(rows)]
    recorded_run.write(tmp_path, recorded_run.document(benchmarks), "gpu")
    # A newer run of another commit.
    other = tmp_path / "gpu" / "2027-01-31-7654321.json"
    other.write_text(json.dumps({"benchmarks": [{"extra_info": MEASURED[0].to_json()}]}))
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    unit = STEPS["tune"].units[rank - 1]
    out = tmp_path / "gpu"
    status = tune.main(unit.command(out)[3:])
    assert said in capsys.readouterr().out
    tuned = ["tune", "--entry", str(entry), "--candidates", "8", "--rows", str(out / plan.ROWS)]
    assert [command[3:] for command in ran] == (
        [] if entry is None else [[*tuned, "--out", str(out / "launch-table")]]
    )
    assert status == (0 if entry is None else 7)
    ran.clear()
    assert tune.main(unit.command(out, rehearsed=True)[3:]) == 0 and not ran
    assert said in capsys.readouterr().out


@pytest.mark.whole
@pytest.mark.compile
def test_a_pack_has_kernels_plugins_and_wheels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from clinreadnet.kernels.ptx.cases import cases, check

    def download(folder: Path, python: str) -> None:
        assert python == "3.12"
        folder.mkdir()

    monkeypatch.setattr(pack, "download", download)
    monkeypatch.setattr(pack, "PRECISIONS", ("fp16",))
    wheel = tmp_path / "one-1.0-py3-none-any.whl"
    wheel.touch()
    size = pack.pack(tmp_path / "pack", "sm90", "3.12", [wheel])
    assert 2**18 < size < pack.TRAVELS / 4
    assert {path.name for path in (tmp_path / "pack").iterdir()} == {"wheels", "kernels", "plugins"}
    assert (tmp_path / "pack" / "wheels" / wheel.name).exists()
    exported = read_kernels(tmp_path / "pack" / "kernels", ("cubin", "ptx"))
    assert {kernel.entry["kind"] for kernel in exported} == {"cubin", "ptx"}
    plugins = read_kernels(tmp_path / "pack" / "plugins", only=["sobel_stem"])
    (stem,) = plugins
    assert [argument["name"] for argument in stem.entry["arguments"]][-1] == "out"
    assert check(stem, cases(stem)[0]).over_budget <= 1


def test_the_plan_is_readable_before_anything_is_installed() -> None:
    code = (
        "import sys; from bench.gpu_check import __main__; "
        "print([m for m in ('torch', 'numpy', 'clinreadnet') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("wheel", "problem"),
    [
        pytest.param("one-1.0-py3-none-any.whl", None, id="pure"),
        pytest.param("one-1.0-py2.py3-none-any.whl", None, id="two-and-three"),
        pytest.param("one-1.0-cp312-cp312-manylinux_2_28_x86_64.whl", None, id="same"),
        pytest.param("one-1.0-cp39-abi3-manylinux_2_28_x86_64.whl", None, id="abi3"),
        pytest.param("one-1.0-1-cp312-cp312-linux_x86_64.whl", None, id="build-number"),
        pytest.param("one-1.0-cp311-cp311-linux_x86_64.whl", "is for cp311", id="older"),
        pytest.param("one-1.0-cp313-abi3-linux_x86_64.whl", "is for cp313", id="newer"),
        pytest.param("one.whl", "not the name of a wheel", id="no-wheel"),
    ],
)
def test_wheels_for_another_python_are_refused(wheel: str, problem: str | None) -> None:
    message = install.unusable(wheel, (3, 12))
    assert message is None if problem is None else message is not None and problem in message


@pytest.mark.parametrize(
    ("wheels", "missing"),
    [
        pytest.param([], False, id="no-wheels"),
        pytest.param(
            ["msgspec-1.0-py3-none-any", "pytest_benchmark-5.1-py3-none-any"], False, id="installed"
        ),
        pytest.param(
            ["msgspec-1.0-py3-none-any", "absent-1.0-py3-none-any"], True, id="one-is-missing"
        ),
        pytest.param(["absent-1.0-cp27-cp27m-linux_x86_64"], False, id="another-python"),
    ],
)
def test_carried_wheels_are_installed_if_one_is_missing(
    wheels: list[str], missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "PACK", tmp_path)
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in wheels:
        (folder / f"{name}.whl").touch()
    assert install.carried_wheels() == (folder if missing else None)


def test_bad_wheels_install_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "SITE", tmp_path / "site")
    assert command.main(["--wheels", str(tmp_path)]) == 2
    assert "holds no wheel" in capsys.readouterr().err
    (tmp_path / "one-1.0-cp27-cp27m-linux_x86_64.whl").touch()
    assert command.main(["--wheels", str(tmp_path)]) == 2
    assert "is for cp27" in capsys.readouterr().err
    assert not install.SITE.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["nothing"], "unknown step 'nothing'; known: compiled,", id="step"),
        pytest.param(["--minutes", "0"], "--minutes 0: must be above 0", id="no-time"),
        pytest.param(["--minutes", "nan"], "--minutes nan: must be above 0", id="nan"),
        pytest.param(["--rehearse"], "false times do not belong in bench/results", id="rehearsal"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_units_share_one_file() -> None:
    first = {
        "status": "passed",
        "recorded": {"version": 1, "benchmarks": [{"fullname": "a", "n": 1}]},
    }
    second = {"recorded": {"version": 2, "benchmarks": [{"fullname": n, "n": 2} for n in "ab"]}}
    document = merged({}, "kernels", "mlp", first)
    document = merged(document, "tests", "one", {"status": "failed", "note": "exit status 1"})
    assert document["benchmarks"] == [{"fullname": "a", "n": 1}]
    document = merged(document, "kernels", "stem", second | {"status": "passed"})
    assert [(benchmark["fullname"], benchmark["n"]) for benchmark in document["benchmarks"]] == [
        ("a", 2),
        ("b", 2),
    ]
    assert document["version"] == 2
    assert {
        (name, unit): result["status"]
        for name, check in document["checks"].items()
        for unit, result in check["units"].items()
    } == {("kernels", "mlp"): "passed", ("kernels", "stem"): "passed", ("tests", "one"): "failed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    assert capsys.readouterr().err == "gpu-check: needs an NVIDIA GPU that PyTorch can use\n"
    assert pack.main(["--here"]) == 2
    assert capsys.readouterr().err == "pack: --here needs an NVIDIA GPU\n"


def record(results: Path, facts: list[dict[str, Any]], network: list[dict[str, Any]]) -> None:
    benchmarks = [
        {
            "fullname": f"bench/test_kernels.py::{i}",
            "extra_info": {"dtype": "float16", "gpu": "NVIDIA H200", "bytes": 2**20} | f,
        }
        for i, f in enumerate(facts)
    ]
    units = {
        "one": {"status": "passed", "note": "", "passed": 4},
        "two": {"status": "passed", "note": "", "passed": 3},
        "three": {"status": "skipped", "note": "needs tensorrt"},
    }
    checks = {"tests": {"what": "it works", "units": units}}
    content = recorded_run.document([*benchmarks, *network], checks=checks)
    content["machine_info"] |= {"gpu": "NVIDIA H200"}
    recorded_run.write(results, content, "nvidia-h200")


def attention(stage: int, batch: int, percent: float, **ms: float) -> dict[str, Any]:
    times = {"eager": 9.0, "sdpa": 5.0, "sdpa-compile": 4.0, "compile": 3.0, "kernel": 1.0} | ms
    facts = {"op": "window_attention", "stage": stage, "batch": batch, "ms": times}
    return facts | {"percent_of_copy_bandwidth": percent}


def counted_ceiling(capability: int, dtype: str) -> float:
    """Return the ceiling of shifted window attention in the record of counts."""
    (row,) = (
        row
        for row in json.loads(COUNTS.read_text())["kernels"]
        if (row["kernel"], row["capability"], row["dtype"])
        == ("window_attention_shift4", capability, dtype)
    )
    return float(row["ceiling"])


@pytest.mark.parametrize(
    ("op", "stage", "gpu", "known"),
    [
        pytest.param("mlp", 2, "NVIDIA H100 80GB HBM3", True, id="h100"),
        pytest.param("mlp", 2, "NVIDIA H200", True, id="h200"),
        pytest.param("sobel_stem", None, "NVIDIA GeForce RTX 5090", True, id="5090"),
        pytest.param("attention_block", 1, "NVIDIA A100-SXM4-40GB", True, id="a100"),
        pytest.param("mlp", 1, "NVIDIA L40S", False, id="a GPU whose name only starts the same"),
        pytest.param("mlp", 3, "NVIDIA L4", False, id="channels that are not fused"),
        pytest.param("fused_linear fc1", 3, "NVIDIA L4", True, id="a layer"),
        pytest.param("fused_linear fc1", 2, "NVIDIA L4", False, id="a layer of a fused half"),
    ],
)
def test_predictions_are_of_counted_kernels_on_counted_gpus(
    op: str, stage: int | None, gpu: str, known: bool
) -> None:
    name, _, layer = op.partition(" ")
    assert (issue_ceiling(name, stage, "float16", gpu, layer) is not None) == known


def test_targets_speak_of_ops_that_there_are() -> None:
    assert {target.op for target in TARGETS} == {*OPS, "network"}


@pytest.mark.parametrize(("op", "stages"), [("sobel_stem", (None,)), ("window_attention", (1, 2))])
def test_targets_are_below_the_issue_ceilings(op: str, stages: tuple[int | None, ...]) -> None:
    (target,) = (t for t in TARGETS if t.op == op and t.form.endswith("%"))
    for stage in stages:
        ceiling = issue_ceiling(op, stage, "float16", f"NVIDIA {TARGET_GPU}")
        assert ceiling is not None and target.least < ceiling


def test_targets_take_the_worst_of_what_they_speak_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recording, "ROOT", tmp_path)
    monkeypatch.setattr(recording, "RESULTS", tmp_path / "results")
    assert benchmarking.kernel_targets_table().count("not measured") == len(TARGETS)
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
    link = "[2026-01-31-0123456](../results/nvidia-h200/2026-01-31-0123456.json)"
    assert [row[1:] for row in rows] == [
        ["60 %", "not measured", "", ""],
        ["3.00 ×", "not measured", "", ""],
        ["60 %", "71 %", "reached", link],
        ["2.00 ×", "1.50 ×", "missed", link],
        ["1.00 ×", "not measured", "", ""],
        ["1.00 ×", "not measured", "", ""],
        ["1.00 ×", "not measured", "", ""],
        ["1.00 ×", "not measured", "", ""],
        ["1.00 ×", "not measured", "", ""],
        ["1.50 ×", "2.00 ×", "reached", link],
        ["1.49 ×", "not measured", "", ""],
    ]
    measured = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in benchmarking.kernels_table().splitlines()
    ]
    assert len(measured) == 2 + 6
    place = measured[0].index("predicted at most, %")
    assert measured[0][place - 1] == "% of copy"
    slower = CARDS[90].copy / H200.copy
    of_h200, of_float32, of_l4 = (
        f"{100 * times * counted_ceiling(capability, dtype):.0f}"
        for capability, dtype, times in (
            (90, "float16", slower),
            (90, "float32", slower),
            (89, "float16", 1),
        )
    )
    assert [(row[place - 1], row[place]) for row in measured[2:]] == [
        ("75", of_h200),
        ("71", of_h200),
        ("10", of_h200),
        ("10", of_h200),
        ("10", of_float32),
        ("10", of_l4),
    ]
    assert "torch-triton fp16 | 64 | device graph" in benchmarking.TABLES["network"]()
    verdict = r"2 passed, 1 skipped \(three: needs tensorrt\)"
    assert re.search(
        rf"tests \| it works \| {verdict} \| 7 passed", benchmarking.gpu_checks_table()
    )


def test_rows_of_the_checks_are_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recording, "ROOT", tmp_path)
    monkeypatch.setattr(recording, "RESULTS", tmp_path / "results")
    tables = benchmarking.TABLES
    assert tables["gpu-compiled"]() == tables["gpu-graph"]() == "Not run.\n"
    compiled = [
        {
            "file": "mlp_48.fp16.sm90.ptx",
            "error_over_budget": {"a": 0.25, "b": 0.5},
            "failure": None,
        },
        {"file": "mlp_96.fp16.sm90.ptx", "error_over_budget": {"a": None}, "failure": "NaN"},
        {"file": "mlp_48.bf16.sm90.ptx", "error_over_budget": {}, "failure": "not run"},
    ]
    launches = [
        {"batch": batch, "kernel": kernel, "microseconds": microseconds}
        for batch, kernel, microseconds in (
            (64, "a", 1.0),
            (64, "b", 6.0),
            (64, "a", 1.0),
            (1, "a", 2.0),
        )
    ]
    checks = {
        step: {"what": step, "units": {"one": {"status": "passed", "note": "", "rows": rows}}}
        for step, rows in (("compiled", compiled), ("graph", launches))
    }
    recorded_run.write(
        tmp_path / "results", recorded_run.document([], checks=checks), "nvidia-h200"
    )

    def cells(table: str) -> list[list[str]]:
        lines = tables[table]().splitlines()[2:]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    assert cells("gpu-compiled") == [
        ["`mlp`", "fp16", "2", "0.50", "mlp_96.fp16.sm90.ptx", "nvidia-h200"],
        ["`mlp`", "bf16", "1", "", "mlp_48.bf16.sm90.ptx", "nvidia-h200"],
    ]
    assert cells("gpu-graph") == [
        ["64", "`b`", "1", "6.0", "75.0", "nvidia-h200"],
        ["64", "`a`", "2", "2.0", "25.0", "nvidia-h200"],
        ["1", "`a`", "1", "2.0", "100.0", "nvidia-h200"],
    ]


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
    """The reference replaces the kernel, which a CPU cannot run."""

    def reference(*args: torch.Tensor, impl: str, **where: int) -> torch.Tensor:
        assert impl == device.kernels() == "triton"
        return window_attention(*args, **where, impl="reference")

    monkeypatch.setattr(kernels, "window_attention", reference)
    shape = LayerShape("small", 8, 48, 3, 4, 1, 3, 192)
    tensors = OPS[op].arguments(shape, 2, "float32", torch.device("cpu"))
    (unfused,) = kernels.BASELINES[op](shape, "float32", tensors).values()
    expected = OPS[op].call(tensors, shape, "reference")
    torch.testing.assert_close(unfused(tensors), expected)


def test_a_graph_holds_many_calls_that_exceed_the_cache_and_fit_into_memory() -> None:
    cache = 50 * 2**20
    assert cuda_clock.calls_in_a_graph(2**30, cache) == cuda_clock.MOST_MEMORY // 2**30 == 16
    assert cuda_clock.calls_in_a_graph(100 * 2**20, cache) == cuda_clock.LEAST_CALLS == 20
    assert cuda_clock.calls_in_a_graph(2**20, cache) == 200  # four times the cache
    assert cuda_clock.calls_in_a_graph(2**40, cache) == 2


def test_every_op_is_benched_at_the_shapes_of_its_spec() -> None:
    benched = {(spec.name, shape.name, dtype) for spec, shape, dtype, _ in kernels.rows().values()}
    assert benched == {
        (spec.name, shape.name, dtype)
        for spec in OPS.values()
        for shape in spec.benched
        for dtype in spec.limits.dtypes
    }
