"""Report what this machine can build and run, and how to install missing packages.

Versions are read from the metadata of distributions, without importing packages.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib import metadata

from rich.console import Console
from rich.table import Table

from clinreadnet._version import __version__
from clinreadnet.backends import BACKENDS, CPU_ENGINE
from clinreadnet.console import print_lines
from clinreadnet.library import engine_version, remedy
from clinreadnet.runtime.gpu import Gpu, driver_version, find_gpus

_OTHER_NAMES = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx bindings": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings"),
    "tensorrt_rtx libraries": ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu12-libs"),
    "triton": ("triton", "triton-windows"),
}
"""Distributions of the packages that are not named like their only distribution."""
# fmt: off
_PACKAGES = (
    "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt_rtx bindings", "tensorrt_rtx libraries", "pycuda", "cryptography", "triton", "numba",
    "scikit-image", "scipy", "safetensors", "matplotlib", "highdicom", "pynetdicom",
    "prometheus-client", "pyarrow", "ray", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg",
)
# fmt: on
DISTRIBUTIONS = {name: _OTHER_NAMES.get(name, (name,)) for name in _PACKAGES}
"""Packages in the order of the table, with the distributions that provide each."""

ENGINE = CPU_ENGINE
"""Listed with its version and instruction set."""


@dataclass(frozen=True)
class Feature:
    """A feature and its requirements.

    Attributes:
        name: name of the feature.
        works: whether this machine meets all requirements.
        missing: missing requirements.
        command: command that installs the missing packages; empty if none is missing.
    """

    name: str
    works: bool
    missing: list[str]
    command: str


@dataclass(frozen=True)
class Diagnosis:
    """Machine, package versions (None if not installed) and features."""

    clinreadnet: str
    python: str
    platform: str
    driver: str | None
    gpus: list[Gpu]
    packages: dict[str, str | None]
    features: list[Feature]
    problems: list[str] = field(default_factory=list)


def diagnose() -> Diagnosis:
    """Inspect this machine. Missing packages are part of the result, not an error."""
    packages = {
        name: next((v for v in map(_version, distributions) if v), None)
        for name, distributions in DISTRIBUTIONS.items()
    }
    packages[ENGINE] = engine_version()
    gpus = find_gpus()
    return Diagnosis(
        clinreadnet=__version__,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        driver=driver_version(),
        gpus=gpus,
        packages=packages,
        features=features(packages, has_gpu=bool(gpus)),
        problems=find_problems(packages),
    )


def features(packages: dict[str, str | None], *, has_gpu: bool) -> list[Feature]:
    """Return all features and whether they work with the given packages.

    Args:
        packages: versions by the names of `Diagnosis.packages`; None if not installed.
        has_gpu: whether a GPU is visible.
    """
    installed = {name for name, version in packages.items() if version}

    def feature(name: str, needs: tuple[str, ...], command: str, gpu: bool = False) -> Feature:
        lacking = [need for need in needs if not installed & set(need.split(" or "))]
        missing = lacking + (["an NVIDIA GPU"] if gpu and not has_gpu else [])
        return Feature(name, not missing, missing, command if lacking else "")

    runtime = "onnxruntime or onnxruntime-gpu"
    network = ("torch", "safetensors")
    simulator = ("numba", "scikit-image", "scipy")
    export = (*network, "onnx", "onnxscript", *simulator, runtime)
    extra = 'pip install "clinreadnet[{}]"'.format
    rtx = ("tensorrt_rtx bindings", "tensorrt_rtx libraries")
    node = ("highdicom", "pynetdicom", "prometheus-client", "cryptography")
    jpeg = ("pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-libjpeg")
    # Both distributions contain the module `onnxruntime` and must not be installed together.
    swap = "pip uninstall -y onnxruntime && " if "onnxruntime" in installed else ""
    ort = "gpu" if "onnxruntime-gpu" in installed else "cpu"
    return [
        *(
            feature(
                f"score with {row.title}",
                row.packages,
                (swap if row.extra == "gpu" else "") + extra(row.extra) if row.extra else remedy(),
                not row.on_cpu,
            )
            for row in sorted(BACKENDS.values(), key=lambda row: not row.on_cpu)
        ),
        feature("sign bundles, trusted keys", ("cryptography",), extra("sign")),
        feature("score --plot, --pdf", ("matplotlib",), extra("plot")),
        feature("score --sr, --map", ("highdicom",), extra("dicom")),
        feature("listen", (runtime, *node), extra(f"{ort},node")),
        feature("score compressed DICOM", jpeg, f"pip install {' '.join(jpeg)}"),
        feature("score archives on Ray", (runtime, "ray", "pyarrow"), extra(f"{ort},ray")),
        feature("simulate", simulator, extra("simulate")),
        feature("train, evaluate", (*network, *simulator), extra("train")),
        feature("export and verify ONNX", export, extra(f"export,{ort}")),
        feature(
            "build TensorRT-RTX engines", (*export, *rtx), extra(f"export,{ort},tensorrt-rtx-build")
        ),
        feature("Triton kernels", (*network, "triton"), extra("kernels,train"), True),
    ]


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the machine, the packages, the features and the problems."""
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
    packages.add_column("package", overflow="fold")
    packages.add_column("version", overflow="fold")
    for name, version in diagnosis.packages.items():
        packages.add_row(name, version or "-")
    console.print(packages)
    table = Table(title="What works here", title_justify="left")
    for heading in ("feature", "works", "missing"):
        table.add_column(heading, overflow="fold")
    for feature in diagnosis.features:
        table.add_row(feature.name, "yes" if feature.works else "no", ", ".join(feature.missing))
    console.print(table)
    # Below the table and unwrapped, so that the commands can be copied.
    for feature in diagnosis.features:
        if feature.command:
            print_lines(console, f"{feature.name}: {feature.command}")
    for problem in diagnosis.problems:
        print_lines(console, f"problem: {problem}")


def find_problems(packages: dict[str, str | None]) -> list[str]:
    """Return what is wrong with packages that are installed beside each other, a line each."""
    cpu, gpu = packages["onnxruntime"], packages["onnxruntime-gpu"]
    problems = []
    if cpu and gpu:
        problems.append(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            "`pip uninstall -y onnxruntime onnxruntime-gpu` and install one of "
            '"clinreadnet[cpu]", "clinreadnet[gpu]"'
        )
    if not cpu and not gpu and not packages[ENGINE]:
        problems.append(
            "no CPU engine and no onnxruntime: `clinreadnet score` cannot run; "
            '`pip install "clinreadnet[cpu]"`'
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
