"""Steps of `gpu-check` by priority. Each consists of small units with time limits."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPS = (
    "sobel_stem",
    "window_attention",
    "attention_block",
    "mlp",
    "fused_linear",
    "ordinal_head",
    "region_statistics",
)
"""Ops to measure. A test compares them with `clinreadnet.kernels.registry`, because the plan must
be importable before the package is installed."""
LIGHT = ("ordinal_head", "region_statistics")
"""Ops with few shapes, whose units have half of the limits."""
TUNED = {
    "sobel_stem": ("32",),
    "window_attention": ("64",),
    "attention_block": ("48", "96"),
    "mlp": ("48", "96"),
    "fused_linear": tuple(
        f"{kind}/{size}" for kind in ("norm", "plain") for size in ("small", "medium", "large")
    ),
    "ordinal_head": ("128",),
    "region_statistics": ("log",),
}
"""Entries in float16 to tune: those that the preset `small` launches."""
COMPILED = {
    "sobel_stem": 12,
    "window_attention": 15,
    "attention_block": 20,
    "mlp": 16,
    "fused_linear": 40,
    "ordinal_head": 7,
    "region_statistics": 7,
    "plugins": 20,
}
"""Seconds for the exported kernels of each op, by their number: the driver compiles the PTX."""
PLUMBING = "tests/runtime/backends/test_tensorrt_lanes.py"
"""Tests of the TensorRT backend that need pycuda, but not TensorRT."""
NETWORK_BATCHES = (64, 1, 8)
CALL_MINUTES = 9
"""Minutes of a call with `--minutes`, in which the first steps fit with all their limits."""
PATIENCE = 4
"""Factor on the limits of units without `--minutes`."""
PACK = ROOT / ".gpu-check" / "pack"
"""Folder that `bench.gpu_check.pack` fills, to carry to a machine without a package index."""
WHEELS = ("msgspec", "pydicom")
"""Packages that a CUDA machine with PyTorch may lack, to carry as wheels."""
COMPILE_MODE = "CLINREADNET_COMPILE_MODE"
"""Environment variable for the mode of torch.compile for baselines on a GPU; "none" for none."""
REHEARSAL = "CLINREADNET_REHEARSAL"
"""Environment variable for a rehearsal on the CPU with a fake clock."""
ROWS = "running-rows"
"""File in the folder of results where a running unit appends its rows as lines of JSON. The results
contain them when the unit ends, so only a killed `gpu-check` leaves the file."""
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-q")
SANITIZER = ("compute-sanitizer", "--error-exitcode", "86", "--target-processes", "all", "--tool")


@dataclass(frozen=True)
class Unit:
    """A unit: one process.

    Attributes:
        name: name within the step.
        arguments: arguments of Python, or of pytest if ``tests`` is true. "{out}" is replaced by
            the folder of results, and "{rows}" by the file to append rows to.
        limit: time limit in seconds with `--minutes`, and ``PATIENCE`` times that without.
        tests: whether the unit is pytest, whose tests are counted.
        measures: whether pytest-benchmark writes results.
        tool: program to run the unit with, and its options.
        needs: required packages. The unit is skipped if one is missing.
        programs: required programs, likewise.
        carried: required folder of ``PACK``, likewise.
        environment: additional environment variables.
        rehearsed: whether the unit can run in a rehearsal without a GPU.
        rehearsal: arguments in a rehearsal; empty for the same.
    """

    name: str
    arguments: tuple[str, ...]
    limit: float
    tests: bool = True
    measures: bool = False
    tool: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    carried: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    rehearsed: bool = True
    rehearsal: tuple[str, ...] = ()

    def command(self, out: Path, rehearsed: bool = False) -> list[str]:
        """Return the command, without options for reports."""
        python = (*self.tool, sys.executable, *(PYTEST if self.tests else ()))
        places = {"{out}": str(out), "{rows}": str(out / ROWS), "{pack}": str(PACK)}
        arguments = list((rehearsed and self.rehearsal) or self.arguments)
        for name, path in places.items():
            arguments = [argument.replace(name, path) for argument in arguments]
        return [*python, *arguments]

    def missing(self) -> list[str]:
        """Return the required packages and carried folders that are not there."""
        missing = [name for name in self.needs if not _is_installed(name)]
        if self.carried and not (PACK / self.carried).is_dir():
            missing.append(f"{(PACK / self.carried).relative_to(ROOT)}")
        return missing

    def lacking(self, path: str | None) -> list[str]:
        """Return the required programs that are not in the folders of ``path``."""
        programs = (*self.tool[:1], *self.programs)
        return [name for name in programs if shutil.which(name, path=path) is None]


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


def _cli(*arguments: str) -> tuple[str, ...]:
    return ("-m", "clinreadnet.cli", *arguments)


def _compiled(slower: float, *tool: str) -> Iterator[Unit]:
    """Exported kernels of each op, and those of the plugins, on small inputs."""
    for name, seconds in COMPILED.items():
        folder, only = ("plugins", ()) if name == "plugins" else ("kernels", ("--only", name))
        check = ("check-kernels", f"{{pack}}/{folder}", "--rows", "{rows}")
        yield Unit(
            name,
            _cli(*check, "--gpu", *only),
            slower * seconds,
            tests=False,
            tool=tool,
            carried=folder,
            # The CPU runs the smallest kernel in seconds.
            rehearsed=name == "sobel_stem",
            rehearsal=_cli(*check, "--only", "sobel_stem.fp16"),
        )


def _network(mode: str, rows: str, limits: tuple[float, ...]) -> Iterator[Unit]:
    for batch, limit in zip(NETWORK_BATCHES, limits, strict=True):
        chosen = f"test_network and torch and fp16 and batch-{batch}-device-graph and {rows}"
        arguments = ("bench/test_network.py", "-k", chosen)
        environment = {COMPILE_MODE: mode}
        yield Unit(f"batch {batch}", arguments, limit, measures=True, environment=environment)


def _kernels(mode: str, limit: float) -> Iterator[Unit]:
    for op in OPS:
        rows = f"test_kernels and {op} and float16 and not bfloat16 and (batch-8 or batch-64)"
        arguments = ("-s", "bench/test_kernels.py", "-k", rows)
        seconds = limit / 2 if op in LIGHT else limit
        yield Unit(op, arguments, seconds, measures=True, environment={COMPILE_MODE: mode})


def _tests() -> Iterator[Unit]:
    # Tests of the kernels against oracles come first.
    files = [file for file in gpu_test_files() if file != PLUMBING]
    for file in sorted(files, key=lambda name: not name.startswith("tests/kernels")):
        yield Unit(file.removeprefix("tests/"), ("-m", "gpu", file), 60)


def _tuning() -> Iterator[Unit]:
    for rank in range(1, 1 + sum(map(len, TUNED.values()))):
        options = ("--results", "{out}", "--rank", str(rank), "--rows", "{rows}")
        # All units change the same file, each its own entry.
        tune = ("-m", "bench.gpu_check.tune", *options, "--out", "{out}/launch-table")
        yield Unit(f"rank {rank}", tune, 120, tests=False, rehearsal=(*tune, "--dry-run"))


def _engines() -> Iterator[Unit]:
    needs = ("tensorrt", "pycuda", "pydicom")
    out = ROOT / ".gpu-check" / "bundle"
    export = ("export", "--out", str(out), "--flavour", "tensorrt", "--force")
    yield Unit("export", _cli(*export), 150, tests=False, needs=needs)
    yield Unit("verify", _cli("verify", str(out)), 60, tests=False, needs=needs)


_LANES = Unit(
    "lanes",
    ("-m", "gpu", PLUMBING),
    30,
    needs=("pycuda",),
    rehearsal=("-m", "not gpu", PLUMBING),  # the same tests on a fake GPU
)
_GRAPH = ("-m", "bench.sweeps.graph", "--batch", "64", "--batch", "1", "--rows", "{rows}")
_LAUNCHES = Unit("launches", _GRAPH, 45, tests=False)
_COUNTERS = ("-m", "bench.gpu_check.counters", "--results", "{out}", "--rows", "{rows}")
_LONGEST = Unit("longest", _COUNTERS, 60, tests=False, programs=("ncu",), rehearsed=False)

STEPS: Mapping[str, Step] = {
    "compiled": Step(
        "each exported kernel, run by the driver alone, against float64", tuple(_compiled(1))
    ),
    "plumbing": Step(
        "the TensorRT backend's memory, lanes and graphs, with an engine of one kernel",
        (_LANES,),
    ),
    "network": Step(
        "the network in float16 in a CUDA graph: eager with and without kernels",
        tuple(_network("none", "not compile", (80, 36, 36))),
    ),
    "graph": Step("the time of each launch inside the network's graph", (_LAUNCHES,)),
    "kernels": Step(
        "each op in float16 against eager PyTorch and a copy", tuple(_kernels("none", 18))
    ),
    "counters": Step("hardware counters of the three kernels that take most", (_LONGEST,)),
    "network-compiled": Step(
        "the network against torch.compile in its default mode",
        tuple(_network("default", "(compile or triton)", (90, 90, 90))),
    ),
    "tests": Step("every other test marked gpu", tuple(_tests())),
    "memcheck": Step(
        "the exported kernels without an access out of bounds",
        tuple(_compiled(2, *SANITIZER, "memcheck")),
    ),
    "racecheck": Step(
        "the exported kernels without a race in shared memory",
        tuple(_compiled(2, *SANITIZER, "racecheck")),
    ),
    "tune": Step(
        "launch configurations of the kernels that lost, the slowest first, and of batch 1",
        tuple(_tuning()),
    ),
    "kernels-compiled": Step(
        "each op in float16 against torch.compile in its default mode",
        tuple(_kernels("default", 60)),
    ),
    "engines": Step("TensorRT engines, built and verified on this GPU", tuple(_engines())),
    "autotune": Step(
        "each op in float16 against torch.compile's max-autotune",
        tuple(_kernels("max-autotune-no-cudagraphs", 90)),
    ),
}
