"""examples/score_raw.cpp, compiled against a stub of TensorRT's C++ API and run on the CPU.

The stub has only the names and signatures that the program uses. The scores of an engine on a GPU
are not tested here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import reference

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests" / "support" / "tensorrt_stub"
SOURCE = ROOT / "examples" / "score_raw.cpp"
COMPILER = shutil.which("c++") or shutil.which("g++")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER, "the tests need a C++ compiler"
    out = tmp_path_factory.mktemp("examples") / "score_raw"
    command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    done = subprocess.run([*command, "-I", STUB, SOURCE, "-o", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def run(program: Path, tmp_path: Path) -> Any:
    """Return a function that scores an array with an engine; default profile 2:3:4."""

    def score(
        raw: bytes, kind: str, engine: str = "stub-engine 2 3 4", *more: str, **environment: str
    ) -> Any:
        (tmp_path / "engine").write_text(engine)
        (tmp_path / "hu.raw").write_bytes(raw)
        command = [program, tmp_path / "engine", tmp_path / "hu.raw", kind, *more]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return score


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_raw_slices_are_scored_in_batches_of_the_profile(run: Any, kind: str) -> None:
    hu = np.random.default_rng(0).normal(40, 300, (7, 512, 512)).astype(kind)
    done = run(hu.tobytes(), kind)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(index) for index, *_ in lines] == list(range(7))
    for column, name in ((1, "score"), (2, "novelty")):
        values = [float(line[column]) for line in lines]
        np.testing.assert_allclose(values, reference(hu)[name], atol=6e-5)
    assert {len(line) for line in lines} == {3}
    # Two whole batches, and one slice filled up to the smallest batch.
    assert done.stderr == "stub: batch 3\nstub: batch 3\nstub: batch 2\n"


def test_slices_above_the_threshold_are_marked(run: Any) -> None:
    hu = np.stack([np.full((512, 512), value, np.int16) for value in (0, 390, 40)])
    done = run(hu.tobytes(), "int16", "stub-engine 1 2 4", "1.9")
    assert done.returncode == 0, done.stderr
    assert [line.split()[3:] for line in done.stdout.splitlines()] == [[], ["novel"], []]


def test_an_engine_made_before_novelty_prints_scores_alone(run: Any) -> None:
    old = "stub-engine 1 2 4 before-novelty"
    done = run(SLICE.tobytes(), "float32", old)
    assert (done.returncode, done.stdout) == (0, "0 2.8571\n"), done.stderr
    refused = run(SLICE.tobytes(), "float32", old, "1.9")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "made before novelty, leave THRESHOLD out" in refused.stderr


@pytest.mark.parametrize("threshold", ["", "x", "0", "-1", "nan", "inf", "1.9x"])
def test_a_threshold_that_is_no_number_is_refused(run: Any, threshold: str) -> None:
    done = run(SLICE.tobytes(), "float32", "stub-engine 1 2 4", threshold)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"score_raw: {threshold}: THRESHOLD must be a positive number\n"


SLICE = np.zeros((512, 512), np.float32)
NAN = np.stack([SLICE, np.full_like(SLICE, np.nan)])


@pytest.mark.parametrize(
    ("raw", "kind", "engine", "message"),
    [
        (SLICE.tobytes()[:-1], "float32", "stub-engine 1 1 1", "1048575 bytes are not whole"),
        (SLICE.tobytes(), "int8", "stub-engine 1 1 1", "int8: give int16 or float32"),
        (b"", "int16", "stub-engine 1 1 1", "hu.raw: missing, empty or not readable"),
        (NAN.tobytes(), "float32", "stub-engine 1 1 1", "slice 1 holds NaN or infinity"),
        (SLICE.tobytes(), "float32", "an engine of another release", "not an engine for this GPU"),
    ],
    ids=["cut-off", "type", "empty", "nan", "engine"],
)
def test_bad_input_is_one_line_and_status_2(
    run: Any, raw: bytes, kind: str, engine: str, message: str
) -> None:
    done = run(raw, kind, engine)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("score_raw: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_gpu_without_memory_is_status_1(run: Any) -> None:
    done = run(SLICE.tobytes(), "float32", STUB_NO_MEMORY="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "score_raw: cudaMalloc: out of memory\n"


def test_too_few_arguments_print_the_usage(program: Path) -> None:
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: score_raw ENGINE RAW")


def test_the_readme_lists_every_example() -> None:
    folder = ROOT / "examples"
    listed = set(re.findall(r"\(([\w.]+)\)", (folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.iterdir()} - {"README.md"}
