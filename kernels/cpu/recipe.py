"""Compile the CPU engine: `python kernels/cpu/recipe.py --out libclinreadnet.so`.

It uses only the standard library, because it runs while the package is installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
OPTIONS = (
    *("-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"),
    # Not -ffast-math, which would remove the additions that round.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"),
)


@dataclass(frozen=True)
class Instructions:
    """An instruction set: floats per vector, and compiler options."""

    width: int
    options: tuple[str, ...] = ()


_AVX2 = ("-mavx2", "-mfma")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma")
PLAIN = {"plain": Instructions(4)}
INSTRUCTIONS = {
    "x86_64": {
        "avx512": Instructions(16, _AVX512),
        "avx2": Instructions(8, _AVX2),
    },
    "aarch64": {"neon": Instructions(4, ("-march=armv8.2-a+dotprod",))},
}
"""Instruction sets by processor. Every library also has ``PLAIN``."""
WIDE = {"wide": Instructions(16, _AVX2)}
"""The vector width of AVX-512 with AVX2 instructions, for tests."""


class CompilerMissing(Exception):
    """There is no C++ compiler."""


class CompilerFailed(Exception):
    """The compiler failed. The message is that of the compiler."""


def find_compiler() -> str:
    """Return the C++ compiler: ``$CXX``, or the first of g++, clang++ and c++.

    Raises:
        CompilerMissing: there is none.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None or shutil.which(shlex.split(compiler)[0]) is None:
        raise CompilerMissing("no C++ compiler: install g++ or clang++, or name it in CXX")
    return compiler


def this_processor() -> str:
    """Return the key of this processor in ``INSTRUCTIONS``."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def build(
    out: Path,
    *,
    version: str,
    compiler: str | None = None,
    processor: str | None = None,
    only: Sequence[str] | None = None,
    wide: bool = False,
    options: Sequence[str] = (),
    sources: Path = SOURCES,
) -> None:
    """Compile and link the library.

    Args:
        out: path of the library.
        version: version of the package.
        compiler: compiler command; default `find_compiler`.
        processor: key of ``INSTRUCTIONS``; default this machine's.
        only: instruction sets to compile besides ``PLAIN``; default all of the processor.
        wide: whether ``WIDE`` is compiled too.
        options: further compiler options, such as ``-fsanitize=address``.
        sources: folder of the sources.

    Raises:
        CompilerMissing: there is no compiler.
        CompilerFailed: the compiler failed.
    """
    command = shlex.split(compiler or find_compiler())
    sets = INSTRUCTIONS.get(processor or this_processor(), {}) | (WIDE if wide else {})
    if only is not None:
        sets = {name: row for name, row in sets.items() if name in only}
    shared = [f'-DCRN_VERSION="{version}"', *(f"-DCRN_HAS_{name.upper()}" for name in sets)]
    jobs = [
        (path, path.stem, shared) for path in sorted(sources.glob("*.cpp")) if path.stem != "isa"
    ]
    for name, row in (PLAIN | sets).items():
        chosen = [f"-DCRN_ISA={name}", f"-DCRN_WIDTH={row.width}", *row.options]
        plain = ["-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"]
        jobs.append((sources / "isa.cpp", f"isa-{name}", [*plain, *chosen]))
    with tempfile.TemporaryDirectory() as folder:

        def compiled(job: tuple[Path, str, list[str]]) -> str:
            source, name, chosen = job
            target = os.path.join(folder, f"{name}.o")
            _run([*command, *OPTIONS, *chosen, *options, "-c", str(source), "-o", target])
            return target

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, jobs))
        link = ["-shared", "-pthread", *options]
        if sys.platform == "linux":
            link += [f"-Wl,--version-script={sources / 'exports.map'}", "-Wl,-z,defs"]
            if not any("sanitize" in option for option in options):
                link += ["-static-libstdc++", "-static-libgcc", "-Wl,-s"]
            else:
                link.remove("-Wl,-z,defs")
        out.parent.mkdir(parents=True, exist_ok=True)
        made = f"{folder}/{out.name}"
        _run([*command, *link, "-o", made, *objects, "-lm"])
        shutil.move(made, out)


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise CompilerMissing(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise CompilerFailed(f"{shlex.join(command)}\n{done.stderr}")


def main() -> None:
    """Compile from the command line."""
    parser = argparse.ArgumentParser(description="Compile the CPU engine.")
    parser.add_argument("--out", type=Path, required=True, help="library to write")
    parser.add_argument("--compiler", help="default: $CXX, g++, clang++ or c++")
    parser.add_argument("--processor", choices=list(INSTRUCTIONS), help="default: this one")
    parser.add_argument(
        "--option", action="append", default=[], help="for the compiler; repeatable"
    )
    parser.add_argument(
        "--wide", action="store_true", help="add 512-bit vectors on AVX2, for tests"
    )
    given = parser.parse_args()
    try:
        build(
            given.out,
            version="unreleased",
            compiler=given.compiler,
            processor=given.processor,
            wide=given.wide,
            options=given.option,
        )
    except (CompilerMissing, CompilerFailed) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
