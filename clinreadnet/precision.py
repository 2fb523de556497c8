"""The one table of precisions: what each is called, may cost, is made from, and looks like where.

Types are named, not imported: each reader looks its own up in torch, onnx or TensorRT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clinreadnet.errors import InputError
from clinreadnet.spec import GRADE_RANGE


@dataclass(frozen=True)
class Limits:
    """How far outputs may lie from the float64 reference's.

    Attributes:
        error: largest relative error of an output over all slices.
        slice_error: largest error of an output of a single slice, relative to its usual norm.
        tile: largest difference of one tile of a quality map, in grades.
        novelty: largest relative difference of one slice's novelty.
    """

    error: float
    tile: float = float("inf")
    novelty: float = float("inf")
    slice_error: float = float("inf")


SLICE_SLACK = 2.0
"""Factor on the relative error's budget for one slice, which averages less than all of them."""


@dataclass(frozen=True)
class Precision:
    """One row of the table.

    Attributes:
        name: as in manifests, file names and on the command line.
        budget: largest relative error of an output against the float64 reference.
        novelty_budget: largest relative difference of one slice's novelty. At least twice what a
            float64 oracle finds with weights and tensors rounded to the precision, and PyTorch with
            float32 sums. 8-bit graphs have the float16 one: nothing before the novelty is
            quantised.
        metric_budget: largest difference of PLCC, SROCC and KROCC, and of the quality map's
            correlation with local truth, from the reference's.
        source: precision whose graph this one is made from; None where PyTorch exports it.
        has_graph: whether it has an ONNX graph of its own; without one it is built from its
            source's graph, and only engines have it.
        opset: ONNX operator set of the graph. 20 is the first with Gelu, 22 the first whose Conv
            takes bfloat16.
        item_size: bytes of a weight or an activation, at least.
        wider: precision in which a machine may compute instead where that is faster.
        reduced: whether the graph has 16-bit tensors, in which a CPU does not compute.
        runs_on_cpu: whether ONNX Runtime's CPU takes the graph as it is.
        native_on_cpu: whether processors multiply in it themselves.
        tf32: whether float32 products may round their factors to TF32.
        torch_dtype: name in torch of the type of weights and activations.
        onnx_type: name in ``onnx.TensorProto`` of the same.
        tensorrt_type: name in ``tensorrt.DataType`` of the outputs of products.
        quantized_type: the same between the quantise and dequantise layers around products; None
            without such layers.
        built_pattern: regular expression that finds the type in the report of TensorRT's inspector.
        dynamic: whether each run finds the scales of its 8-bit products anew. ONNX Runtime's CPU
            provider has such products; CUDA and TensorRT do not.
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
        """Whether linear layers multiply in 8 bits."""
        return self.quantized_type is not None or self.dynamic

    @property
    def tile_budget(self) -> float:
        """Largest difference of one tile of a quality map, in grades.

        The relative error's budget of the grades' range. The error bounds the root mean square over
        all tiles; this bounds each.
        """
        return self.budget * GRADE_RANGE

    @property
    def map_budgets(self) -> dict[str, float]:
        """Largest differences of what a quality map has in common with local truth.

        The correlation is a metric like those of the scores. The RMSE ratio, ‖map - truth‖ over
        ‖flat map - truth‖, is a relative error and has that budget.
        """
        return {"correlation": self.metric_budget, "rmse_ratio": self.budget}

    def limits(self, slack: float = 1.0) -> Limits:
        """Return the budgets of the outputs, times ``slack``."""
        return Limits(
            slack * self.budget,
            slack * self.tile_budget,
            slack * self.novelty_budget,
            slack * SLICE_SLACK * self.budget,
        )

    @property
    def exported(self) -> bool:
        """Whether PyTorch exports the graph in this precision."""
        return self.has_graph and self.source is None

    @property
    def graph(self) -> str:
        """Name of the precision of the ONNX graph that runs."""
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
    # As the inspector spells them: "Half", "Row major linear FP16 format".
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
"""Every precision, by name."""

CHECKPOINT_PRECISIONS = ("fp32", "int8")
"""What the CPU engine runs a checkpoint in; the order is that of its C interface."""

DEFAULT_PRECISIONS = ("fp32", "fp16")
"""What `clinreadnet export` makes where nothing is asked for."""

DEFAULT_ENGINE_PRECISION = "fp16"
"""What it builds engines in, where that graph is exported."""


def find_precision(name: str, known: Sequence[str] | None = None) -> Precision:
    """Return the precision called ``name``.

    Args:
        name: as it was given.
        known: names to choose from; all of the table by default.

    Raises:
        InputError: it is none of those; the message lists them.
    """
    names = list(PRECISIONS if known is None else known)
    if name not in names:
        raise InputError(f"unknown precision {name!r}; known: {', '.join(names)}")
    return PRECISIONS[name]


def exported_precisions() -> list[str]:
    """Return the names of the precisions that PyTorch exports."""
    return [row.name for row in PRECISIONS.values() if row.exported]


def quantized_precisions() -> list[str]:
    """Return the names of the precisions whose products have calibrated scales."""
    return [row.name for row in PRECISIONS.values() if row.quantized_type is not None]


def torch_precisions(*, cuda: bool) -> list[str]:
    """Return the names of the precisions in which PyTorch multiplies without emulation."""
    return [
        row.name for row in PRECISIONS.values() if not row.quantized and (cuda or row.native_on_cpu)
    ]


def lowered_precisions() -> list[str]:
    """Return the names of the precisions that a float32 graph can be lowered to."""
    return [row.name for row in PRECISIONS.values() if row.exported and row.reduced]


def precision_of(torch_dtype: str) -> Precision:
    """Return the exported precision whose weights have a type of torch, such as "float16".

    Raises:
        KeyError: none has.
    """
    for row in PRECISIONS.values():
        if row.exported and row.torch_dtype == torch_dtype:
            return row
    raise KeyError(torch_dtype)


def spelled(names: Sequence[str], last: str = "or") -> str:
    """Return names as a sentence lists them: "fp16, bf16 or fp8"."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def with_wider(name: str) -> list[str]:
    """Return a precision and the wider ones in which a machine may compute instead."""
    chain = [name]
    while (wider := PRECISIONS[chain[-1]].wider) is not None:
        chain.append(wider)
    return chain
