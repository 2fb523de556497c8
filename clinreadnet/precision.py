"""The table of precisions: name, error budgets, source graph and types of each.

Types are given as names. Each user looks them up in torch, onnx or TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinreadnet.errors import InputError
from clinreadnet.spec import GRADE_RANGE


@dataclass(frozen=True)
class Limits:
    """Limits on the difference of outputs from the float64 reference.

    Attributes:
        error: largest relative error of an output over all slices.
        slice_error: largest error of an output of a single slice, relative to its usual norm.
        tile: largest difference of a tile of a quality map, in grades.
        novelty: largest relative difference of a slice's novelty.
    """

    error: float
    tile: float = float("inf")
    novelty: float = float("inf")
    slice_error: float = float("inf")


SLICE_SLACK = 2.0
"""Factor on the error budget for a single slice, which averages over fewer values."""


@dataclass(frozen=True)
class Precision:
    """A row of the table.

    Attributes:
        name: name in manifests, in file names and on the command line.
        budget: largest relative error of an output against the float64 reference.
        novelty_budget: largest relative difference of a slice's novelty. It is at least twice the
            error of a float64 oracle with weights and tensors rounded to the precision, and of
            PyTorch with float32 sums. 8-bit graphs use the float16 budget, because no layer before
            the novelty is quantised.
        metric_budget: largest difference from the reference of PLCC, SROCC and KROCC, and of the
            correlation of quality maps with tile labels.
        source: precision of the graph that this one is converted from; None if PyTorch exports it.
        has_graph: whether it has its own ONNX graph. Otherwise engines are built from the graph of
            ``source``.
        opset: ONNX operator set of the graph. 20 is the first with Gelu, 22 the first whose Conv
            takes bfloat16.
        item_size: least size of a weight or an activation in bytes.
        wider: precision that a machine may use instead if it is faster there.
        reduced: whether the graph has 16-bit tensors, which CPUs compute in float32.
        runs_on_cpu: whether ONNX Runtime's CPU provider runs the unchanged graph.
        native_on_cpu: whether processors have instructions for its products.
        tf32: whether factors of float32 products may be rounded to TF32.
        torch_dtype: name of the type of weights and activations in torch.
        onnx_type: name of that type in ``onnx.TensorProto``.
        tensorrt_type: name of the type of the products' outputs in ``tensorrt.DataType``.
        quantized_type: name of the type between quantise and dequantise layers in
            ``tensorrt.DataType``; None without such layers.
        built_pattern: regular expression for the type in the report of TensorRT's inspector.
        dynamic: whether scales of 8-bit products are computed in each run. ONNX Runtime's CPU
            provider supports this; CUDA and TensorRT do not.
    """

    name: str
    budget: float
    novelty_budget: float
    metric_budget: float
    source: str | None
    has_graph: bool
    opset: int
    item_size: int
    wider: str | None
    reduced: bool
    runs_on_cpu: bool
    native_on_cpu: bool
    tf32: bool
    torch_dtype: str
    onnx_type: str
    tensorrt_type: str
    quantized_type: str | None
    built_pattern: str
    dynamic: bool = False

    @property
    def quantized(self) -> bool:
        """Whether linear layers have 8-bit products."""
        return self.quantized_type is not None or self.dynamic

    @property
    def tile_budget(self) -> float:
        """Largest difference of a tile of a quality map, in grades.

        This is ``budget`` times the range of the grades. The relative error bounds the root mean
        square over all tiles; this bounds each tile.
        """
        return self.budget * GRADE_RANGE

    @property
    def map_budgets(self) -> dict[str, float]:
        """Largest differences of the agreement of quality maps with tile labels.

        The correlation has the budget of the scores' metrics. The RMSE ratio, ‖map - truth‖ over
        ‖flat map - truth‖, is a relative error and has the budget of one.
        """
        return {"correlation": self.metric_budget, "rmse_ratio": self.budget}

    def limits(self, slack: float = 1.0) -> Limits:
        """Return the limits of the outputs, multiplied by ``slack``."""
        return Limits(
            slack * self.budget,
            slack * self.tile_budget,
            slack * self.novelty_budget,
            slack * SLICE_SLACK * self.budget,
        )

    @property
    def exported(self) -> bool:
        """Whether PyTorch exports a graph in this precision."""
        return self.has_graph and self.source is None

    @property
    def graph(self) -> str:
        """Precision of the ONNX graph."""
        return self.name if self.has_graph else str(self.source)


_FP32 = Precision(
    name="fp32",
    budget=1e-5,
    novelty_budget=2e-6,
    metric_budget=1e-3,
    source=None,
    has_graph=True,
    opset=20,
    item_size=4,
    wider=None,
    reduced=False,
    runs_on_cpu=True,
    native_on_cpu=True,
    tf32=False,
    torch_dtype="float32",
    onnx_type="FLOAT",
    tensorrt_type="FLOAT",
    quantized_type=None,
    # Spelling of the inspector: "Half", "Row major linear FP16 format".
    built_pattern=r"\bFloat\b|FP32",
)
_TF32 = replace(
    _FP32,
    name="tf32",
    budget=1e-3,
    novelty_budget=1e-3,
    source="fp32",
    has_graph=False,
    wider="fp32",
    native_on_cpu=False,
    tf32=True,
)
_FP16 = replace(
    _FP32,
    name="fp16",
    budget=5e-3,
    novelty_budget=1.6e-3,
    item_size=2,
    wider="tf32",
    reduced=True,
    native_on_cpu=False,
    torch_dtype="float16",
    onnx_type="FLOAT16",
    tensorrt_type="HALF",
    built_pattern=r"\bHalf\b|FP16",
)
_BF16 = replace(
    _FP16,
    name="bf16",
    budget=3e-2,
    novelty_budget=2.1e-2,
    opset=22,
    runs_on_cpu=False,
    native_on_cpu=True,
    torch_dtype="bfloat16",
    onnx_type="BFLOAT16",
    tensorrt_type="BF16",
    built_pattern=r"BFloat16|BF16",
)
_INT8 = replace(
    _FP16,
    name="int8",
    budget=5e-2,
    metric_budget=5e-3,
    source="fp16",
    item_size=1,
    wider="fp16",
    native_on_cpu=True,
    quantized_type="INT8",
    built_pattern=r"\bInt8\b|INT8",
)
_FP8 = replace(_INT8, name="fp8", native_on_cpu=False, quantized_type="FP8", built_pattern=r"FP8")
_INT8_DYNAMIC = replace(
    _FP32,
    name="int8-dynamic",
    budget=_INT8.budget,
    metric_budget=_INT8.metric_budget,
    source="fp32",
    item_size=1,
    wider="fp32",
    dynamic=True,
)

PRECISIONS: dict[str, Precision] = {
    row.name: row for row in (_FP32, _TF32, _FP16, _BF16, _INT8, _FP8, _INT8_DYNAMIC)
}
"""All precisions by name."""

CHECKPOINT_PRECISIONS = ("fp32", "int8")
"""Precisions of the CPU engine, in the order of its C interface."""

DEFAULT_PRECISIONS = ("fp32", "fp16")
"""Default precisions of `clinreadnet export`."""

DEFAULT_ENGINE_PRECISION = "fp16"
"""Default precision of engines, if its graph is exported."""


def find_precision(name: str, known: Sequence[str] | None = None) -> Precision:
    """Return the precision called ``name``.

    Args:
        name: name of a precision.
        known: valid names; default all of the table.

    Raises:
        InputError: the name is unknown; the message lists the valid ones.
    """
    names = list(PRECISIONS if known is None else known)
    if name not in names:
        raise InputError(f"unknown precision {name!r}; known: {', '.join(names)}")
    return PRECISIONS[name]


def exported_precisions() -> list[str]:
    """Return the names of the precisions that PyTorch exports."""
    return [row.name for row in PRECISIONS.values() if row.exported]


def quantized_precisions() -> list[str]:
    """Return the names of the precisions with calibrated 8-bit products."""
    return [row.name for row in PRECISIONS.values() if row.quantized_type is not None]


def torch_precisions(*, cuda: bool) -> list[str]:
    """Return the names of the precisions that PyTorch computes without emulation."""
    return [
        row.name for row in PRECISIONS.values() if not row.quantized and (cuda or row.native_on_cpu)
    ]


def lowered_precisions() -> list[str]:
    """Return the names of the precisions that a float32 graph can be converted to."""
    return [row.name for row in PRECISIONS.values() if row.exported and row.reduced]


def precision_of(torch_dtype: str) -> Precision:
    """Return the exported precision with weights of a torch type such as "float16".

    Raises:
        KeyError: there is none.
    """
    for row in PRECISIONS.values():
        if row.exported and row.torch_dtype == torch_dtype:
            return row
    raise KeyError(torch_dtype)


def spelled(names: Sequence[str], last: str = "or") -> str:
    """Join names for a sentence: "fp16, bf16 or fp8"."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def with_wider(name: str) -> list[str]:
    """Return a precision, followed by the wider ones that a machine may use instead."""
    chain = [name]
    while (wider := PRECISIONS[chain[-1]].wider) is not None:
        chain.append(wider)
    return chain
