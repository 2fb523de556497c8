"""The table of TensorRT's Python packages (flavours), and their import.

The builder and the runtime share this table. It imports neither torch nor TensorRT. A test compares
`options` with the Python binding of each package (docs/export.md).
"""

from __future__ import annotations

import importlib
from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from clinreadnet.errors import InputError, first_line

FlavourName = Literal["tensorrt", "tensorrt-rtx"]
"""Name of a flavour in the manifest and on the command line."""

Option = Literal[
    "version_compatible",
    "hardware_compatible",
    "strip_weights",
    "timing_cache",
    "optimization_level",
    "workspace_mib",
    "platform",
]
"""Build options: fields of `clinreadnet.export.engines.options.BuildOptions`."""


@dataclass(frozen=True)
class Flavour:
    """One major version of one of TensorRT's packages."""

    name: FlavourName
    major: int
    """Major version of the package."""
    modules: tuple[str, ...]
    """Import names, in order: wheels without the meta package have only the second."""
    lean_modules: tuple[str, ...]
    """Import names of the lean runtime for version-compatible engines; may be empty."""
    install: str
    """Command that installs the package."""
    suffix: str
    """Suffix of an engine's file name, after the target."""
    targets: tuple[str, ...]
    """Architectures that it builds for without a GPU; empty: only for this machine's GPU."""
    options: frozenset[Option]
    """Supported build options."""
    gpu_options: frozenset[Option] = frozenset()
    """Options that need a GPU even if the targets do not."""
    plugins: bool = False
    """Whether it supports plugins that are compiled ahead of time."""
    reports_validity: bool = False
    """Whether ``Runtime.get_engine_validity`` checks an engine's header."""

    @property
    def title(self) -> str:
        """Name and major version, such as ``tensorrt 11.x``."""
        return f"{self.name} {self.major}.x"


def _tensorrt(major: int) -> Flavour:
    return Flavour(
        name="tensorrt",
        major=major,
        modules=("tensorrt", "tensorrt_bindings"),
        lean_modules=("tensorrt_lean", "tensorrt_lean_bindings"),
        install='pip install "clinreadnet[tensorrt]"',
        suffix=".engine",
        targets=(),
        plugins=True,
        options=frozenset(get_args(Option)),
    )


FLAVOURS = (
    _tensorrt(10),
    _tensorrt(11),
    Flavour(
        name="tensorrt-rtx",
        major=1,
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        lean_modules=(),
        install='pip install "clinreadnet[tensorrt-rtx-build]"',  # installs without CUDA's headers
        suffix=".rtx.engine",
        targets=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
        options=frozenset(("strip_weights", "optimization_level", "workspace_mib")),
        gpu_options=frozenset(("strip_weights",)),
        reports_validity=True,
    ),
)
"""All flavours; the newest major version of a name is last."""


class FlavourMissing(InputError):
    """The TensorRT package is not installed, does not load, or has an unknown major version."""


def newest(name: str) -> Flavour:
    """Return the newest major version of a flavour, installed or not.

    Raises:
        InputError: unknown name.
    """
    flavours = [flavour for flavour in FLAVOURS if flavour.name == name]
    if not flavours:
        known = ", ".join(dict.fromkeys(flavour.name for flavour in FLAVOURS))
        raise InputError(f"unknown flavour {name!r}; known: {known}")
    return flavours[-1]


def load_flavour(name: str, *, lean: bool = False) -> tuple[Flavour, Any]:
    """Import the Python package of a flavour and select its row by its version.

    Args:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        lean: import the lean runtime's package instead.

    Returns:
        The flavour and the imported module.

    Raises:
        InputError: unknown name.
        FlavourMissing: not installed, its libraries do not load, or its version is not in the
            table.
    """
    known = newest(name)
    module = _import(known, known.lean_modules if lean else known.modules)
    version = str(module.__version__)
    for flavour in FLAVOURS:
        if flavour.name == name and version.split(".")[0] == str(flavour.major):
            return flavour, module
    majors = " or ".join(f"{f.major}.x" for f in FLAVOURS if f.name == name)
    raise FlavourMissing(f"{name} {version} is installed, {majors} is needed; run {known.install}")


def collecting_logger(
    trt: Any, messages: MutableSequence[str], layers: MutableSequence[str] | None = None
) -> Any:
    """Return a TensorRT logger that collects the first line of each error and prints nothing.

    Args:
        trt: module of a flavour.
        messages: list that receives the lines.
        layers: list that receives the builder's listings of the layers of an engine.
    """

    class Collector(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(first_line(message))
            elif layers is not None and message.startswith("Layers:"):
                layers.append(message)

    return Collector()


def _import(flavour: Flavour, modules: tuple[str, ...]) -> Any:
    for module in modules:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise FlavourMissing(
                    f"{module} needs {error.name}; run {flavour.install}"
                ) from None
        except ImportError as error:
            raise FlavourMissing(
                f"{module} does not load ({first_line(error)}); run {flavour.install}"
            ) from None
    raise FlavourMissing(f"{flavour.name} is not installed; run {flavour.install}")
