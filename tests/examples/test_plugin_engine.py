"""examples/plugin_engine.cpp, compiled against a stub of TensorRT's C++ API and run on the CPU."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests" / "support" / "tensorrt_stub"
COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER, "the tests need a C++ compiler"
    source = ROOT / "examples" / "plugin_engine.cpp"
    out = tmp_path_factory.mktemp("examples") / "plugin_engine"
    command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    done = subprocess.run([*command, "-I", STUB, source, "-o", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def run(program: Path, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, path], capture_output=True, text=True, env=environment)


def test_plugins_are_listed_and_the_engine_runs_without_a_plugin_library(
    program: Path, tmp_path: Path
) -> None:
    engine = tmp_path / "engine"
    engine.write_text("stub-engine 1 2 4 plugins stem.sobel_stem stages.0.0.mlp")
    done = run(program, engine)
    assert (done.returncode, done.stderr) == (0, "stub: batch 2\n")
    assert done.stdout == "stem.sobel_stem\nstages.0.0.mlp\nran 2 slices\n"
    source = (ROOT / "examples" / "plugin_engine.cpp").read_text()
    assert "NvInferPlugin" not in source and "initLibNvInferPlugins" not in source


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "engine: missing, empty or not readable"),
        ("of another release", "not an engine for this GPU and this release"),
        ("stub-engine 1 2 4", "has no plugins; export it with --plugins"),
    ],
    ids=["empty", "other", "plain"],
)
def test_bad_input_is_one_line_and_status_2(
    program: Path, tmp_path: Path, content: str, message: str
) -> None:
    engine = tmp_path / "engine"
    engine.write_text(content)
    done = run(program, engine)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_a_gpu_without_memory_is_status_1(program: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_text("stub-engine 1 2 4 plugins stem.sobel_stem")
    done = run(program, engine, STUB_NO_MEMORY="1")
    assert (done.returncode, done.stderr) == (1, "plugin_engine: cudaMalloc failed\n")
