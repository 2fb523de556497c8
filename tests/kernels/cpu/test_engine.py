"""The network in the CPU engine: equal bits for every way to call it, and refused input."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.least_checkpoint import least_checkpoint, tensors, write_least
from support.native import (
    CROSS_C,
    EMULATE,
    NO_ARM,
    ROOT,
    SAMPLE,
    SOURCES,
    arm_library,
    built,
    can_run_arm,
    compiled,
    exercise,
    instruction_sets,
    needs_sanitizer,
    skip_without,
)

from clinreadnet import library as engine_library
from clinreadnet.errors import BackendError, BackendUnavailable
from clinreadnet.processor import processors
from clinreadnet.runtime.backends import native
from clinreadnet.runtime.backends.native import NativeBackend

COMPILER = next(filter(shutil.which, ("g++", "clang++", "c++")), None)
pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
HU = np.random.default_rng(0).normal(40, 200, (4, 1, 512, 512)).astype(np.float32)
CALLS = 64


@pytest.fixture(scope="module")
def library() -> Path:
    return built()


@pytest.fixture(autouse=True)
def library_of_these_sources(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the package's backend call the library of these sources."""
    monkeypatch.setattr(engine_library, "LIBRARY", library)


def opened(library: Path, checkpoint: bytes | None = None, **options: Any) -> NativeBackend:
    content = least_checkpoint() if checkpoint is None else checkpoint
    return NativeBackend(content, **({"precision": "fp32", "library": library} | options))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_sixteen_callers_get_the_same_bits_and_flat_memory(tmp_path: Path, precision: str) -> None:
    best = instruction_sets(built())[0]
    checkpoint = write_least(tmp_path)
    printed = exercise("none", "calls", checkpoint, best, precision, 16, CALLS, processors())
    assert f"{CALLS} calls, 0 wrong" in printed
    first, last = map(int, re.findall(r"memory (\d+) to (\d+)", printed)[0])
    assert last <= first + 2048


@pytest.mark.parametrize(
    "sanitizer, mutations, how",
    [
        pytest.param("none", 2000, {}, id="2000"),
        pytest.param(
            "sample",
            300,
            SAMPLE,
            id="sample under sanitizers",
            marks=[needs_sanitizer, pytest.mark.whole],
        ),
    ],
)
def test_mutated_checkpoints_are_refused_with_one_line(
    tmp_path: Path, sanitizer: str, mutations: int, how: Any
) -> None:
    printed = exercise(sanitizer, "mutate", write_least(tmp_path), mutations, 1, **how)
    _, refused, loaded = map(int, re.findall(r"\d+", printed))
    assert refused + loaded == mutations and refused > mutations // 2 and loaded > 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", ["avx512", "avx2", "plain", "wide"])
def test_position_batch_and_threads_do_not_change_a_bit(
    library: Path, name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without(name, library)
    monkeypatch.setenv(engine_library.INSTRUCTIONS_VARIABLE, name)
    expected: dict[str, Any] = {}
    for threads in {1, processors()}:
        backend = opened(library, precision=precision, threads=threads)
        assert backend.notes == [f"instructions {name}"]
        alone = backend.run(HU[:1])
        expected = expected or dict(alone)
        for size in (2, 5):
            batch = np.concatenate([HU[1:2]] * (size - 1) + [HU[:1]])
            together = backend.run(batch)
            for key, value in expected.items():
                assert together[key][-1].tobytes() == value[0].tobytes()
                assert alone[key].tobytes() == value.tobytes()
        backend.close()


def test_the_instruction_sets_agree(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {}
    for name in instruction_sets(library):
        monkeypatch.setenv(engine_library.INSTRUCTIONS_VARIABLE, name)
        backend = opened(library)
        outputs[name] = backend.run(HU[:1])
        backend.close()
    for output in outputs.values():
        for key, value in outputs["plain"].items():
            np.testing.assert_allclose(output[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not can_run_arm(), reason=NO_ARM)
@pytest.mark.parametrize("precision, limit", [("fp32", 1e-5), ("int8", 0.05)])
def test_the_network_on_arm64(library: Path, tmp_path: Path, precision: str, limit: float) -> None:
    program = compiled(ROOT / "examples/score_cpu.c", arm_library(), CROSS_C)
    raw = tmp_path / "raw"
    raw.write_bytes(HU[:1].tobytes())
    command = [*EMULATE, program, write_least(tmp_path), raw, "float32"]
    done = subprocess.run([*map(str, command), precision, "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    backend = opened(library, precision="fp32")
    expected = backend.run(HU[:1])
    backend.close()
    _, score, novelty = map(float, done.stdout.split()[:3])
    assert abs(score - expected["score"][0]) < limit + 5e-5
    assert abs(novelty - expected["novelty"][0]) < 1e-3


def broken(**changes: Any) -> bytes:
    weights = tensors()
    for name, value in changes.items():
        weights[name.replace("__", ".")] = value
    return least_checkpoint(weights)


def without(name: str) -> bytes:
    weights = tensors()
    del weights[name]
    return least_checkpoint(weights)


WRONG = [
    pytest.param(b"", "truncated, 0 bytes", id="empty"),
    pytest.param(least_checkpoint()[:-1], "lies outside of the file: it is trunc", id="truncated"),
    pytest.param(least_checkpoint() + b"x", "bytes follow its last tensor", id="longer"),
    pytest.param(b"\xff" * 64, "no safetensors file", id="another kind of file"),
    pytest.param(least_checkpoint(preset="tiny"), "of preset tiny, not small", id="preset"),
    pytest.param(least_checkpoint(version=2), "of another version, its config", id="version"),
    pytest.param(least_checkpoint(window=7), "has no window of 8 to 8", id="window"),
    pytest.param(least_checkpoint(embed_dim=40), "heads of 40 channels", id="channels"),
    pytest.param(least_checkpoint(image_dim=5), "has another shape than its", id="shape"),
    pytest.param(least_checkpoint(use_sobel=False), "without use_sobel", id="ablation"),
    pytest.param(without("head.gain"), "tensor head.gain is missing", id="missing tensor"),
    pytest.param(broken(more=np.zeros(3)), "tensor more is not of type F16", id="type"),
    pytest.param(
        broken(more=np.zeros(3, np.float16)), "tensor more is not of this network", id="extra"
    ),
    pytest.param(
        broken(stem__norm__bias=np.full(32, np.nan, np.float16)),
        "tensor stem.norm.bias holds a value that is not finite",
        id="NaN",
    ),
    pytest.param(
        broken(head__temperature=np.array(0, np.float16)), "temperature is not posi", id="zero"
    ),
]


@pytest.mark.parametrize("content, message", WRONG)
def test_a_wrong_checkpoint_is_refused(library: Path, content: bytes, message: str) -> None:
    with pytest.raises(BackendUnavailable, match=message) as caught:
        opened(library, content, preset="small")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", [0, 1 << 20], ids=["no thread", "more threads than processors"])
def test_a_wrong_option_is_refused(
    library: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """The library refuses what its Python host would not ask for."""
    monkeypatch.setattr(native, "processors", lambda: 1 << 20)
    with pytest.raises(BackendUnavailable, match=f"threads={threads}: give 1 to"):
        opened(library, threads=threads)


def test_instructions_that_are_not_there(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine_library.INSTRUCTIONS_VARIABLE, "sse9")
    with pytest.raises(BackendUnavailable, match="INSTRUCTIONS=sse9: this library or processor"):
        opened(library)


def test_a_closed_engine_says_so_and_the_host_goes_on(library: Path) -> None:
    backend = opened(library)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="is closed, or was never opened"):
        backend.run(HU[:1])
    again = opened(library)
    assert np.isfinite(again.run(HU[:1])["score"]).all()
    with pytest.raises(BackendError, match="slice 1 holds NaN"):
        again.run(np.where(np.arange(2)[:, None, None, None] == 1, np.nan, HU[:2]))
    with pytest.raises(BackendError, match="n=0: give one slice or more"):
        again.run(HU[:0])
    infinite = np.where(HU[:1] > 300, np.inf, HU[:1])
    clipped = np.where(HU[:1] > 300, 400, HU[:1])
    assert again.run(infinite)["score"] == again.run(clipped)["score"]
    again.close()


def test_a_forked_process_gets_an_error(library: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import numpy as np
from clinreadnet.errors import BackendError
from clinreadnet.runtime.backends import native
from clinreadnet.runtime.backends.native import NativeBackend
backend = NativeBackend(Path(sys.argv[1]).read_bytes(), precision="int8", library=Path(sys.argv[2]))
hu = np.zeros((1, 1, 512, 512))
backend.run(hu)
if (child := os.fork()) == 0:
    try:
        backend.run(hu)
    except BackendError as error:
        print(error, flush=True)
    backend.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
backend.run(hu)
"""
    folder = built().parent
    command = [sys.executable, "-W", "ignore", "-c", code, write_least(folder), library]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "opened before this process was forked" in done.stdout


def test_memory_that_is_full_is_an_error(library: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from clinreadnet.errors import OutOfMemory
from clinreadnet.library import load_library
from clinreadnet.runtime.backends import native
from clinreadnet.runtime.backends.native import NativeBackend
load_library(Path(sys.argv[2]))
content = Path(sys.argv[1]).read_bytes()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (6 << 20),) * 2)
try:
    NativeBackend(content, precision="fp32", threads=1, library=Path(sys.argv[2]))
except OutOfMemory as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)
"""
    command = [sys.executable, "-c", code, write_least(built().parent), library]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "memory is full" in done.stdout


def test_another_abi_version_is_refused(tmp_path: Path) -> None:
    assert COMPILER is not None
    other = tmp_path / "libclinreadnet.so"
    source = tmp_path / "other.c"
    source.write_text("unsigned crn_abi_version(void) { return 99; }\n")
    subprocess.run([COMPILER, "-x", "c", "-shared", "-fPIC", source, "-o", other], check=True)
    with pytest.raises(BackendUnavailable, match="has ABI version 99, this package calls 1"):
        engine_library.load_library(other)
    source.write_text("unsigned crn_abi_version(void) { return 1; }\n")
    old = tmp_path / "old.so"
    subprocess.run([COMPILER, "-x", "c", "-shared", "-fPIC", source, "-o", old], check=True)
    with pytest.raises(BackendUnavailable, match="of another version.*undefined symbol: crn_"):
        engine_library.load_library(old)
    (tmp_path / "no.so").write_text("nothing")
    with pytest.raises(BackendUnavailable, match="does not load"):
        engine_library.load_library(tmp_path / "no.so")
    with pytest.raises(BackendUnavailable, match="was not compiled here; install g"):
        engine_library.load_library(tmp_path / "missing.so")


def test_the_library_needs_no_other_and_exports_its_interface_alone(library: Path) -> None:
    loaded = ctypes.CDLL(str(library))
    assert loaded.crn_abi_version() == engine_library.ABI_VERSION
    if shutil.which("nm") and shutil.which("readelf"):
        names = subprocess.check_output(["nm", "-D", "--defined-only", library], text=True)
        assert {line.split()[-1][:4] for line in names.splitlines()} == {"crn_"}
        needed = subprocess.check_output(["readelf", "-d", library], text=True)
        assert "stdc++" not in needed and "gomp" not in needed


def test_nothing_of_an_instruction_set_runs_when_the_library_is_loaded(tmp_path: Path) -> None:
    """A constructor would need the instructions on processors without them."""
    assert COMPILER is not None
    out = tmp_path / "isa.o"
    command = [COMPILER, "-std=c++17", "-O2", "-fno-exceptions", "-DCRN_ISA=plain"]
    command += ["-DCRN_WIDTH=4", "-Wno-psabi", "-c", str(SOURCES / "isa.cpp"), "-o", str(out)]
    subprocess.run(command, check=True)
    symbols = subprocess.check_output(["nm", "-C", out], text=True)
    assert "_GLOBAL__sub_I" not in symbols and "guard variable" not in symbols
