"""Build TensorRT engines from an ONNX graph, with the same code for all flavours of TensorRT.

Differences between flavours are data (`clinreadnet.runtime.backends.flavours`). Networks are
strongly typed: the precision is a property of the graph, and builder flags cannot change it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, TaskID

from clinreadnet import limits
from clinreadnet.errors import ClinReadNetError, InputError, first_line
from clinreadnet.export.engines.layers import (
    check_built,
    check_types,
    fused_attentions,
    layer_types,
    layers_path,
    listed_layers,
)
from clinreadnet.export.engines.options import (
    BuildOptions,
    check_batch,
    check_options,
    resolve_targets,
)
from clinreadnet.files import read_regular, whole_file
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.flavours import collecting_logger, load_flavour
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.spec import SIZE

if TYPE_CHECKING:  # needs Triton, which is only required for plugins
    from clinreadnet.export.plugins.register import GraphPlugins


class EngineBuilder:
    """A parsed graph, ready to be built for any number of targets.

    Attributes:
        flavour: flavour of TensorRT.
        version: version of the TensorRT package.
        graph: path of the ONNX file.
        precision: precision of the engines.
        network: parsed network, TensorRT's `INetworkDefinition`.
        layers: layers of the parsed network, counted by kind and type.
    """

    def __init__(
        self,
        graph: str | os.PathLike[str],
        *,
        precision: str,
        flavour: str,
        islands: dict[str, int] | None = None,
        plugins: GraphPlugins | None = None,
    ) -> None:
        """Parse ``graph`` into a strongly typed network and check its types.

        Args:
            graph: an ONNX file written by `export_onnx`.
            precision: the graph's precision, or one that is built from it, such as "tf32".
            flavour: name of the flavour.
            islands: number of products that `--fp32-islands auto` kept in float32, by kind.
            plugins: kernels of the graph's plugins; None for a graph without plugins.

        Raises:
            FlavourMissing: the flavour is not installed.
            InputError: the parser rejects the graph. The message names the node.
            CheckFailed: the network has another precision, or a plugin node was not built as a
                plugin.
            ClinReadNetError: this TensorRT does not support plugins.
        """
        self.flavour, self._trt = load_flavour(flavour)
        trt = self._trt
        self.precision = precision
        self.graph = Path(graph)
        self.version = str(trt.__version__)
        self._messages: list[str] = []
        self._listings: list[str] = []
        self._built: dict[str, dict[str, Any]] = {}
        # References keep these objects alive as long as the builder.
        self._logger = collecting_logger(trt, self._messages, self._listings)
        self._builder = trt.Builder(self._logger)
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._plugins = plugins
        if plugins is not None:
            flags |= plugins.prepare(trt, self.flavour)
        self.network = self._builder.create_network(flags)
        self._parser = trt.OnnxParser(self.network, self._logger)
        if not self._parser.parse_from_file(str(self.graph)):
            reason = parser_error(self._parser) if self._parser.num_errors else "cannot parse it"
            raise InputError(f"{self.graph}: {self.flavour.name} {reason}")
        self.layers = layer_types(self.network)
        if plugins is None:
            check_types(self.layers, precision, str(self.graph), islands)
        else:
            plugins.check(self.layers, precision, str(self.graph))

    def build(
        self,
        target: str,
        batch: BatchRange,
        bar: Progress | None = None,
        options: BuildOptions | None = None,
    ) -> bytes:
        """Build the engine of a target.

        Args:
            target: architecture, such as ``sm89``.
            batch: the optimisation profile.
            bar: progress display for the phases of the build.
            options: build options.

        Returns:
            The bytes of the engine.

        Raises:
            InputError: the flavour does not support a target or an option, or the profile is not 1
                <= min <= opt <= max within the graph's batch.
            ClinReadNetError: the builder failed. The message is its first error.
        """
        options = options or BuildOptions()
        if self._plugins is not None:
            self._plugins.register(self._trt, target)
        config = self.configure(target, batch, options)
        monitor = _monitor(self._trt, bar, target) if bar is not None else None
        config.progress_monitor = monitor
        self._messages.clear()
        self._listings.clear()
        engine = self._builder.build_serialized_network(self.network, config)
        if monitor is not None and monitor.interrupted:
            raise KeyboardInterrupt
        if engine is None:
            reason = self._messages[0] if self._messages else "no reason given"
            raise ClinReadNetError(
                f"{self.graph}: {self.flavour.name} built no {target} engine ({reason})"
            )
        self._built[target] = listed_layers("".join(self._listings[-1:]))
        if options.timing_cache is not None:
            with whole_file(options.timing_cache) as temporary:
                temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
        return bytes(engine)

    def configure(self, target: str, batch: BatchRange, options: BuildOptions) -> Any:
        """Return the builder configuration of a target; arguments and errors as in `build`."""
        check_options(options, self.flavour)
        resolve_targets((target,), self.flavour)
        check_batch(batch)
        static = self.network.get_input(0).shape[0]
        if static != -1 and batch != BatchRange(static, static, static):
            raise InputError(
                f"batch={batch}: {self.graph} has a fixed batch of {static}; "
                f"give {static}:{static}:{static}"
            )
        trt = self._trt
        config = self._builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        # TF32 is on by default, and its error exceeds the fp32 budget.
        if not PRECISIONS[self.precision].tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if self.flavour.targets:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.strip_weights:
            config.set_flag(trt.BuilderFlag.STRIP_PLAN)
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.workspace_mib is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
        if options.platform is not None:
            wanted = trt.RuntimePlatform.WINDOWS_AMD64
            config.runtime_platform = wanted
            if (
                config.runtime_platform != wanted
            ):  # TensorRT ignores an unsupported platform without an exception
                raise InputError(
                    f"platform={options.platform}: {self.flavour.name} {self.version} does not "
                    "build for it on this machine; export on that platform"
                )
        if options.timing_cache is not None:
            self._read_timing_cache(config, options.timing_cache)
        profile = self._builder.create_optimization_profile()
        profile.set_shape("hu", *((n, 1, SIZE, SIZE) for n in (batch.min, batch.opt, batch.max)))
        config.add_optimization_profile(profile)
        return config

    def inspect(self, engine: bytes) -> dict[str, Any]:
        """Load an engine on this machine's GPU and return the report of TensorRT's inspector.

        Raises:
            ClinReadNetError: the engine does not load on this machine. The message is that of
                TensorRT.
        """
        self._messages.clear()
        runtime = self._trt.Runtime(self._logger)
        # A version-compatible engine contains code of the lean runtime; this engine was built here.
        runtime.engine_host_code_allowed = True
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            reason = self._messages[0] if self._messages else "no reason given"
            raise ClinReadNetError(f"{self.graph}: its engine does not load ({reason})")
        inspector = loaded.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        inspected: dict[str, Any] = json.loads(text)
        return inspected

    def write(
        self,
        engine: bytes,
        path: str | os.PathLike[str],
        target: str,
        batch: BatchRange,
        options: BuildOptions | None = None,
    ) -> Path:
        """Write an engine and the report of its layer types, ``<engine>.layers.json``.

        If this machine has a GPU of ``target``, the report includes that of the inspector,
        otherwise the layers that the builder listed.

        Returns:
            Path of the report.

        Raises:
            CheckFailed: the built layers have another precision.
        """
        path = Path(path)
        # An engine without weights cannot be loaded.
        stripped = options is not None and options.strip_weights
        here = any(gpu.target == target for gpu in find_gpus()) and not stripped
        inspected = self.inspect(engine) if here else None
        found_layers = inspected or self._built.get(target, {})
        built = check_built(found_layers, self.precision, path.name)
        proof = {
            "engine": path.name,
            "flavour": self.flavour.name,
            "version": self.version,
            "target": target,
            "precision": self.precision,
            "batch": [batch.min, batch.opt, batch.max],
            "counted": "layers of the strongly typed network, by kind and type of their output",
            "total": sum(sum(types.values()) for types in self.layers.values()),
            "layers": self.layers,
            "built": dict(built),
            "launches": len(found_layers.get("Layers", ())),
            "fused_attentions": fused_attentions(found_layers),
            "inspector": inspected,
        }
        report = layers_path(path)
        with whole_file(report) as temporary:
            temporary.write_text(json.dumps(proof, indent=2) + "\n", encoding="utf-8")
        with whole_file(path) as temporary:
            temporary.write_bytes(engine)
        return report

    def _read_timing_cache(self, config: Any, path: Path) -> None:
        content = read_regular(path, limits.BUNDLE_FILE) if path.exists() else b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            raise InputError(
                f"{path}: no timing cache of this GPU and {self.flavour.name} {self.version}; "
                "delete it or name another file"
            )


def parser_error(parser: Any) -> str:
    """Return the first error of a TensorRT parser as one line."""
    error = parser.get_error(0)
    reason = first_line(error.desc())
    return f"refuses node {error.node_name() or error.node()} ({error.node_operator()}): {reason}"


def _monitor(trt: Any, bar: Progress, title: str) -> Any:
    """Return a TensorRT progress monitor that shows the innermost phase of each thread."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = False
            self._tasks: dict[str, TaskID] = {}

        # TensorRT calls this from its threads; rich locks the display.
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
            # An exception must not pass through TensorRT's C++ frames. The build ends at the next
            # step.
            try:
                show()
            except KeyboardInterrupt:
                self.interrupted = True

    return Monitor()
