"""Register kernels with TensorRT as quick-deployable plugins (``tensorrt.plugin``).

When TensorRT builds an engine, it queries the output shape, the PTX and the launch of a plugin
once. The engine stores the PTX and the launch as expressions of the shapes, so it needs no Python,
no Triton and no plugin library.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from clinreadnet.errors import CheckFailed, ClinReadNetError
from clinreadnet.export.engines.layers import OWN_PRODUCTS, LayerTypes, check_types
from clinreadnet.export.plugins.kernel import PluginKernel
from clinreadnet.export.plugins.plan import Plan
from clinreadnet.export.plugins.request import PORTABLE
from clinreadnet.kernels.grid import Formula, bound_sizes
from clinreadnet.precision import precision_of
from clinreadnet.runtime.backends.flavours import Flavour

NAMESPACE = "clinreadnet"
"""Namespace of the plugins and domain of their nodes."""

_PLUGIN_LAYER = "PLUGIN_V3"

_current: dict[tuple[str, str], PluginKernel] = {}
"""Kernel of each registered plugin, by module and name. TensorRT cannot deregister a plugin, so a
later build in the same process only replaces the kernel."""


class GraphPlugins:
    """Plugins of a graph.

    Args:
        plan: plan with the plugins and their kernels.
        portable: whether engines are hardware-compatible.
    """

    def __init__(self, plan: Plan, *, portable: bool = False) -> None:
        self.plan, self._portable = plan, portable

    def prepare(self, trt: Any, flavour: Flavour) -> int:
        """Register the plugins for the parser; return the flags of the network.

        Raises:
            ClinReadNetError: this TensorRT does not support plugins that are compiled ahead of
                time.
        """
        self._module = plugin_module(trt, flavour)
        self.register(trt, next(iter(self.plan.kernels)))
        return 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)

    def register(self, trt: Any, target: str) -> None:
        """Register the kernels of a target."""
        kernels = self.plan.of_target(PORTABLE if self._portable else target)
        register_plugins(trt, self._module, kernels)

    def check(self, layers: LayerTypes, precision: str, file: str) -> None:
        """Check that every node of the plan is a plugin layer, and the types of the other layers.

        Raises:
            CheckFailed: TensorRT used a function instead of a plugin, or a type differs.
        """
        wanted = sum(len(node.layers) for node in self.plan.nodes)
        count = sum(layers.get(_PLUGIN_LAYER, {}).values())
        if count != wanted:
            raise CheckFailed(
                f"{file}: {count} of {wanted} nodes became plugins; this TensorRT's parser built "
                "the functions instead"
            )
        own = dict(OWN_PRODUCTS)
        if self.plan.layers("sobel_stem"):  # the kernel includes the Sobel edges
            own["CONVOLUTION"] = 0
        check_types(layers, precision, file, own=own)


def plugin_module(trt: ModuleType, flavour: Flavour) -> Any:
    """Return TensorRT's plugin module.

    Raises:
        ClinReadNetError: this TensorRT does not support plugins that are compiled ahead of time.
    """
    try:
        module = importlib.import_module(f"{trt.__name__}.plugin")
    except ImportError:
        module = None
    if module is None or not hasattr(module, "aot_impl"):
        raise ClinReadNetError(
            f"{flavour.name} {trt.__version__} takes no plugins that are compiled ahead of time; "
            f"TensorRT 10.13 and later do: run {flavour.install}"
        )
    return module


def register_plugins(trt: ModuleType, module: Any, kernels: Mapping[str, PluginKernel]) -> None:
    """Register plugins, or replace the kernels of registered ones.

    Args:
        trt: module of TensorRT.
        module: plugin module of TensorRT.
        kernels: kernel of each plugin, by name.
    """
    for name, kernel in kernels.items():
        key = module.__name__, name
        known = key in _current
        _current[key] = kernel
        if not known:
            _register(trt, module, key, kernel)


def _register(trt: ModuleType, module: Any, key: tuple[str, str], kernel: PluginKernel) -> None:
    plugin = f"{NAMESPACE}::{key[1]}"
    names = [argument.name for argument in kernel.inputs]

    def describe(*tensors: Any) -> Any:
        return _output(trt, module, plugin, _current[key], tensors)

    def implement(*arguments: Any) -> Any:
        return _launch(module, _current[key], arguments[:-2], arguments[-2])

    # TensorRT reads names and types from ``__signature__``, which mypy does not know.
    tensor: Any = module.TensorDesc
    text: Any = str | bytes
    returned: Any = tuple  # of types that are only known at run time
    describe.__signature__ = _signature(  # type: ignore[attr-defined]
        dict.fromkeys(names, tensor), tensor
    )
    implement.__signature__ = _signature(  # type: ignore[attr-defined]
        {**dict.fromkeys(names, tensor), "outputs": returned[tensor], "tactic": int},
        returned[text, text, module.KernelLaunchParams, module.SymExprs],
    )
    module.register(plugin, lazy_register=False)(describe)
    module.aot_impl(plugin)(implement)


def _signature(parameters: Mapping[str, Any], returned: Any) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(name, kind, annotation=annotation)
            for name, annotation in parameters.items()
        ],
        return_annotation=returned,
    )


def _output(
    trt: ModuleType, module: Any, plugin: str, kernel: PluginKernel, tensors: Sequence[Any]
) -> Any:
    """Check the types of the inputs; return the description of the output."""
    for argument, given in zip(kernel.inputs, tensors, strict=True):
        wanted = getattr(trt.DataType, precision_of(str(argument.element)).tensorrt_type)
        if given.dtype != wanted:
            raise ValueError(f"{plugin}: {argument.name} is {given.dtype}, not {wanted}")
    dtype = getattr(trt.DataType, precision_of(str(kernel.output.element)).tensorrt_type)
    shapes = kernel.source.shapes
    for argument, given in zip(kernel.inputs, tensors, strict=True):
        if shapes[argument.name] == shapes["out"]:  # also if the leading dimensions are merged
            described = given.like()
            described.dtype = dtype
            return described
    sizes = _sizes(kernel, tensors)
    shape = tuple(size.at(sizes) if isinstance(size, Formula) else size for size in shapes["out"])
    return module.from_shape_expr(shape, dtype=dtype)


def _launch(
    module: Any, kernel: PluginKernel, tensors: Sequence[Any], outputs: Any
) -> tuple[bytes, bytes, Any, Any]:
    """Return entry, PTX, launch and integers. Shapes are symbolic expressions."""
    launch, sizes = kernel.launch, _sizes(kernel, tensors)
    parameters = module.KernelLaunchParams()
    for axis, grid, block in zip("xyz", (kernel.grid.at(sizes), 1, 1), launch.block, strict=True):
        setattr(parameters, f"grid_{axis}", grid)
        setattr(parameters, f"block_{axis}", block)
    parameters.shared_mem = launch.dynamic_shared_bytes
    extras = tuple(module.SymInt32(sizes[name]) for name in kernel.extras)
    arguments = module.SymIntExprs.from_tuple(extras)
    return launch.entry.encode(), kernel.ptx.encode(), parameters, arguments


def _sizes(kernel: PluginKernel, tensors: Sequence[Any]) -> dict[str, Any]:
    names = [argument.name for argument in kernel.inputs]
    declared = {name: kernel.source.shapes[name] for name in names}
    actual = {name: list(given.shape_expr) for name, given in zip(names, tensors, strict=True)}
    return bound_sizes(declared, actual)
