"""Compiles the CPU engine where a compiler is; everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("kernels/cpu")
LIBRARY = "clinreadnet.runtime.backends.libclinreadnet"
OPTIONS = [
    *["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"],
    *["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"],
    *["-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"],
]
# An instruction set's ops: floats of a vector, and the compiler's options.
INSTRUCTIONS = {
    "x86_64": {
        "avx512": (
            16,
            ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma"],
        ),
        "avx2": (8, ["-mavx2", "-mfma"]),
    },
    "aarch64": {"neon": (4, ["-march=armv8.2-a+dotprod"])},
}
KINDS = {"amd64": "x86_64", "arm64": "aarch64"}


def version() -> str:
    """Return the package's version."""
    names: dict[str, str] = {}
    exec(Path("clinreadnet/_version.py").read_text(encoding="utf-8"), names)
    return names["__version__"]


class BuildLibrary(build_ext):
    """Builds a plain shared library: it is loaded by ctypes and knows nothing of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's path, without the tag of a Python."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        return os.path.join(*fullname.split(".")) + suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Return none: the header says what is exported."""
        return []

    def build_extension(self, ext: Extension) -> None:
        """Compile every source with its own options, and link."""
        kind = platform.machine().lower()
        sets = INSTRUCTIONS.get(KINDS.get(kind, kind), {})
        shared = [f'-DCRN_VERSION="{version()}"', *(f"-DCRN_HAS_{n.upper()}" for n in sets)]
        jobs = [
            (p.as_posix(), "", shared) for p in sorted(SOURCES.glob("*.cpp")) if p.stem != "isa"
        ]
        for name, (width, options) in {"plain": (4, []), **sets}.items():
            chosen = [f"-DCRN_ISA={name}", f"-DCRN_WIDTH={width}", "-fno-exceptions", "-fno-rtti"]
            jobs.append((f"{SOURCES}/isa.cpp", name, [*chosen, *options]))

        def compiled(job: tuple[str, str, list[str]]) -> list[str]:
            source, folder, options = job
            place = os.path.join(self.build_temp, "cpu", folder)
            return self.compiler.compile([source], place, extra_postargs=[*OPTIONS, *options])

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = [one for found in pool.map(compiled, jobs) for one in found]
        path = self.get_ext_fullpath(ext.name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        link = ["-pthread"]
        if sys.platform == "linux":
            script = SOURCES / "exports.map"
            link += [
                "-Wl,-s",
                "-static-libstdc++",
                "-static-libgcc",
                f"-Wl,--version-script={script}",
            ]
        self.compiler.link_shared_object(objects, path, extra_postargs=link, target_lang="c++")


class Wheel(bdist_wheel):
    """One wheel serves every Python of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(LIBRARY, sources=[str(SOURCES / "api.cpp")], optional=True)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
