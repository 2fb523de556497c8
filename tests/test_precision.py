"""The table of precisions, and made-up rows that every reader of the table must handle."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import recorded_run
from support.tiny_bundle import make_graph, reference, write_bundle

from bench.measure import roofline
from bench.report.recommend import recommend
from bench.report.tables import artifacts_table, network_table
from bench.results import read_run
from bench.run import Inexact
from bench.sweeps.candidates import Candidate, check, find
from clinreadnet import precision
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.precision import PRECISIONS, Precision, find_precision, precision_of
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.verify.compare import Evidence, compare
from clinreadnet.verify.reference import GoldenSlices
from clinreadnet.verify.run import verify_golden

HALF = replace(PRECISIONS["fp16"], name="fp12", budget=0.1, metric_budget=0.2, opset=21)
"""A made-up type of weights: exported by PyTorch, of 16-bit tensors, with wide budgets."""
QUANTIZED = replace(
    PRECISIONS["int8"], name="int4", source="fp12", budget=0.3, quantized_type="INT4", item_size=1
)
ENGINE = replace(PRECISIONS["tf32"], name="tf16", source="fp12", tensorrt_type="HALF", budget=0.2)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add rows to the table alone."""
    for row in (HALF, QUANTIZED, ENGINE):
        monkeypatch.setitem(PRECISIONS, row.name, row)


def write_made_up(folder: Path, **graph: Any) -> Path:
    return write_bundle(folder, precisions=("fp32", "fp12"), **graph)


def test_the_rows_agree_with_each_other() -> None:
    for name, row in PRECISIONS.items():
        assert row.name == name
        assert row.source in (None, *PRECISIONS) and row.wider in (None, *PRECISIONS)
        assert row.has_graph or row.source is not None
        assert PRECISIONS[row.graph].has_graph
        assert precision.with_wider(name)[-1] == "fp32"
    assert precision.exported_precisions() == ["fp32", "fp16", "bf16"]
    assert precision.lowered_precisions() == ["fp16", "bf16"]
    assert precision.quantized_precisions() == ["int8", "fp8"]
    assert [row.name for row in PRECISIONS.values() if row.quantized] == [
        "int8",
        "fp8",
        "int8-dynamic",
    ]
    assert precision.torch_precisions(cuda=True) == ["fp32", "tf32", "fp16", "bf16"]
    assert precision.torch_precisions(cuda=False) == ["fp32", "bf16"]
    assert {*precision.DEFAULT_PRECISIONS, precision.DEFAULT_ENGINE_PRECISION} <= set(PRECISIONS)


def test_the_types_are_those_of_the_libraries() -> None:
    torch = pytest.importorskip("torch")
    for row in PRECISIONS.values():
        dtype = getattr(torch, row.torch_dtype)
        assert row.quantized or dtype.itemsize == row.item_size
        assert row.reduced == (dtype.itemsize == 2)
        assert hasattr(onnx.TensorProto, row.onnx_type)


def test_the_schema_of_the_manifest_names_the_same() -> None:
    text = files("clinreadnet.runtime.bundle").joinpath("manifest.schema.json").read_text()
    named = json.loads(text)["$defs"]["Artifact"]["properties"]["precision"]["enum"]
    assert named == list(PRECISIONS)


def test_nothing_is_imported_for_the_table() -> None:
    code = (
        "import sys, clinreadnet.precision\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'onnx', 'tensorrt', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("names", "spelled"),
    [(["a"], "a"), (["a", "b"], "a or b"), (["a", "b", "c"], "a, b or c")],
    ids=["one", "two", "three"],
)
def test_names_are_spelled(names: list[str], spelled: str) -> None:
    assert precision.spelled(names) == spelled


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="unknown precision 'fp12'; known: fp32, tf32, fp16"):
        find_precision("fp12")
    with pytest.raises(InputError, match="unknown precision 'int8'; known: fp32, fp16, bf16"):
        find_precision("int8", precision.exported_precisions())
    with pytest.raises(KeyError):
        precision_of("float64")


def test_a_bundle_with_it_is_read_and_verified(made_up: None, tmp_path: Path) -> None:
    bundle = write_made_up(tmp_path / "bundle", score_offset=0.1)
    report = verify_golden(bundle, load_manifest(bundle))
    parities = {a.precision: a.parity for a in report.artifacts}
    exact, rough = parities["fp32"], parities["fp12"]
    assert exact is not None and rough is not None
    assert (exact.budget, rough.budget) == (1e-5, 0.1)
    assert exact.status == "failed" and "score is off by" not in (rough.reason or "")
    assert rough.details["metric_budget"] == 0.2
    assert "emulated on a CPU" in rough.details["note"]  # its tensors have 16 bits
    assert "note" not in exact.details
    assert [row[1] for row in artifacts_table(load_manifest(bundle)).rows] == ["fp32", "fp12"]


def test_its_budgets_decide_parity(made_up: None) -> None:
    hu = np.random.default_rng(0).normal(40, 300, (4, 512, 512)).astype(np.int16)
    expected = reference(hu)
    off = expected | {"score": 1.05 * expected["score"]}
    evidence = Evidence(GoldenSlices(hu), expected, labels=expected["score"])
    assert compare("fp12", off, evidence).status == "passed"
    assert compare("fp16", off, evidence).status == "failed"


def test_a_session_runs_it_within_its_budget(made_up: None, tmp_path: Path) -> None:
    bundle = write_made_up(tmp_path / "bundle", score_offset=0.1)
    with pytest.raises(CheckFailed, match="self-test failed"):
        Session(bundle, "onnxruntime-cpu")  # the most accurate by default: float32
    with Session(bundle, "onnxruntime-cpu", "fp12") as session:
        assert session.artifact.precision == "fp12"


def test_benches_find_and_check_it(made_up: None, tmp_path: Path) -> None:
    bundle = write_made_up(tmp_path / "bundle", score_offset=0.1)
    titles = [c.title for c in find(bundle, probe=False).candidates]
    assert "onnxruntime-cpu-fp12" in titles

    def run(hu: np.ndarray) -> dict[str, np.ndarray]:
        outputs = reference(hu[:, 0])
        return outputs | {"score": outputs["score"] + 0.1}

    candidate = Candidate("peer", "fp12", "peer", None, lambda batch: run)
    assert check(run, candidate, bundle, 1) == pytest.approx(0.1)
    with pytest.raises(Inexact, match="peer-fp32 is not timed at batch 1: score is off by"):
        check(run, replace(candidate, precision="fp32"), bundle, 1)


@pytest.mark.parametrize("row", [HALF, QUANTIZED, ENGINE], ids=lambda row: row.name)
def test_the_roofline_knows_its_sizes_and_rates(made_up: None, row: Precision) -> None:
    from clinreadnet.model.network import ClinReadNetConfig

    config, parameters = ClinReadNetConfig(), 10**9
    work, none = (roofline.network(config, 1, row.name, n) for n in (parameters, 0))
    assert work.bytes - none.bytes == row.item_size * parameters
    rates = {"copy": 1e30, "fp32": 1e9}
    assert roofline.limit(work, rates, row.name) == work.flops / 1e9
    assert roofline.limit(work, rates | {row.name: 4e9}, row.name) == work.flops / 4e9


def test_a_report_recommends_it(made_up: None, tmp_path: Path) -> None:
    bundle = write_made_up(tmp_path / "bundle")
    manifest = load_manifest(bundle)
    facts = {"sha256": manifest.artifact("clinreadnet.fp12.onnx").sha256}
    row = recorded_run.row("onnxruntime-cpu", "fp12", 0.1, **facts)
    run = read_run(recorded_run.write(tmp_path, recorded_run.document([row])))
    assert network_table(run.rows).rows[0][0] == "onnxruntime-cpu fp12"
    verdict = recommend(run, manifest, "score<=0.02").refused[0]
    assert verdict.reason == "score not measured"  # and nothing about its precision


def test_graphs_are_lowered_to_it(made_up: None) -> None:
    from clinreadnet.export.onnx.precision import convert
    from clinreadnet.verify.emulate import element_types, emulate

    graph = onnx.load_model_from_string(make_graph())
    graph.opset_import[0].version = 20
    lowered = convert(graph, "fp12")
    assert [o.version for o in lowered.opset_import] == [21]
    assert onnx.TensorProto.FLOAT16 in element_types(lowered).values()
    emulated = onnx.load_model_from_string(emulate(lowered.SerializeToString()))
    assert any(node.name.endswith("_rounded") for node in emulated.graph.node)


def test_pytorch_exports_it(made_up: None, tmp_path: Path) -> None:
    from clinreadnet.export.onnx.export import export_onnx
    from clinreadnet.model.network import PRESETS, ClinReadNet

    path = tmp_path / "clinreadnet.fp12.onnx"
    network = ClinReadNet(replace(PRESETS["tiny"], depths=(1,), heads=(2,))).eval()
    export_onnx(network, path, precision="fp12")
    graph = onnx.load(path)
    assert [o.version for o in graph.opset_import] == [21]
    assert "fp12" in graph.doc_string
    assert onnx.TensorProto.FLOAT16 in {t.data_type for t in graph.graph.initializer}


@pytest.mark.parametrize(
    ("wanted", "exported", "chosen"),
    [
        pytest.param(None, ("fp12", "tf16"), ("tf16",), id="engines-alone"),
        pytest.param(("tf16", "fp12"), ("fp12",), ("tf16", "fp12"), id="of-its-source"),
    ],
)
def test_engines_are_built_in_it(
    made_up: None,
    wanted: tuple[str, ...] | None,
    exported: tuple[str, ...],
    chosen: tuple[str, ...],
) -> None:
    from clinreadnet.export.request import choose_engine_precisions

    assert choose_engine_precisions(wanted, exported) == chosen
    with pytest.raises(InputError, match="engine_precisions=tf16: its graph is not exported"):
        choose_engine_precisions(("tf16",), ("fp32",))


def test_the_layers_of_an_engine_are_held_to_it(made_up: None) -> None:
    from clinreadnet.export.engines.layers import check_built, check_types

    products = {"MATRIX_MULTIPLY": {"FLOAT": 5, "HALF": 3}, "CONVOLUTION": {"FLOAT": 1, "HALF": 3}}
    check_types(products, "fp12", "graph")
    check_types(products, "tf16", "graph")
    check_types(products | {"QUANTIZE": {"INT4": 2}}, "int4", "graph")
    with pytest.raises(CheckFailed, match="not INT4; the network is not int4"):
        check_types(products | {"QUANTIZE": {"INT8": 2}}, "int4", "graph")
    outputs = [{"Name": "t", "Format/Datatype": "Half"}]
    inspected = {"Layers": [{"Name": "l", "Outputs": outputs}], "Bindings": []}
    assert check_built(inspected, "fp12", "engine") == {"Half": 1}


def test_kernels_are_compiled_in_it(
    made_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from clinreadnet.export import kernels

    few = kernels.sources("tiny")[::5]
    monkeypatch.setattr(kernels, "sources", lambda preset: few)
    made = kernels.export_kernels(
        tmp_path / "kernels", formats=["ptx"], targets=["sm90"], precisions=["fp12"], preset="tiny"
    )
    assert {kernel.precision for kernel in made.kernels} == {"fp12"}
    with pytest.raises(InputError, match="precisions=int4: unknown; known: fp32, fp16, bf16"):
        kernels.export_kernels(
            tmp_path / "none", formats=["ptx"], targets=["sm90"], precisions=["int4"]
        )


def test_tuning_takes_the_budget_of_a_type_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton", reason="triton is not installed")
    from clinreadnet.kernels.registry import OPS
    from clinreadnet.tuning.tunable import examples_of

    monkeypatch.setitem(PRECISIONS, "fp16", replace(PRECISIONS["fp16"], budget=0.25))
    entry = OPS["mlp"].tuning("float16", "48")
    (example,) = examples_of(OPS["mlp"], entry, torch.device("meta"))
    assert example.budget == 0.25


def test_the_command_line_names_it() -> None:
    code = (
        "from dataclasses import replace\n"
        "from clinreadnet.precision import PRECISIONS\n"
        "PRECISIONS['fp12'] = replace(PRECISIONS['fp16'], name='fp12')\n"
        "from clinreadnet.cli import main\n"
        "main()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, "export", "--help"], capture_output=True, text=True
    )
    words = " ".join(shown.stdout.replace("│", " ").split())
    known = "fp32, tf32 (engines only), fp16, bf16, int8, fp8, int8-dynamic or fp12; repeatable"
    assert known in words
    assert "stays float32 in fp16, bf16 and fp12 graphs" in words
