"""A stand-in for the part of TensorRT that builds plugins: it calls what TensorRT calls.

It drives the real Python classes of ``tensorrt.plugin`` (creators, plugins, expressions) in the
order of TensorRT's builder. Only TensorRT's own objects are stood in for: its plugin registry, and
the integers of a shape, which here have values at once.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_TACTIC = 0


class Dimension:
    """Stands for ``IDimensionExpr``; not constant, as a dynamic batch is."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return False

    def get_constant_value(self) -> int:
        raise AssertionError("a plugin must not read the value of a dynamic size")

    def is_size_tensor(self) -> bool:
        return False


class ExpressionBuilder:
    """Stands for ``IExprBuilder``."""

    def __init__(self, trt: Any) -> None:
        kinds = trt.DimensionOperation
        self._functions = {
            kinds.SUM: lambda a, b: a + b,
            kinds.SUB: lambda a, b: a - b,
            kinds.PROD: lambda a, b: a * b,
            kinds.FLOOR_DIV: lambda a, b: a // b,
            kinds.CEIL_DIV: lambda a, b: -(-a // b),
        }

    def constant(self, value: int) -> Dimension:
        return Dimension(value)

    def operation(self, kind: Any, a: Dimension, b: Dimension) -> Dimension:
        return Dimension(self._functions[kind](a.value, b.value))


class Registry:
    """Stands for ``IPluginRegistry``."""

    def __init__(self) -> None:
        self._creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> None:
        self._creators[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self._creators.get((name, version, namespace))


@dataclass
class TensorDescription:
    """Stands for ``DynamicPluginTensorDesc``; it is its own ``desc``."""

    dims: tuple[int, ...]
    type: Any
    format: Any
    scale: float = 1.0

    @property
    def desc(self) -> TensorDescription:
        return self


@dataclass
class LaunchParameters:
    """Stands for ``IKernelLaunchParams``: gets symbolic integers."""

    grid_x: Any = None
    grid_y: Any = None
    grid_z: Any = None
    block_x: Any = None
    block_y: Any = None
    block_z: Any = None
    shared_mem: Any = None


@dataclass
class Integers:
    """Stands for ``ISymExprs``."""

    nbSymExprs: int = 0
    values: dict[int, Any] = field(default_factory=dict)

    def __setitem__(self, index: int, value: Any) -> None:
        assert index < self.nbSymExprs
        self.values[index] = value


@dataclass(frozen=True)
class Built:
    """The part of a plugin that TensorRT stores in an engine, for one set of shapes."""

    entry: str
    ptx: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    integers: tuple[int, ...]
    out_shape: tuple[int, ...]
    out_type: Any


def import_binding(name: str) -> Any:
    """Import a real binding and stand in for TensorRT's own objects."""
    trt: Any = importlib.import_module(name)
    sys.modules["tensorrt"] = trt
    registry = Registry()

    class Dimensions(list[Any]):
        def __init__(self, count: int) -> None:
            super().__init__([None] * count)

    class Integer:
        def __init__(self, expression: Any) -> None:
            self.expr = expression._expr

    trt.get_plugin_registry = lambda: registry
    trt.IDimensionExpr = Dimension
    trt.DimsExprs = Dimensions
    trt.DynamicPluginTensorDesc = TensorDescription
    tensors: Any = importlib.import_module(f"{name}.plugin._tensor")
    tensors.SymExprImpl = Integer
    module = importlib.import_module(f"{name}.plugin")
    sys.modules["tensorrt.plugin"] = module
    return trt


def build(
    trt: types.ModuleType,
    name: str,
    namespace: str,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[Any],
) -> Built:
    """Create a plugin as the ONNX parser does for a node with ``aot=1``, and ask it for its launch.

    Raises:
        LookupError: the registry has no such plugin.
    """
    creator = trt.get_plugin_registry().get_creator(name, "1", namespace)
    if creator is None:
        raise LookupError(f"{namespace}::{name} is not registered")
    plugin = creator.create_plugin(
        name, namespace, [], trt.TensorRTPhase.BUILD, trt.QuickPluginCreationRequest.STRICT_AOT
    )
    assert plugin.get_num_outputs() == 1
    (out_type,) = plugin.get_output_data_types(list(dtypes), [len(shape) for shape in shapes])
    builder = ExpressionBuilder(trt)
    given = [[Dimension(value) for value in shape] for shape in shapes]
    (out,) = plugin.get_output_shapes(given, [], builder)
    out_shape = tuple(size.value for size in out)
    linear = trt.TensorFormat.LINEAR
    tensors = [
        TensorDescription(tuple(shape), dtype, linear)
        for shape, dtype in [*zip(shapes, dtypes, strict=True), (out_shape, out_type)]
    ]
    wanted = plugin.get_supported_format_combinations(tensors, len(shapes))
    assert [(w.type, w.format) for w in wanted] == [(t.type, t.format) for t in tensors]
    plugin.configure_plugin(tensors[:-1], tensors[-1:])
    assert plugin.get_valid_tactics() == []
    plugin.set_tactic(_TACTIC)
    launch, integers = LaunchParameters(), Integers()
    plugin.get_launch_params(given, tensors, len(shapes), launch, integers, builder)
    entry, ptx = plugin.get_kernel(tensors[:-1], tensors[-1:])

    def axes(what: str) -> Any:
        return tuple(getattr(launch, f"{what}_{axis}").expr.value for axis in "xyz")

    return Built(
        entry=entry.decode(),
        ptx=ptx.decode(),
        grid=axes("grid"),
        block=axes("block"),
        shared=launch.shared_mem.expr.value,
        integers=tuple(integers.values[i].expr.value for i in range(integers.nbSymExprs)),
        out_shape=out_shape,
        out_type=out_type,
    )
