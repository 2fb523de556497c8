"""All checks that need a GPU, in one command: `make gpu-check`.

Each step can be run alone: `python -m bench.gpu_check tests memcheck kernels network`. The
measurements and the result of each step are merged into `bench/results/<gpu>/<date>-<commit>.json`.
Then `make tables` writes it into docs/benchmarking.md. Exit status 1: a step failed. 2: no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure.machine import machine_name
from bench.recording import COMMIT_VARIABLE, current_commit, results_file

ROOT = Path(__file__).parents[1]
GPU_TESTS = (
    "tests/kernels",
    "tests/examples",
    "tests/export/engines/test_build.py",
    "tests/runtime/backends/test_tensorrt_on_gpu.py",
    "tests/tuning/test_tune.py",
)
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        what: what it checks, in words.
        arguments: arguments of pytest.
        tool: a program to run pytest under, with its options.
        environment: variables to add to the environment.
        measures: whether pytest-benchmark records something.
    """

    what: str
    arguments: tuple[str, ...]
    tool: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    measures: bool = False


STEPS = {
    "tests": Step("every test marked gpu", ("-m", "gpu", *GPU_TESTS)),
    "memcheck": Step(
        "the kernels' oracle tests without an access out of bounds",
        ("-m", "gpu", "-k", "within_budget", "tests/kernels"),
        tool=(
            "compute-sanitizer",
            *("--tool", "memcheck"),
            *("--error-exitcode", "86"),
            # PyTorch queries features that the driver may lack; that is not an error of a kernel.
            *("--report-api-errors", "no"),
        ),
        # One allocation for each tensor, so that memcheck sees the end of each.
        environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
    ),
    "kernels": Step(
        "each op against its baselines", ("-s", "bench/test_kernels.py"), measures=True
    ),
    "network": Step(
        "the whole network in float16 against torch.compile",
        ("-k", "fp16 and test_network", "bench/test_network.py"),
        measures=True,
    ),
}


def run_step(
    step: Step, only: str | None = None, environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """Run one step.

    Args:
        step: step to run.
        only: expression that chooses some of its tests (pytest's -k).
        environment: environment of the command.

    Returns:
        ``status`` ("passed", "failed" or "not run"), ``note``, ``seconds``, the counts of tests
        and, if it measures, pytest-benchmark's document as ``recorded``.
    """
    if step.tool and shutil.which(step.tool[0], path=environment.get("PATH")) is None:
        return {"status": "not run", "note": f"{step.tool[0]} is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        report, recorded = Path(folder) / "tests.xml", Path(folder) / "bench.json"
        command = [*step.tool, *PYTEST, *step.arguments, f"--junitxml={report}"]
        if only is not None:
            command += ["-k", only]  # the last -k counts
        if step.measures:
            command.append(f"--benchmark-json={recorded}")
        start = time.monotonic()
        status = subprocess.run(
            command, cwd=ROOT, env={**environment, **step.environment}
        ).returncode
        result: dict[str, Any] = {"seconds": round(time.monotonic() - start)}
        result |= counts(report) if report.exists() else {}
        passed = status == 0 and result.get("passed", 0) > 0
        result["status"] = "passed" if passed else "failed"
        reason = f"exit status {status}" if status else "no test passed"
        result["note"] = "" if passed else reason
        if recorded.exists() and recorded.stat().st_size:
            result["recorded"] = json.loads(recorded.read_text())
    return result


def counts(report: Path) -> dict[str, int]:
    """Return the number of passed, failed and skipped tests of a JUnit file."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return {"passed": total - failed - skipped, "failed": failed, "skipped": skipped}


def merged(before: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results with one more step, whose benchmarks replace those of the same name."""
    result = dict(result)
    recorded = result.pop("recorded", {})
    after = {**before, **{key: recorded[key] for key in recorded if key != "benchmarks"}}
    if rates := before.get("machine_info", {}).get("rates"):
        after["machine_info"] = {"rates": rates, **after["machine_info"]}
    new = {one["fullname"]: one for one in recorded.get("benchmarks", [])}
    kept = [one for one in before.get("benchmarks", []) if one["fullname"] not in new]
    after["benchmarks"] = [*kept, *new.values()]
    after["checks"] = {**before.get("checks", {}), name: {"what": STEPS[name].what, **result}}
    return after


def gpu_name() -> str | None:
    """Return the GPU's name as CUDA reports it."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--only", metavar="EXPRESSION", help="some tests of the steps: pytest -k")
    parser.add_argument("--commit", help="measured commit, outside a git checkout")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.steps if name not in STEPS]:
        parser.error(f"unknown step {unknown[0]!r}; known: {', '.join(STEPS)}")
    gpu = gpu_name()
    if gpu is None:
        print("gpu-check: needs an NVIDIA GPU that PyTorch can use", file=sys.stderr)
        return 2
    if options.commit:
        os.environ[COMMIT_VARIABLE] = options.commit
    path = results_file(machine_name(gpu, "", 0), current_commit() or "uncommitted")
    path.parent.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in options.steps or STEPS:
        print(f"gpu-check: {name}: {STEPS[name].what}", file=sys.stderr, flush=True)
        result = run_step(STEPS[name], options.only)
        before = json.loads(path.read_text()) if path.exists() else {}
        # After each step, so that the measurements are kept if the next one fails.
        path.write_text(json.dumps(merged(before, name, result), indent=2) + "\n")
        failed |= result["status"] == "failed"
        print(f"gpu-check: {name}: {result['status']} {result['note']}", file=sys.stderr)
    print(f"gpu-check: wrote {path.relative_to(ROOT)}; now run make tables", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
