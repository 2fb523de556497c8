"""examples/score_cpu.c, compiled and linked to the CPU engine, against the runtime's backend."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.least_checkpoint import write_least
from support.native import SOURCES, built

from clinreadnet.runtime.backends.native import NativeBackend

SOURCE = Path(__file__).parents[2] / "examples" / "score_cpu.c"
COMPILER = next(filter(shutil.which, ("gcc", "cc", "clang")), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("examples") / "score_cpu"
    library = built()
    command = [COMPILER, "-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command += ["-I", SOURCES / "include", SOURCE, "-o", out]
    command += ["-L", library.parent, "-lclinreadnet", f"-Wl,-rpath,{library.parent}"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def run(program: Path, *arguments: object) -> Any:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_it_scores_raw_slices(program: Path, tmp_path: Path, kind: str, precision: str) -> None:
    hu = np.random.default_rng(0).normal(40, 300, (3, 512, 512)).astype(kind)
    (tmp_path / "raw").write_bytes(hu.tobytes())
    checkpoint = write_least(tmp_path)
    done = run(program, checkpoint, tmp_path / "raw", kind, precision, 1)
    assert (done.returncode, done.stderr) == (0, "")
    backend = NativeBackend(checkpoint.read_bytes(), precision=precision, library=built())
    expected = backend.run(hu[:, None])
    backend.close()
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(line[0]) for line in lines] == [0, 1, 2]
    for column, name in ((1, "score"), (2, "novelty")):
        values = [float(line[column]) for line in lines]
        np.testing.assert_allclose(values, expected[name], atol=6e-5)
    assert [line[3:] for line in lines] == [
        ["novel"] if n > 1.5 else [] for n in expected["novelty"]
    ]


def test_bad_input_is_one_line(program: Path, tmp_path: Path) -> None:
    checkpoint, raw = write_least(tmp_path), tmp_path / "raw"
    raw.write_bytes(b"\0" * 1000)
    (tmp_path / "torn").write_bytes(checkpoint.read_bytes()[:5000])
    nan = tmp_path / "nan"
    nan.write_bytes(np.full((512, 512), np.nan, np.float32).tobytes())
    for arguments, message in (
        ([checkpoint, raw], "usage: "),
        ([checkpoint, raw, "int16"], "raw: 1000 bytes are not slices"),
        ([tmp_path / "none", raw, "int16"], "none: cannot be read"),
        ([tmp_path / "torn", nan, "float32"], "torn: checkpoint: truncated or no safetensors"),
        ([checkpoint, nan, "float32", "fp32", 0], "threads=0: give 1 to"),
        ([checkpoint, nan, "float32"], "nan: slice 0: slice 0 holds NaN"),
    ):
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and done.stderr.count("\n") == 1
