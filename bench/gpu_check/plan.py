"""Steps of `gpu-check` by priority. Each consists of small units with time limits."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPS = ("sobel_stem", "window_attention", "attention_block", "mlp", "fused_linear")
"""Ops to measure. A test compares them with `clinreadnet.kernels.registry`, because the plan must
be importable before the package is installed."""
NETWORK_BATCHES = (1, 64)
COMPILE_MODE = "CLINREADNET_COMPILE_MODE"
"""Environment variable for the mode of torch.compile for baselines on a GPU."""
REHEARSAL = "CLINREADNET_REHEARSAL"
"""Environment variable for a rehearsal on the CPU with a fake clock."""
ROWS = "running-rows"
"""File in the folder of results where a running unit appends its rows as lines of JSON. The results
contain them when the unit ends, so only a killed `gpu-check` leaves the file."""
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-q")
MEMCHECK = (
    "compute-sanitizer",
    *("--tool", "memcheck"),
    *("--error-exitcode", "86"),
    # PyTorch queries features that the driver may lack, which is not an error of a kernel.
    *("--report-api-errors", "no"),
)


@dataclass(frozen=True)
class Unit:
    """A unit: one process.

    Attributes:
        name: name within the step.
        arguments: arguments of Python, or of pytest if ``tests`` is true. "{out}" is replaced by
            the folder of results, and "{rows}" by the file to append rows to.
        limit: time limit in seconds.
        tests: whether the unit is pytest, whose tests are counted.
        measures: whether pytest-benchmark writes results.
        tool: program to run the unit with, and its options.
        needs: required packages. The unit is skipped if one is missing.
        environment: additional environment variables.
        rehearsed: whether the unit can run in a rehearsal without a GPU.
    """

    name: str
    arguments: tuple[str, ...]
    limit: float
    tests: bool = True
    measures: bool = False
    tool: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    rehearsed: bool = True

    def command(self, out: Path) -> list[str]:
        """Return the command, without options for reports."""
        python = (*self.tool, sys.executable, *(PYTEST if self.tests else ()))
        places = {"{out}": str(out), "{rows}": str(out / ROWS)}
        arguments = list(self.arguments)
        for name, path in places.items():
            arguments = [argument.replace(name, path) for argument in arguments]
        return [*python, *arguments]

    def missing(self) -> list[str]:
        """Return the required packages that are not installed."""
        return [name for name in self.needs if not _is_installed(name)]


@dataclass(frozen=True)
class Step:
    """A group of units with a common purpose."""

    what: str
    units: tuple[Unit, ...]


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def gpu_test_files() -> list[str]:
    """Return the test files that hold tests marked `gpu`, relative to the repository."""
    marked = re.compile(r"\bmark\.gpu\b|\bDEVICES\b")  # those of support.kernel_tests
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if marked.search(path.read_text("utf-8")) and path.parent.name != "bench"
    )


def _tests() -> Iterator[Unit]:
    # Tests of the kernels against oracles come first.
    for file in sorted(gpu_test_files(), key=lambda name: not name.startswith("tests/kernels")):
        yield Unit(file.removeprefix("tests/"), ("-m", "gpu", file), 200)


def _kernels(mode: str, limit: float) -> Iterator[Unit]:
    for op in OPS:
        rows = f"test_kernels and {op} and float16 and not bfloat16 and (batch-8 or batch-64)"
        arguments = ("-s", "bench/test_kernels.py", "-k", rows)
        yield Unit(op, arguments, limit, measures=True, environment={COMPILE_MODE: mode})


def _network() -> Iterator[Unit]:
    for batch in NETWORK_BATCHES:
        rows = f"test_network and torch and fp16 and batch-{batch}-device-graph"
        arguments = ("bench/test_network.py", "-k", rows)
        mode = {COMPILE_MODE: "default"}
        yield Unit(f"batch {batch}", arguments, 240, measures=True, environment=mode)


def _memcheck() -> Iterator[Unit]:
    for file in gpu_test_files():
        if file.startswith("tests/kernels/ops/"):
            yield Unit(
                file.removeprefix("tests/kernels/ops/"),
                ("-m", "gpu", "-k", "within_budget", file),
                200,
                tool=MEMCHECK,
                # A separate allocation for each tensor, so that memcheck detects accesses past its
                # end.
                environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
            )


def _tuning() -> Iterator[Unit]:
    for op in OPS:
        arguments = (
            "-m",
            "clinreadnet.cli",
            "tune",
            "--entry",
            f"{op}/float16",
            "--dry-run",
            "--json",
        )
        yield Unit(op, arguments, 300, tests=False)


def _engines() -> Iterator[Unit]:
    needs = ("tensorrt", "pycuda", "pydicom")
    out = ROOT / ".gpu-check" / "bundle"
    export = ("export", "--out", str(out), "--flavour", "tensorrt", "--force")
    yield Unit("export", ("-m", "clinreadnet.cli", *export), 500, tests=False, needs=needs)
    yield Unit(
        "verify", ("-m", "clinreadnet.cli", "verify", str(out)), 200, tests=False, needs=needs
    )


STEPS: Mapping[str, Step] = {
    "tests": Step("every test marked gpu", tuple(_tests())),
    "kernels": Step(
        "each op in float16 against its baselines, torch.compile in its default mode",
        tuple(_kernels("default", 200)),
    ),
    "network": Step(
        "the network in float16 in CUDA graphs against torch.compile", tuple(_network())
    ),
    "memcheck": Step(
        "the kernels' oracle tests without an access out of bounds", tuple(_memcheck())
    ),
    "tune": Step("launch configurations for this GPU", tuple(_tuning())),
    "engines": Step("TensorRT engines, built and verified on this GPU", tuple(_engines())),
    "autotune": Step(
        "each op in float16 against torch.compile's max-autotune",
        tuple(_kernels("max-autotune-no-cudagraphs", 300)),
    ),
}
