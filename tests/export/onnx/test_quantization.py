"""8-bit graphs: the quantised layers, the scores, and the build with TensorRT-RTX."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.export_models import RTX_MISSING, disc
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import BackendUnavailable, CheckFailed, InputError, Untrusted
from clinreadnet.export import bundle as bundles
from clinreadnet.export import request as requests
from clinreadnet.export.engines.build import EngineBuilder
from clinreadnet.export.engines.check import check_graph
from clinreadnet.export.onnx import graphs
from clinreadnet.export.onnx.quantization import (
    linear_layers,
    load_optimizer,
    quantize,
    quantize_dynamically,
    token_layers,
)
from clinreadnet.export.request import EngineRequest, GraphRequest
from clinreadnet.model.checkpoint import load_checkpoint
from clinreadnet.model.network import PRESETS
from clinreadnet.precision import PRECISIONS, quantized_precisions
from clinreadnet.processor import multiplies_bytes
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.loading import SessionOptions, open_backend
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.graph import check_graph as check_content
from clinreadnet.runtime.bundle.manifest import Golden, Parity
from clinreadnet.runtime.comparison import relative_error
from clinreadnet.spec import OUTPUTS
from clinreadnet.verify import run as verification
from clinreadnet.verify.emulate import element_types, emulate
from clinreadnet.verify.reference import GoldenSlices, reference_outputs

Graph = Callable[[str, str], Path]

needs_optimizer = pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None, reason="nvidia-modelopt is not installed"
)
precisions = pytest.mark.parametrize("precision", quantized_precisions())
TYPES = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}


@pytest.fixture(scope="module")
def quantized(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("quantized")
    hu = np.stack([disc(noise, seed=3) for noise in (0, 20, 60)])

    @functools.cache
    def make(precision: str) -> Path:
        path, source = folder / f"clinreadnet.{precision}.onnx", graph("tiny", "fp16")
        before = source.stat().st_mtime_ns, set(source.parent.iterdir())
        quantize(source, path, precision=precision, hu=hu)
        # Processes of tests share the source.
        assert (source.stat().st_mtime_ns, set(source.parent.iterdir())) == before
        return path

    return make


@needs_optimizer
@precisions
def test_linear_layers_are_quantised_and_nothing_else(
    graph: Graph, quantized: Callable[[str], Path], precision: str
) -> None:
    source, model = onnx.load(graph("tiny", "fp16")), onnx.load(quantized(precision))
    types, old_types = element_types(model), element_types(source)
    made_by = {name: node for node in model.graph.node for name in node.output}

    def is_quantised(node: onnx.NodeProto) -> bool:
        sources = [made_by[name].op_type if name in made_by else "" for name in node.input]
        return sources == ["DequantizeLinear"] * 2

    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert {n.name for n in products if is_quantised(n)} == set(linear_layers(source))
    assert 0 < len(linear_layers(source)) < len(products)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert types[node.output[0]] == TYPES[precision]

    def kinds(model: onnx.ModelProto, types: dict[str, int]) -> Counter[tuple[str, int]]:
        return Counter(
            (node.op_type, types[node.output[0]])
            for node in model.graph.node
            if not node.op_type.endswith("QuantizeLinear") and node.op_type != "DequantizeLinear"
        )

    assert kinds(model, types) == kinds(source, old_types), "the float32 islands stay"


@needs_optimizer
@precisions
def test_error_on_other_slices_is_that_of_8_bits(
    quantized: Callable[[str], Path], tiny_checkpoint: Path, precision: str
) -> None:
    slices = GoldenSlices(np.stack([disc(noise, seed=1) for noise in (10, 35)]))
    reference = reference_outputs(load_checkpoint(tiny_checkpoint), slices)
    content = emulate(quantized(precision).read_bytes())
    outputs = OnnxRuntimeBackend(content).run(slices.images[:, None])
    errors = [relative_error(outputs[name], reference[name]) for name in OUTPUTS]
    assert 1e-4 < max(errors) < 0.1, "quantised at all, and not broken"


@needs_optimizer
@pytest.mark.skipif(RTX_MISSING is not None, reason=str(RTX_MISSING))
@precisions
def test_rtx_takes_it_as_what_it_is(quantized: Callable[[str], Path], precision: str) -> None:
    path = quantized(precision)
    assert [finding.blockers for finding in check_graph(path)] == [(), (), ()]
    builder = EngineBuilder(path, precision=precision, flavour="tensorrt-rtx")
    assert set(builder.layers["QUANTIZE"]) == {precision.upper()}
    (other,) = set(quantized_precisions()) - {precision}
    with pytest.raises(CheckFailed, match=f"the network is not {other}"):
        EngineBuilder(path, precision=other, flavour="tensorrt-rtx")


@pytest.fixture(scope="module")
def dynamic(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "clinreadnet.int8-dynamic.onnx"
    quantize_dynamically(graph("tiny", "fp32"), path, precision="int8-dynamic")
    return path


def test_the_layers_of_tokens_find_their_scales_in_each_run(graph: Graph, dynamic: Path) -> None:
    """The head, the statistics and the products of activations are unchanged."""
    source, model = onnx.load(graph("tiny", "fp32")), onnx.load(dynamic)
    layers = token_layers(source)
    blocks, merges = sum(PRESETS["tiny"].depths), len(PRESETS["tiny"].depths) - 1
    assert len(layers) == 4 * blocks + merges
    before, after = (Counter(n.op_type for n in content.graph.node) for content in (source, model))
    n = len(layers)
    added = {"DynamicQuantizeLinear": n, "MatMulInteger": n, "Cast": n, "Mul": 2 * n}
    # The quantiser writes the head's two layers as a product and a sum.
    gemms = [node for node in source.graph.node if node.op_type == "Gemm"]
    sums = sum(len(node.input) == 3 for node in gemms)
    added |= {"MatMul": len(gemms) - n, "Add": sums, "Gemm": -len(gemms)}
    assert after == Counter(
        {kind: before[kind] + added.get(kind, 0) for kind in before.keys() | added.keys()}
    )
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            weight = weights[node.input[1]]
            assert weight.data_type == TensorProto.INT8
            scale = weights[weight.name.replace("_quantized", "_scale")]
            assert list(scale.dims) == [weight.dims[1]], "a scale per channel"
    assert model.doc_string.startswith("ClinReadNet tiny, int8-dynamic.")


def test_it_is_not_taken_for_another_precision(graph: Graph, dynamic: Path) -> None:
    check_content(dynamic.read_bytes(), "x", "int8-dynamic")
    with pytest.raises(Untrusted, match="the manifest says fp32, the graph is int8-dynamic"):
        check_content(dynamic.read_bytes(), "x", "fp32")
    with pytest.raises(Untrusted, match="the manifest says int8-dynamic, the graph is fp32"):
        check_content(graph("tiny", "fp32").read_bytes(), "x", "int8-dynamic")


def test_its_error_is_that_of_8_bits_and_none_before_the_novelty(
    dynamic: Path, tiny_checkpoint: Path
) -> None:
    slices = GoldenSlices(np.stack([disc(noise, seed=1) for noise in (10, 35)]))
    reference = reference_outputs(load_checkpoint(tiny_checkpoint), slices)
    outputs = OnnxRuntimeBackend(dynamic.read_bytes()).run(slices.images[:, None])
    errors = {name: relative_error(outputs[name], reference[name]) for name in OUTPUTS}
    assert errors.pop("novelty") < PRECISIONS["fp32"].novelty_budget
    assert 1e-5 < max(errors.values()) < PRECISIONS["int8-dynamic"].budget


@pytest.mark.skipif(
    not multiplies_bytes(),
    reason="on a processor without 8-bit products this graph of an untrained network is off by "
    "0.018 in PLCC, beyond its budget",
)
@pytest.mark.usefixtures("quick", "small_batches")
def test_a_bundle_with_it_is_verified_and_scores(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    report = bundles.export_bundle(
        out,
        checkpoint=tiny_checkpoint,
        preset="tiny",
        graphs=GraphRequest(["int8-dynamic"]),
        engines=EngineRequest(targets=()),
    )
    assert report.passed, [a.parity and a.parity.reason for a in report.artifacts]
    entry = load_manifest(out).artifact("clinreadnet.int8-dynamic.onnx")
    assert entry.precision == "int8-dynamic" and "onnxruntime" in entry.toolchain
    with Session(out, "onnxruntime-cpu") as session:
        assert len(session.score(disc(20, seed=1)[None]).score) == 1
    with pytest.raises(BackendUnavailable, match="holds no ONNX graph"):
        open_backend("onnxruntime-cuda", out, load_manifest(out), SessionOptions())


@pytest.mark.usefixtures("quick")
def test_a_bundle_of_no_graph_is_not_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed = Parity("failed", reason="it is wrong")
    monkeypatch.setattr(graphs, "verify_artifact", lambda *arguments: missed)
    notes: list[str] = []
    with pytest.raises(CheckFailed, match="no graph kept its budget: nothing is written"):
        bundles.export_bundle(
            tmp_path / "bundle",
            checkpoint=tiny_checkpoint,
            preset="tiny",
            graphs=GraphRequest(["int8-dynamic"]),
            engines=EngineRequest(targets=()),
            note=notes.append,
        )
    assert notes == ["no int8-dynamic graph: it is wrong"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precisions", [["int8-dynamic"], ["fp32", "int8-dynamic"]])
def test_no_engine_is_built_of_it(precisions: list[str], tmp_path: Path) -> None:
    assert "int8-dynamic" not in requests.choose_engine_precisions(None, precisions)
    with pytest.raises(InputError, match="engine_precisions=int8-dynamic: TensorRT has no layers"):
        bundles.export_bundle(
            tmp_path / "bundle",
            graphs=GraphRequest(precisions),
            engines=EngineRequest(precisions=["int8-dynamic"]),
        )
    assert not (tmp_path / "bundle").exists()


@pytest.mark.usefixtures("few_golden")
@pytest.mark.sample(every=2)
@pytest.mark.parametrize("factor", [1.0, 1.2], ids=["within", "outside"])
def test_only_a_graph_within_its_budget_is_shipped(
    tiny_bundle: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
) -> None:
    def copy_graph(
        model: object, path: Path, *, precision: str, fused_attention: bool = False
    ) -> None:
        shutil.copy(tiny_bundle / path.name, path)

    def copy_golden(path: Path, *rest: object) -> Golden:
        shutil.copy(tiny_bundle / path.name, path)
        return load_manifest(tiny_bundle).golden

    def scale(source: Path, target: Path, *, precision: str, hu: Sequence[Any]) -> None:
        """Replace the quantiser by one that scales the map by ``factor``."""
        model = onnx.load(source)
        for node in model.graph.node:
            for i, name in enumerate(node.output):
                if name == "quality_map":
                    node.output[i] = "unscaled"
        for name, value in (("one8", np.int8(1)), ("scale8", np.float32(factor))):
            constant = onnx.numpy_helper.from_array(np.asarray(value), name)
            model.graph.initializer.append(constant)
        model.graph.node.append(
            onnx.helper.make_node("DequantizeLinear", ["one8", "scale8"], ["factor"], name="factor")
        )
        model.graph.node.append(
            onnx.helper.make_node("Mul", ["unscaled", "factor"], ["quality_map"], name="scale")
        )
        onnx.save(model, target)

    monkeypatch.setattr(graphs, "export_onnx", copy_graph)
    monkeypatch.setattr(graphs, "read_golden", verification.read_golden)  # `few_golden`
    monkeypatch.setattr(bundles, "write_golden", copy_golden)
    monkeypatch.setattr(requests, "load_optimizer", lambda: None)
    monkeypatch.setattr(graphs, "quantize", scale)
    monkeypatch.setattr(graphs, "calibration_slices", list)
    monkeypatch.setattr(graphs, "version", lambda package: "0")
    out = tmp_path / "bundle"
    arguments = ["export", "--out", str(out), "--checkpoint", str(tiny_checkpoint)]
    arguments += ["--preset", "tiny", "--no-engines", "--precision", "fp32", "--precision", "int8"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.exception
    manifest = load_manifest(out)
    assert manifest.verified
    shipped = factor == 1.0
    files = {"manifest.json", "golden.npz", "clinreadnet.fp32.onnx", "clinreadnet.safetensors"}
    assert {p.name for p in out.iterdir()} - {"README.md", "parity.html"} == files | (
        {"clinreadnet.int8.onnx"} if shipped else set()
    )
    assert ("no int8 graph: quality_map is off by 2.0e-01" in result.stderr) != shipped


def test_dynamic_scales_need_onnxruntime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    with pytest.raises(InputError, match=r"int8-dynamic needs onnxruntime.*clinreadnet\[cpu\]"):
        bundles.export_bundle(
            tmp_path / "bundle",
            graphs=GraphRequest(["int8-dynamic"]),
            engines=EngineRequest(targets=()),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_missing_optimizer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("modelopt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="modelopt")
        return real(name, *rest)

    for name in [name for name in sys.modules if name.startswith("modelopt")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"int8 and fp8 need modelopt; .*clinreadnet\[quantize\]"):
        load_optimizer()
