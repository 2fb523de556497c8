"""What this machine can build and run, and the command that installs what is missing.

Packages are asked for by their distribution's metadata; none of them is imported.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.table import Table

from clinreadnet._version import __version__
from clinreadnet.runtime.gpu import Gpu, driver_version, find_gpus

_DISTRIBUTIONS = {
    "torch": ("torch",),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime",),
    "onnxruntime-gpu": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx bindings": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
    "tensorrt_rtx libraries": ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu12-libs"),
    "pycuda": ("pycuda",),
    "cryptography": ("cryptography",),
    "triton": ("triton", "triton-windows"),
    "numba": ("numba",),
    "scipy": ("scipy",),
    "safetensors": ("safetensors",),
    "matplotlib": ("matplotlib",),
    "pyarrow": ("pyarrow",),
    "ray": ("ray",),
    "pylibjpeg": ("pylibjpeg",),
    "pylibjpeg-openjpeg": ("pylibjpeg-openjpeg",),
    "pylibjpeg-libjpeg": ("pylibjpeg-libjpeg",),
}
"""Packages in the order they are shown, each with the distributions that provide it."""


@dataclass(frozen=True)
class Door:
    """One thing a user may want to do here.

    Attributes:
        name: what it does.
        works: whether everything it needs is here.
        missing: what is not.
        command: installs the missing packages; empty where none would help.
    """

    name: str
    works: bool
    missing: list[str]
    command: str


@dataclass(frozen=True)
class Diagnosis:
    """The machine, its packages (version or None) and its doors."""

    clinreadnet: str
    python: str
    platform: str
    driver: str | None
    gpus: list[Gpu]
    packages: dict[str, str | None]
    doors: list[Door]
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at this machine; takes no arguments and raises nothing."""
    packages = {
        name: next((v for v in map(_version, distributions) if v), None)
        for name, distributions in _DISTRIBUTIONS.items()
    }
    gpus = find_gpus()
    return Diagnosis(
        clinreadnet=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        driver=driver_version(),
        gpus=gpus,
        packages=packages,
        doors=doors(packages, has_gpu=bool(gpus)),
        problems=_problems(packages),
    )


def doors(packages: dict[str, str | None], *, has_gpu: bool) -> list[Door]:
    """Return what works with these packages.

    Args:
        packages: version, or None where missing, by the names of `Diagnosis.packages`.
        has_gpu: whether a CUDA driver shows a GPU.
    """
    installed = {name for name, version in packages.items() if version}

    def door(name: str, needs: tuple[str, ...], command: str, gpu: bool = False) -> Door:
        lacking = [need for need in needs if not installed & set(need.split(" or "))]
        missing = lacking + (["an NVIDIA GPU"] if gpu and not has_gpu else [])
        return Door(name, not missing, missing, command if lacking else "")

    runtime = "onnxruntime or onnxruntime-gpu"
    network = ("torch", "safetensors")
    export = (*network, "onnx", "onnxscript", "numba", "scipy", runtime)
    extra = 'pip install "clinreadnet[{}]"'.format
    rtx = ("tensorrt_rtx bindings", "tensorrt_rtx libraries")
    pycuda = " pycuda"  # not the extra `gpu`, which brings an onnxruntime of its own
    jpeg = ("pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg")
    # Both distributions own the module `onnxruntime`: never install one beside the other.
    swap = "pip uninstall -y onnxruntime && " if "onnxruntime" in installed else ""
    ort = "gpu" if "onnxruntime-gpu" in installed else "cpu"
    return [
        door("score on the CPU", (runtime,), extra("cpu")),
        door("score with CUDA", ("onnxruntime-gpu",), swap + extra("gpu"), True),
        door("score with TensorRT", ("tensorrt", "pycuda"), extra("tensorrt") + pycuda, True),
        door("score with TensorRT-RTX", (*rtx, "pycuda"), extra("tensorrt-rtx") + pycuda, True),
        door("sign bundles, trusted keys", ("cryptography",), extra("sign")),
        door("score --plot", ("matplotlib",), extra("plot")),
        door("score compressed DICOM", jpeg, f"pip install {' '.join(jpeg)}"),
        door("score archives on Ray", (runtime, "ray", "pyarrow"), extra(f"{ort},ray")),
        door("simulate", ("numba", "scipy"), extra("simulate")),
        door("train, evaluate", (*network, "numba", "scipy"), extra("train")),
        door("export and verify ONNX", export, extra(f"export,{ort}")),
        door("build TensorRT-RTX engines", (*export, *rtx), extra(f"export,{ort},tensorrt-rtx")),
        door("Triton kernels", (*network, "triton"), extra("kernels,train"), True),
    ]


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the machine, the packages, the doors and what is wrong."""
    console.print(
        f"clinreadnet {diagnosis.clinreadnet}, Python {diagnosis.python}, {diagnosis.platform}",
        highlight=False,
    )
    console.print(f"NVIDIA driver: {diagnosis.driver or 'none'}", highlight=False)
    for gpu in diagnosis.gpus:
        console.print(
            f"GPU: {gpu.name}, {gpu.target}, {gpu.memory_bytes / 2**30:.0f} GiB", highlight=False
        )
    if not diagnosis.gpus:
        console.print("GPU: none", highlight=False)
    packages = Table(title="Packages", title_justify="left")
    packages.add_column("package")
    packages.add_column("version")
    for name, version in diagnosis.packages.items():
        packages.add_row(name, version or "-")
    console.print(packages)
    table = Table(title="What works here", title_justify="left")
    for heading in ("door", "works", "missing"):
        table.add_column(heading)
    for door in diagnosis.doors:
        table.add_row(door.name, "yes" if door.works else "no", ", ".join(door.missing))
    console.print(table)
    # Below the table, unwrapped: a command is there to be copied.
    for door in diagnosis.doors:
        if door.command:
            console.print(
                f"{door.name}: {door.command}", highlight=False, markup=False, soft_wrap=True
            )
    for problem in diagnosis.problems:
        console.print(f"problem: {problem}", highlight=False, markup=False, soft_wrap=True)


def _problems(packages: dict[str, str | None]) -> list[str]:
    cpu, gpu = packages["onnxruntime"], packages["onnxruntime-gpu"]
    problems = []
    if cpu and gpu:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            "`pip uninstall -y onnxruntime onnxruntime-gpu` and install one of "
            '"clinreadnet[cpu]", "clinreadnet[gpu]"'
        )
    if not cpu and not gpu:
        problems.append(
            'no onnxruntime: `clinreadnet score` cannot run; `pip install "clinreadnet[cpu]"`'
        )
    if bool(packages["tensorrt_rtx bindings"]) != bool(packages["tensorrt_rtx libraries"]):
        problems.append(
            'only half of TensorRT-RTX is installed; run `pip install "clinreadnet[tensorrt-rtx]"`'
        )
    return problems


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
