"""ONNX graph to TensorRT engines, one for each target GPU architecture.

TensorRT-RTX builds ahead of time on a machine without a GPU. Precision is the graph's own: the
network is strongly typed, and what the parser made of it is counted and checked before the build.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from clinreadnet.errors import CheckFailed, ClinReadNetError, InputError
from clinreadnet.grading import SIZE
from clinreadnet.output import whole_file
from clinreadnet.runtime.manifest import BatchRange

LayerTypes = dict[str, dict[str, int]]
"""Number of network layers by kind and by type of their output: {"CONVOLUTION": {"HALF": 2}}."""


@dataclass(frozen=True)
class Flavour:
    """What differs between TensorRT's Python packages."""

    name: str
    """As the manifest writes it."""
    modules: tuple[str, ...]
    """Import names, tried in turn: the wheels on the package index install the second alone."""
    install: str
    suffix: str
    """End of an engine's file name, after the target."""
    targets: tuple[str, ...]
    """Architectures it builds for without a GPU."""


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour(
            name="tensorrt-rtx",
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            install='pip install "clinreadnet[tensorrt-rtx]"',
            suffix=".rtx.engine",
            targets=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
        ),
    )
}

DEFAULT_TARGETS = ("sm86", "sm89", "sm120")
"""GeForce and RTX of the last three generations: 30, 40 and 50."""

DEFAULT_BATCH = BatchRange(1, 4, 16)

_PRODUCT_TYPE = {"fp32": "FLOAT", "fp16": "HALF"}
_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION")
_FLOAT32_KINDS = ("NORMALIZATION", "SOFTMAX", "REDUCE", "UNARY")
"""The float32 islands: LayerNorm, the softmaxes and their exponentials and sums, the mixture."""
_FLOAT32_CONVOLUTIONS = 1
"""The Sobel edges."""


class FlavourMissing(InputError):
    """The TensorRT package is not installed."""


def check_targets(targets: tuple[str, ...], flavour: Flavour) -> None:
    """Refuse architectures the flavour cannot build for.

    Raises:
        InputError: unknown target; the message lists the known ones.
    """
    for target in targets:
        if target not in flavour.targets:
            raise InputError(
                f"unknown target {target!r}; {flavour.name} knows {', '.join(flavour.targets)}"
            )


def check_batch(batch: BatchRange) -> None:
    """Refuse a profile that is not 1 <= min <= opt <= max.

    Raises:
        InputError: saying which profile.
    """
    if not 1 <= batch.min <= batch.opt <= batch.max:
        raise InputError(f"batch {batch.min}:{batch.opt}:{batch.max}: needs 1 <= MIN <= OPT <= MAX")


def load_flavour(flavour: Flavour) -> Any:
    """Import the flavour's Python module.

    Raises:
        FlavourMissing: not installed, or its libraries do not load; the message says what to do.
    """
    for name in flavour.modules:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise FlavourMissing(f"{name} needs {error.name}; run {flavour.install}") from None
        except ImportError as error:
            raise FlavourMissing(f"{name} does not load ({error}); run {flavour.install}") from None
    raise FlavourMissing(f"{flavour.name} is not installed; run {flavour.install}")


class EngineBuilder:
    """A parsed graph, ready to be built for any number of targets.

    Attributes:
        version: version of the TensorRT package.
        layers: what the parser made of the graph.
    """

    def __init__(self, graph: str | os.PathLike[str], *, precision: str, flavour: Flavour) -> None:
        """Parse ``graph`` into a strongly typed network and check its types.

        Args:
            graph: an ONNX file written by `export_onnx`.
            precision: the graph's precision.
            flavour: which TensorRT.

        Raises:
            FlavourMissing: the flavour is not installed.
            InputError: the parser refuses the graph; the message names the node.
            CheckFailed: the network is not of ``precision``.
        """
        self._trt = trt = load_flavour(flavour)
        self._flavour = flavour
        self._precision = precision
        self._graph = Path(graph)
        self.version = str(trt.__version__)
        self._messages: list[str] = []
        # Everything below must outlive the builder, so it is kept.
        self._logger = _logger(trt, self._messages)
        self._builder = trt.Builder(self._logger)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(flags)
        self._parser = trt.OnnxParser(self._network, self._logger)
        if not self._parser.parse_from_file(str(self._graph)):
            raise InputError(f"{self._graph}: {self._parser_error()}")
        self.layers = layer_types(self._network)
        check_types(self.layers, precision, str(self._graph))

    def build(self, target: str, batch: BatchRange, bar: Progress | None = None) -> bytes:
        """Build the engine of one target.

        Args:
            target: architecture, such as ``sm89``.
            batch: the optimisation profile.
            bar: progress display to add the builder's phases to.

        Returns:
            The plain engine.

        Raises:
            InputError: unknown target, or a profile that is not 1 <= min <= opt <= max.
            ClinReadNetError: the builder failed; the message is its first error.
        """
        config = self.configure(target, batch)
        monitor = _monitor(self._trt, bar, target) if bar is not None else None
        config.progress_monitor = monitor
        self._messages.clear()
        engine = self._builder.build_serialized_network(self._network, config)
        if monitor is not None and monitor.interrupted:
            raise KeyboardInterrupt
        if engine is None:
            reason = self._messages[0] if self._messages else "no reason given"
            raise ClinReadNetError(
                f"{self._graph}: {self._flavour.name} built no {target} engine ({reason})"
            )
        return bytes(engine)

    def configure(self, target: str, batch: BatchRange) -> Any:
        """Return the builder configuration of one target; arguments and errors as `build`."""
        check_targets((target,), self._flavour)
        check_batch(batch)
        config = self._builder.create_builder_config()
        # On by default, and far from float32: the fp32 budget would not hold.
        config.clear_flag(self._trt.BuilderFlag.TF32)
        config.num_compute_capabilities = 1
        capability = getattr(self._trt.ComputeCapability, target.upper())
        config.set_compute_capability(capability, 0)
        profile = self._builder.create_optimization_profile()
        profile.set_shape("hu", *((n, 1, SIZE, SIZE) for n in (batch.min, batch.opt, batch.max)))
        config.add_optimization_profile(profile)
        return config

    def write(
        self, engine: bytes, path: str | os.PathLike[str], target: str, batch: BatchRange
    ) -> None:
        """Write the engine, and beside it the proof of its types, ``<engine>.layers.json``."""
        path = Path(path)
        proof = {
            "engine": path.name,
            "flavour": self._flavour.name,
            "version": self.version,
            "target": target,
            "precision": self._precision,
            "batch": [batch.min, batch.opt, batch.max],
            "counted": "layers of the strongly typed network, by kind and type of their output",
            "total": sum(sum(types.values()) for types in self.layers.values()),
            "layers": self.layers,
        }
        with whole_file(layers_path(path)) as temporary:
            temporary.write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
        with whole_file(path) as temporary:
            temporary.write_bytes(engine)

    def _parser_error(self) -> str:
        if not self._parser.num_errors:
            return f"{self._flavour.name} cannot parse it"
        error = self._parser.get_error(0)
        reason = str(error.desc()).splitlines()[0]
        return (
            f"{self._flavour.name} refuses node {error.node_name() or error.node()} "
            f"({error.node_operator()}): {reason}"
        )


def layers_path(engine: Path) -> Path:
    """Return where the proof of an engine's types stands."""
    return engine.with_name(engine.name.removesuffix(".engine") + ".layers.json")


def layer_types(network: Any) -> LayerTypes:
    """Count the layers of a TensorRT network by kind and by type of their first output."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        counts[layer.type.name][layer.get_output(0).dtype.name] += 1
    return {kind: dict(sorted(types.items())) for kind, types in sorted(counts.items())}


def check_types(layers: LayerTypes, precision: str, file: str) -> None:
    """Check that products run in ``precision`` and the float32 islands in float32.

    An engine that silently became float32 would still pass every numerical check.

    Args:
        layers: of the network.
        precision: "fp32" or "fp16".
        file: named in errors.

    Raises:
        CheckFailed: some layers have another type, saying which.
    """
    wanted = _PRODUCT_TYPE[precision]
    for kind in _PRODUCTS:
        types = dict(layers.get(kind, {}))
        if kind == "CONVOLUTION" and wanted != "FLOAT":
            types["FLOAT"] = types.get("FLOAT", 0) - _FLOAT32_CONVOLUTIONS
        others = {name: count for name, count in types.items() if name != wanted and count}
        if others or not types.get(wanted):
            raise CheckFailed(
                f"{file}: {kind} layers are {layers.get(kind, {})}, not {wanted}; "
                f"this is no {precision} network"
            )
    for kind in _FLOAT32_KINDS:
        if set(layers.get(kind, {})) - {"FLOAT"}:
            raise CheckFailed(f"{file}: {kind} layers are {layers[kind]}, must be FLOAT")


def _logger(trt: Any, messages: list[str]) -> Any:
    """Return a TensorRT logger that collects errors and says nothing."""

    class Collector(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(message.splitlines()[0])

    return Collector()


def _monitor(trt: Any, bar: Progress, title: str) -> Any:
    """Return a TensorRT progress monitor that shows the innermost running phase of each thread."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._tasks: dict[str, TaskID] = {}

        # Called from TensorRT's threads; rich's own lock covers the display.
        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self._guard(
                lambda: self._tasks.update({name: bar.add_task(f"{title} {name}", total=steps)})
            )

        def step_complete(self, name: str, step: int) -> bool:
            self._guard(lambda: bar.update(self._tasks[name], completed=step + 1))
            return not self.interrupted

        def phase_finish(self, name: str) -> None:
            self._guard(lambda: bar.remove_task(self._tasks.pop(name)))

        def _guard(self, show: Callable[[], None]) -> None:
            # An exception must not cross TensorRT's C++ frames; the build ends at the next step.
            try:
                show()
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()
