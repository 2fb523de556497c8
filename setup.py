"""Compiles the CPU engine where a compiler is; everything else stands in pyproject.toml."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

RECIPE = "kernels/cpu/recipe.py"
LIBRARY = "clinreadnet.libclinreadnet"


class BuildLibrary(build_ext):
    """Builds a plain shared library: it is loaded by ctypes and knows nothing of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the library's path, without the tag of a Python."""
        suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
        return os.path.join(*fullname.split(".")) + suffix

    def build_extension(self, ext: Extension) -> None:
        """Compile and link it."""
        recipe = runpy.run_path(RECIPE, run_name="recipe")
        version = runpy.run_path("clinreadnet/_version.py")["__version__"]
        try:
            recipe["build"](Path(self.get_ext_fullpath(ext.name)), version=version)
        except (recipe["CompilerMissing"], recipe["CompilerFailed"]) as error:
            # Optional: setuptools warns and goes on.
            raise CompileError(f"the CPU engine is left out: {error}") from None


class Wheel(bdist_wheel):
    """One wheel serves every Python of a platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the wheel's tag."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension(LIBRARY, sources=[RECIPE], optional=True)],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
