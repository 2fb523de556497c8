"""Export ClinReadNet from torch to one ONNX graph per precision.

The input is `hu` in Hounsfield units, float32 [batch, 1, 512, 512]; clip and scale are in the
graph. The outputs are `score`, `probs`, `quality_map` and `novelty`, float32. Only the batch is
dynamic.
LayerNormalization and Gelu are single operators. Masks, biases, gates and Sobel kernels are
constants, and reshapes have constant shapes. A precision is the type of the weights and the matrix
products. Softmax, LayerNorm, encoding, Sobel edges, edge statistics with the novelty, the mixture
of votes and the MLP of the pooled tokens are float32 in all precisions.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import onnx
import onnx_ir
import onnxscript.optimizer
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes.common import (
    CheckerPass,
    ClearMetadataAndDocStringPass,
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    RemoveUnusedNodesPass,
)

from clinreadnet.errors import InputError
from clinreadnet.files import whole_file
from clinreadnet.kernels.ops.window_attention.reference import stacked_octaves
from clinreadnet.limits import LARGEST_BATCH
from clinreadnet.model.network import ClinReadNet
from clinreadnet.precision import exported_precisions, find_precision
from clinreadnet.spec import OUTPUTS, RESEARCH_USE, SIZE

GRAPH_NAME = "clinreadnet"

BATCH = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
"""The only dynamic dimension."""

_FOLD_LIMIT = 2**21
"""Largest constant to fold, in elements: the region masks of the first stage have 2**20."""


def check_network(model: ClinReadNet, path: str | os.PathLike[str]) -> None:
    """Check that the network has attention stages. Without them the quality map has another shape.

    Args:
        model: the network.
        path: checkpoint, for the error message.

    Raises:
        InputError: the network has no attention stages.
    """
    if not model.config.depths:
        raise InputError(
            f"{path}: is a SOQN without attention stages; train a network from it with "
            "`clinreadnet train --init`, and export that"
        )


def export_onnx(
    model: ClinReadNet,
    path: str | os.PathLike[str],
    *,
    precision: str,
    fused_attention: bool = False,
) -> None:
    """Export ``model`` as an ONNX graph. Its bytes depend only on the weights.

    Args:
        model: float32 network in evaluation mode; not changed.
        path: target file; replaced if it exists.
        precision: one that PyTorch exports.
        fused_attention: write the attention of unshifted windows as TensorRT fuses it.

    Raises:
        InputError: unknown precision.
    """
    row = find_precision(precision, exported_precisions())
    with stacked_octaves() if fused_attention else nullcontext():
        program = traced(lowered(model, getattr(torch, row.torch_dtype)), row.opset)
    graph = simplify(program)
    graph.graph.name = GRAPH_NAME
    graph.doc_string = f"ClinReadNet {model.config.preset}, {precision}. {RESEARCH_USE}"
    with whole_file(path) as temporary:
        onnx.save_model(onnx_ir.to_proto(graph), temporary)


def traced(
    model: ClinReadNet, opset: int, translations: dict[Any, Callable[..., Any]] | None = None
) -> onnx_ir.Model:
    """Convert a network to ONNX without optimisation.

    Args:
        model: network from `lowered`.
        opset: version of the ONNX operator set.
        translations: functions that translate torch ops to ONNX, by op.
    """
    # Two slices: torch.export treats a batch of one as a constant.
    example = torch.zeros(2, 1, SIZE, SIZE)
    return to_onnx(
        model,
        (example,),
        opset_version=opset,
        input_names=["hu"],
        output_names=list(OUTPUTS),
        dynamic_shapes={"hu": {0: BATCH}},
        custom_translation_table=translations,
    )


def to_onnx(
    module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], **options: Any
) -> onnx_ir.Model:
    """Trace a module with torch.export and convert it to ONNX without optimisation.

    Args:
        module: module in evaluation mode.
        inputs: example inputs.
        options: further arguments of ``torch.onnx.export``.
    """
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module, inputs, dynamo=True, optimize=False, verbose=False, **options
        )
    assert program is not None
    return program.model


def lowered(model: ClinReadNet, dtype: torch.dtype) -> ClinReadNet:
    """Return a copy of the network with parameters in ``dtype``.

    Buffers keep their type: only float32 islands use them, and bfloat16 would leave two digits of
    the novelty's mean and whitening.
    """
    low = copy.deepcopy(model).to(dtype).eval()
    for module, exact in zip(low.modules(), model.modules(), strict=True):
        for name, buffer in exact.named_buffers(recurse=False):
            setattr(module, name, buffer)
    return low


def simplify(graph: onnx_ir.Model) -> onnx_ir.Model:
    """Fold constants, merge duplicates, remove file paths, and check the result."""
    return Sequential(CheckerPass(full_check=True))(fold(graph)).model


def fold(graph: onnx_ir.Model) -> onnx_ir.Model:
    """Fold constants, merge duplicates, and remove file paths."""
    onnxscript.optimizer.optimize(
        graph, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT
    )
    return Sequential(
        IdentityEliminationPass(),
        DeduplicateInitializersPass(),
        CommonSubexpressionEliminationPass(),
        RemoveUnusedNodesPass(),
        ClearMetadataAndDocStringPass(),  # the exporter adds stack traces with file paths
    )(graph).model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's warnings about optional packages and deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
