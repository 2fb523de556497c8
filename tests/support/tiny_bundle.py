"""A bundle around a graph of a few operators, so that the runtime is tested without the exporter.

score = 4 · mean of the encoded image; probs = 1/21 each, scaled by 1; quality_map = 4 · the mean of
each 32×32 patch; novelty = 2 · the mean, so that very bright slices are novel. The golden outputs
are computed in float64 with NumPy.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.files import digest, write_manifest
from clinreadnet.runtime.bundle.manifest import (
    Artifact,
    BatchRange,
    BuiltOn,
    Golden,
    InputInfo,
    Manifest,
    ModelInfo,
    Parity,
    RanOn,
)

RAN_ON = RanOn("onnxruntime-cpu", "2026-01-31T12:00:00Z", "test", "Test CPU", None, None, None, {})
"""Where the bundle's maker verified it."""

THRESHOLD = 1.36
"""Novelty above which the bundle marks a slice: a mean of -48 HU, the air around it included."""


def make_graph(
    *,
    half: bool = False,
    quantized: bool = False,
    weights: str | None = None,
    score_offset: float = 0.0,
    novelty_scale: float = 0.5,
    novel: bool = True,
) -> bytes:
    """Return an ONNX graph.

    ``score_offset`` and ``novelty_scale`` make it disagree with `reference`; without ``novel`` it
    lacks that output. With ``quantized`` it has an 8-bit constant. ``weights`` is the type of most
    constants, which nothing reads; default that of the others.
    """
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT

    def constant(name: str, value: Any, dtype: int = kind) -> onnx.TensorProto:
        array = np.asarray(value)
        return helper.make_tensor(name, dtype, array.shape, array.ravel().tolist())

    nodes = [
        helper.make_node("Sub", ["hu", "hu_min"], ["shifted"]),
        helper.make_node("Div", ["shifted", "hu_range"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "zero", "one"], ["x"]),
        helper.make_node(
            "AveragePool", ["x"], ["patches"], kernel_shape=[32, 32], strides=[32, 32]
        ),
        helper.make_node("Squeeze", ["patches", "channel"], ["means"]),
        helper.make_node("Mul", ["means", "four"], ["quality_map"]),
        helper.make_node("ReduceMean", ["quality_map", "sides"], ["plain_score"], keepdims=0),
        helper.make_node("Add", ["plain_score", "offset"], ["score"]),
        helper.make_node("Sub", ["plain_score", "plain_score"], ["nought"]),
        helper.make_node("Unsqueeze", ["nought", "channel"], ["column"]),
        helper.make_node("Add", ["column", "uniform"], ["probs"]),
    ]
    if quantized:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["whole_four", "one"], ["four"]))
    outputs: dict[str, list[str | int]] = {
        "score": ["batch"],
        "probs": ["batch", 21],
        "quality_map": ["batch", 16, 16],
    }
    if novel:
        nodes.append(helper.make_node("Mul", ["plain_score", "novelty_scale"], ["novelty"]))
        outputs["novelty"] = ["batch"]
    integer = TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("hu", kind, ["batch", 1, 512, 512])],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [
            constant("hu_min", -1000.0),
            constant("hu_range", 1400.0),
            constant("zero", 0.0),
            constant("one", 1.0),
            *([constant("whole_four", 4, TensorProto.INT8)] if quantized else []),
            *([] if quantized else [constant("four", 4.0)]),
            constant(
                "unread", np.zeros(256), kind if weights is None else getattr(TensorProto, weights)
            ),
            constant("offset", score_offset),
            constant("novelty_scale", novelty_scale),
            constant("uniform", np.full((1, 21), 1 / 21)),
            constant("channel", [1], integer),
            constant("sides", [1, 2], integer),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def reference(hu: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return what the graph computes, in float64; hu [n, 512, 512]."""
    x = np.clip((hu.astype(np.float64) + 1000) / 1400, 0, 1)
    quality_map = 4 * x.reshape(-1, 16, 32, 16, 32).mean(axis=(2, 4))
    return {
        "score": quality_map.mean(axis=(1, 2)),
        "probs": np.full((len(hu), 21), 1 / 21),
        "quality_map": quality_map,
        "novelty": quality_map.mean(axis=(1, 2)) / 2,
    }


def write_bundle(
    folder: Path,
    *,
    batch: BatchRange | None = None,
    precisions: tuple[str, ...] = ("fp32", "fp16"),
    verified: bool = True,
    threshold: float | None = THRESHOLD,
    verifiable: bool = False,
    **graph: Any,
) -> Path:
    """Write a bundle into ``folder``, created here.

    Verification fails it, because all labels are equal and the float16 graph cannot be emulated;
    with ``verifiable`` it has neither.
    """
    if verifiable:
        precisions = ("fp32",)
    folder.mkdir()
    batch = batch or BatchRange(1, 4, 8)
    artifacts = []
    for precision in precisions:
        content = make_graph(
            half=precision == "fp16",
            quantized=precision == "int8",
            weights=PRECISIONS[precision].onnx_type,
            **graph,
        )
        file = f"clinreadnet.{precision}.onnx"
        (folder / file).write_bytes(content)
        artifacts.append(
            Artifact(
                file=file,
                kind="onnx",
                precision=precision,
                sha256=digest(content),
                size=len(content),
                batch=batch,
                toolchain={"onnx": onnx.__version__},
                built_on=BuiltOn("test"),
                parity=Parity("passed", ran_on=RAN_ON),
            )
        )
    rng = np.random.default_rng(0)
    hu = rng.normal(40, 300, (3, 512, 512)).astype(np.int16)
    buffer = io.BytesIO()
    outputs = reference(hu)
    label = np.full(3, np.nan if verifiable else 0, np.float32)
    np.savez(buffer, hu=hu, label=label, **outputs)
    golden = buffer.getvalue()
    (folder / "golden.npz").write_bytes(golden)
    write_manifest(
        Manifest(
            clinreadnet_version="0.1.0",
            created="2026-01-31T12:00:00Z",
            model=ModelInfo("tiny", 1, "0" * 64, threshold),
            input=InputInfo(batch),
            artifacts=tuple(artifacts),
            golden=Golden("golden.npz", digest(golden), len(golden), 3),
            verified=verified,
        ),
        folder,
    )
    return folder
