"""The real bindings of each TensorRT, made importable without TensorRT, and what we use of them.

A binding is a wheel of about 1 MB; the libraries it is linked to (over 1 GB) are stood in for by
stubs that the machine's C compiler makes. TensorRT-RTX comes with its extra, libraries included.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".pytest_cache" / "d" / "tensorrt-bindings"
PARTS = ("builder", "runner")

_BUILDER_SYMBOLS = {
    "libnvinfer.so": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "libnvonnxparser.so": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "libnvinfer_plugin.so": ("initLibNvInferPlugins",),
}
_LEAN_SYMBOLS = {
    "libnvinfer_lean.so": (
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getPluginRegistry",
    )
}


class Unavailable(Exception):
    """A binding cannot be had here; the message says why."""


@dataclass(frozen=True)
class RealBinding:
    """One binding: where it comes from and how it is imported."""

    title: str
    flavour: str
    module: str
    package: str | None = None
    """Name on the package index; None where an extra has installed it."""
    version: str = ""
    stubs: tuple[tuple[str, tuple[str, ...]], ...] = ()
    parts: tuple[str, ...] = PARTS


BINDINGS = (
    RealBinding(
        "tensorrt 10.16",
        "tensorrt",
        "tensorrt_bindings",
        "tensorrt-cu13-bindings",
        "10.16.1.11",
        tuple(_BUILDER_SYMBOLS.items()),
    ),
    RealBinding(
        "tensorrt 11.4",
        "tensorrt",
        "tensorrt_bindings",
        "tensorrt-cu13-bindings",
        "11.4.0.106",
        tuple(_BUILDER_SYMBOLS.items()),
    ),
    RealBinding("tensorrt-rtx 1.7", "tensorrt-rtx", "tensorrt_rtx_bindings"),
    RealBinding(
        "tensorrt lean 11.4",
        "tensorrt",
        "tensorrt_lean_bindings",
        "tensorrt-lean-cu13-bindings",
        "11.4.0.106",
        tuple(_LEAN_SYMBOLS.items()),
        ("runner",),
    ),
)


def use(binding: RealBinding, part: str) -> dict[str, Any]:
    """Run the package's builder or runner against the binding and return what it used.

    Raises:
        Unavailable: the binding cannot be had here.
        AssertionError: our code uses something the binding does not declare; the message says what.
    """
    paths = [str(ROOT / "tests")]
    environment = dict(os.environ)
    if binding.package is None:
        if importlib.util.find_spec(binding.module) is None:
            raise Unavailable(
                f'{binding.module} is not installed; run pip install ".[tensorrt-rtx-build]"'
            )
    else:
        folder = unpacked(binding)
        paths.append(str(folder))
        environment["LD_LIBRARY_PATH"] = str(stubs(binding, folder))
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    result = subprocess.run(
        [sys.executable, "-m", "support.contract", binding.module, binding.flavour, part],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, f"{binding.title}, {part}: {result.stderr}"
    used: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return used


def has_runner() -> bool:
    """Return whether the package has a runner of TensorRT engines."""
    return importlib.util.find_spec("clinreadnet.runtime.backends.tensorrt") is not None


def unpacked(binding: RealBinding) -> Path:
    """Return the folder of the unpacked wheel, fetched from the package index once."""
    folder = CACHE / f"{binding.package}-{binding.version}-{sys.version_info[1]}"
    if not folder.is_dir():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        command += [str(partial), "--only-binary", ":all:", "--retries", "1", "--timeout", "20"]
        result = subprocess.run(
            [*command, f"{binding.package}=={binding.version}"], capture_output=True, text=True
        )
        wheels = list(partial.glob("*.whl"))
        if not wheels:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unavailable(f"{binding.package} {binding.version} cannot be fetched: {reason}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            wheel.extractall(partial)
        wheels[0].unlink()
        partial.rename(folder)
    return folder


def stubs(binding: RealBinding, folder: Path) -> Path:
    """Compile libraries that define what the binding is linked to and do nothing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Unavailable("no C compiler for the stub libraries")
    stubs = folder / "stubs"
    stubs.mkdir(exist_ok=True)
    major = binding.version.split(".")[0]
    for library, symbols in binding.stubs:
        name = f"{library}.{major}"
        if not (stubs / name).exists():
            source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols)
            command = [compiler, "-shared", "-fPIC", "-xc", "-", f"-Wl,-soname,{name}"]
            command += ["-o", str(stubs / name)]
            subprocess.run(command, input=source, text=True, check=True)
    return stubs
