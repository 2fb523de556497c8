"""Quantise the linear layers (products with constant weights) of graphs to 8 bits.

`quantize` quantises the float16 graph with NVIDIA's Model Optimizer (`nvidia-modelopt`). Weights
have a scale per channel, inputs a scale per tensor with max calibration. Products of two
activations inside the attention, convolutions and float32 islands do not change.

`quantize_dynamically` quantises the float32 graph for ONNX Runtime's CPU provider. Weights have a
scale per channel; scales of inputs are computed in each run, without calibration. The head and the
edge statistics stay float32.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from clinreadnet.errors import InputError
from clinreadnet.files import whole_file
from clinreadnet.precision import PRECISIONS, quantized_precisions

_FEWEST_COLUMNS = 16
"""Least number of columns of a matrix that Model Optimizer quantises."""
_TOKEN_AXES = 4
"""Number of axes of the blocks' tokens. The head merges H and W; statistics have a vector per
slice."""


def load_optimizer() -> Any:
    """Import Model Optimizer's ONNX quantisation.

    Raises:
        InputError: it is not installed.
    """
    try:
        with _quiet():
            import modelopt.onnx.quantization as optimizer
    except ImportError as error:
        raise InputError(
            f"{' and '.join(quantized_precisions())} need {error.name or 'nvidia-modelopt'}; run "
            '`pip install "clinreadnet[quantize]"`'
        ) from None
    return optimizer


def load_dynamic_quantizer() -> Any:
    """Import ONNX Runtime's quantisation.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnxruntime.quantization as quantizer
    except ImportError as error:
        raise InputError(
            f"int8-dynamic needs {error.name or 'onnxruntime'}; run "
            '`pip install "clinreadnet[cpu]"`'
        ) from None
    return quantizer


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    precision: str,
    hu: NDArray[Any],
) -> None:
    """Write a quantised graph with Q/DQ pairs around its linear layers.

    Args:
        source: float16 graph of the source precision.
        target: file to write.
        precision: precision with quantised products, such as "int8".
        hu: float32 [n, 512, 512] slices for calibration.

    Raises:
        InputError: Model Optimizer is not installed.
    """
    optimizer = load_optimizer()
    model = onnx.load(source)
    with _quantised_file(source, model, target, precision) as (copy, made):
        optimizer.quantize(
            str(copy),
            quantize_mode=precision,
            calibration_data={"hu": np.ascontiguousarray(hu[:, None], dtype=np.float32)},
            calibration_method="max",
            calibration_eps=["cpu"],
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=linear_layers(model),
            high_precision_dtype="fp32",  # keep the types of the source
            output_path=str(made),
            log_level="ERROR",
        )


def quantize_dynamically(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, precision: str
) -> None:
    """Write a float32 graph whose token layers have 8-bit products.

    Args:
        source: float32 graph.
        target: file to write.
        precision: name of the precision, for the graph's description.

    Raises:
        InputError: ONNX Runtime is not installed.
    """
    quantizer = load_dynamic_quantizer()
    model = onnx.load(source)
    with _quantised_file(source, model, target, precision) as (copy, made):
        quantizer.quantize_dynamic(
            copy,
            made,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=token_layers(model),
            per_channel=True,
            weight_type=quantizer.QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


def token_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the linear layers of a float32 graph on [batch, H, W, C]."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in inferred.graph.value_info
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in constants
        and ranks.get(node.input[0]) == _TOKEN_AXES
    ]


def linear_layers(model: onnx.ModelProto) -> list[str]:
    """Return the names of the 16-bit matrix products with a constant second factor.

    Model Optimizer does not quantise matrices of few columns, for which TensorRT would not be
    faster. The network's float32 products, with one vector per image, are not quantised either.
    """
    columns = {
        tensor.name: tensor.dims[-1]
        for tensor in model.graph.initializer
        if tensor.dims and tensor.data_type != onnx.TensorProto.FLOAT
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and columns.get(node.input[1], 0) >= _FEWEST_COLUMNS
    ]


@contextlib.contextmanager
def _quantised_file(
    source: str | os.PathLike[str],
    model: onnx.ModelProto,
    target: str | os.PathLike[str],
    precision: str,
) -> Iterator[tuple[Path, Path]]:
    """Yield paths of a copy of the source and for the quantised graph, then check and write it.

    Model Optimizer writes its source again, and ONNX Runtime writes files beside it.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        made = Path(folder) / "quantized.onnx"
        yield Path(shutil.copy(source, Path(folder) / "source.onnx")), made
        quantized = onnx.load(made)
    quantized.doc_string = model.doc_string.replace(str(PRECISIONS[precision].source), precision)
    quantized.graph.name = model.graph.name
    onnx.checker.check_model(quantized, full_check=True)
    with whole_file(target) as temporary:
        onnx.save_model(quantized, temporary)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Model Optimizer's notes about missing GPUs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)
