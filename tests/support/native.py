"""The CPU engine compiled for tests: from these sources, with other options, or broken copies."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

from clinreadnet.library import LIBRARY
from support.whole import WHOLE

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "kernels" / "cpu"
BUILT = ROOT / ".pytest_cache" / "native"
CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
CROSS_C = ("aarch64-linux-gnu-gcc",)
EMULATE = (EMULATOR, "-L", "/usr/aarch64-linux-gnu")
SANITIZERS = {
    "none": (),
    "address-undefined": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"),
    "thread": ("-fsanitize=thread", "-O1"),
    "sample": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-Og"),
}
SANITIZER = os.environ.get("CLINREADNET_SANITIZER", "none")
"""Sanitizer of the test programs, set by `bench.records.sanitizers`."""
SAMPLE = {"only": (), "wide": False}
"""Arguments of `built` for the sanitizers of the sample: the reader and one instruction set, which
take 12 s of processor time."""
NO_ARM = f"needs {CROSS} and {EMULATOR}: apt-get install g++-aarch64-linux-gnu qemu-user"


@functools.cache
def recipe() -> ModuleType:
    """Return kernels/cpu/recipe.py, which the package's installation runs."""
    spec = importlib.util.spec_from_file_location("native_recipe", SOURCES / "recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def can_run_arm() -> bool:
    return bool(shutil.which(CROSS) and shutil.which(EMULATOR))


def can_sanitize() -> bool:
    """Return whether a program of this compiler runs with the sanitizers of the sample."""
    try:
        command = [*shlex.split(recipe().find_compiler()), *SANITIZERS["sample"], "-x", "c++", "-"]
    except recipe().CompilerMissing:
        return False
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/program"
        compilation = subprocess.run(
            [*command, "-o", program], input=b"int main() {}", capture_output=True
        )
        return compilation.returncode == 0 and subprocess.run([program]).returncode == 0


needs_sanitizer = pytest.mark.skipif(
    not can_sanitize(), reason="the compiler has no address sanitizer: install libasan and libubsan"
)


def built(
    *,
    options: Sequence[str] = (),
    edits: Mapping[str, Callable[[str], str]] | None = None,
    wide: bool = True,
    **how: Any,
) -> Path:
    """Return the library with these options of the recipe, compiled when it is first asked for.

    The package's own library is taken where it was compiled from these sources with these options.

    Args:
        options: options of the compiler.
        edits: changed text of source files, by name.
        wide: whether to include the instruction set "wide", which stands for AVX-512, in `make
            test-all`.
        how: further arguments of the recipe.
    """
    wide = wide and WHOLE
    texts = {path.name: path.read_text() for path in sorted(SOURCES.glob("*.*")) if path.is_file()}
    for name, edit in (edits or {}).items():
        before = texts[name]
        texts[name] = edit(before)
        assert texts[name] != before, f"the edit of {name} changes nothing"
    key = repr((texts, tuple(options), wide, sorted(how.items())))
    key += "".join(path.read_text() for path in sorted((SOURCES / "include").iterdir()))
    folder = BUILT / hashlib.sha256(key.encode()).hexdigest()[:16]
    out = folder / "libclinreadnet.so"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if out.is_file():
            return out
        if not (options or edits or wide or how) and is_current(LIBRARY):
            shutil.copyfile(LIBRARY, out)
        else:
            sources = folder / "sources"
            shutil.copytree(SOURCES, sources, dirs_exist_ok=True)
            for name, text in texts.items():
                (sources / name).write_text(text)
            recipe().build(out, version="test", options=options, wide=wide, sources=sources, **how)
    return out


def is_current(library: Path) -> bool:
    """Return whether a library is there and newer than every source."""
    sources = [path for path in SOURCES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    newest = max(path.stat().st_mtime for path in sources)
    return library.is_file() and library.stat().st_mtime >= newest


@functools.cache
def loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.crn_instructions.restype = ctypes.c_char_p
    return library


def arm_library() -> Path:
    return built(compiler=CROSS, processor="aarch64", wide=False)


def instruction_sets(path: Path) -> list[str]:
    names: bytes = loaded(path).crn_instructions()
    return names.decode().split()


def skip_without(name: str, library: Path) -> None:
    """Skip the test if a library cannot run an instruction set here."""
    if name not in instruction_sets(library):
        why = "is left to make test-all" if name == "wide" else "is not of this processor"
        pytest.skip(f"{name} {why}")


@dataclass(frozen=True)
class Runner:
    """An instruction set of a library: in this process, or in a program, emulated or instrumented.

    Attributes:
        library: path of the library.
        instructions: name of the set.
        compiler: command of the compiler with options; empty to run in this process.
        launcher: command that starts the program.
    """

    library: Path
    instructions: str
    compiler: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()

    def run(
        self,
        op: str,
        sizes: Sequence[int],
        tensors: Sequence[NDArray[np.float32]],
        first: int = 0,
        last: int = -1,
    ) -> int:
        """Run tasks of an op as include/clinreadnet_ops.h describes it; returns how many it has."""
        if self.compiler:
            return self._start(op, sizes, tensors, first, last)
        pointers = (ctypes.c_void_p * len(tensors))(*(tensor.ctypes.data for tensor in tensors))
        tasks, error = ctypes.c_int64(), ctypes.create_string_buffer(512)
        status = loaded(self.library).crn_run_op(
            op.encode(),
            self.instructions.encode(),
            (ctypes.c_int64 * len(sizes))(*sizes),
            pointers,
            ctypes.c_int64(first),
            ctypes.c_int64(last),
            ctypes.byref(tasks),
            error,
            ctypes.c_size_t(512),
        )
        assert status == 0, error.value
        return tasks.value

    def _start(
        self,
        op: str,
        sizes: Sequence[int],
        tensors: Sequence[NDArray[np.float32]],
        first: int,
        last: int,
    ) -> int:
        program = compiled(ROOT / "tests/native/run_op.c", self.library, self.compiler)
        header = np.array([len(sizes), *sizes, len(tensors), *(t.size for t in tensors)], np.int64)
        sent = header.tobytes() + b"".join(t.tobytes() for t in tensors)
        command = [*self.launcher, str(program), op, self.instructions]
        done = subprocess.run([*command, str(first), str(last)], input=sent, capture_output=True)
        assert done.returncode == 0, done.stderr
        tasks = int(np.frombuffer(done.stdout[:8], np.int64)[0])
        at = 8
        for tensor in tensors:
            values = np.frombuffer(done.stdout[at : at + tensor.nbytes], np.float32)
            tensor[...] = values.reshape(tensor.shape)
            at += tensor.nbytes
        return tasks


def compiled(source: Path, library: Path, compiler: Sequence[str]) -> Path:
    """Return a C program that is linked to a library, compiled when it is first asked for."""
    program = library.parent / source.stem
    with FileLock(library.parent / "lock"):
        if not program.is_file():
            command = [*compiler, "-O1", "-I", SOURCES / "include", source, "-o", program, library]
            command += [f"-Wl,-rpath,{library.parent}", "-lm", "-pthread"]
            subprocess.run([*map(str, command)], check=True)
    return program


def exercise(sanitizer: str, *arguments: object, **how: Any) -> str:
    """Run tests/native/exercise.cpp with a sanitizer, and return what it printed.

    Args:
        sanitizer: key of ``SANITIZERS``.
        arguments: arguments of the program.
        how: further arguments of `built`.

    Raises:
        AssertionError: the program failed; its message ends with what it wrote to standard error.
    """
    options = SANITIZERS[sanitizer]
    warnings = ("-Wall", "-Wextra", "-Werror")
    compiler = (*shlex.split(recipe().find_compiler()), "-std=c++17", *options, *warnings)
    library = built(options=options, **how)
    program = compiled(ROOT / "tests/native/exercise.cpp", library, compiler)
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout
