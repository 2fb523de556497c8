"""`clinreadnet check-graph`: layers that a TensorRT cannot build."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.export_models import RTX_MISSING
from typer.testing import CliRunner, Result

from clinreadnet.cli import app
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.export.engines.check import ask_table, check_graph, operator_table
from clinreadnet.runtime.backends.flavours import FLAVOURS

Graph = Callable[[str, str], Path]


def check(*graphs: Path, options: tuple[str, ...] = ()) -> Result:
    return CliRunner().invoke(app, ["check-graph", *map(str, graphs), *options])


def make(
    operator: str,
    *,
    dtype: int = TensorProto.FLOAT,
    opset: int = 20,
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    constants: dict[str, Any] | None = None,
    out_type: int | None = None,
    shape: tuple[int | str, ...] = (2, 2, 4, 4),
    **attributes: Any,
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    node = helper.make_node(operator, inputs, outputs, name="odd", **attributes)
    given = [value(name, dtype, [2, 2, 4, 4]) for name in inputs if name == "x"]
    given += [value(name, TensorProto.INT64, [1]) for name in inputs if name == "axes"]
    graph = helper.make_graph(
        [node],
        "g",
        given,
        [value("y", out_type or dtype, shape)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


ANY = ("a", "b", "c", "d")
ZERO, ONE = np.zeros((), np.int8), np.ones((), np.float32)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(make("Relu"), None, id="supported"),
        pytest.param(make("Det", shape=(2, 2)), "not a supported operator", id="unsupported"),
        pytest.param(
            make("Mish", dtype=TensorProto.DOUBLE), "takes FP32, FP16, not DOUBLE", id="type"
        ),
        pytest.param(
            make("ReduceSum", inputs=("x", "axes"), shape=ANY),
            "its input 1 must be a constant",
            id="axes",
        ),
        pytest.param(
            make("ReduceSum", inputs=("x", "a"), constants={"a": np.ones(1, np.int64)}, shape=ANY),
            None,
            id="constant-axes",
        ),
        pytest.param(
            make(
                "LayerNormalization",
                inputs=("x", "s"),
                outputs=("y", "mean"),
                constants={"s": np.ones(4, np.float32)},
            ),
            "only its first output",
            id="second-output",
        ),
        pytest.param(
            make(
                "QuantizeLinear",
                inputs=("x", "s", "z"),
                constants={"s": ONE, "z": ZERO + np.int8(3)},
                out_type=TensorProto.INT8,
            ),
            "its zero point must be zero",
            id="zero-point",
        ),
        pytest.param(
            make(
                "QuantizeLinear",
                inputs=("x", "s", "z"),
                constants={"s": ONE, "z": ZERO},
                out_type=TensorProto.INT8,
            ),
            None,
            id="symmetric",
        ),
        pytest.param(make("Relu", opset=8), "operator set ai.onnx 8, not 9 to 24", id="opset"),
    ],
)
def test_published_table(model: onnx.ModelProto, reason: str | None) -> None:
    blockers = ask_table(model, operator_table())
    assert [b.reason for b in blockers if reason is None or reason not in b.reason] == []
    assert bool(blockers) == (reason is not None)


def test_the_table_names_its_source_and_version() -> None:
    table = operator_table()
    assert table["version"] and "onnx-tensorrt" in table["source"]
    assert set(table["constant_inputs"]) <= set(table["operators"])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_our_graphs_have_no_blocker(graph: Graph, precision: str) -> None:
    findings = check_graph(graph("tiny", precision))
    assert [finding.flavour for finding in findings] == [f.title for f in FLAVOURS]
    assert [finding.blockers for finding in findings] == [(), (), ()]
    judges = {f.flavour: f.judge for f in findings}
    assert "operators.md" in str(judges["tensorrt 10.x"])
    if RTX_MISSING is None:
        assert "parser of tensorrt-rtx 1." in str(judges["tensorrt-rtx 1.x"])


@pytest.mark.skipif(RTX_MISSING is not None, reason=str(RTX_MISSING))
def test_blockers_are_named_and_the_exit_status_is_1(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    onnx.save(make("Det", shape=(2, 2)), path)
    result = check(path, options=("--json",))
    assert isinstance(result.exception, CheckFailed)
    assert result.exception.exit_code == 1
    findings = json.loads(result.stdout)["findings"]
    assert len(findings) == 3
    for finding in findings:
        assert finding["blockers"][0]["node"] == "odd", finding
        assert finding["blockers"][0]["operator"] == "Det"
    table = check(path).stdout
    assert "blocked odd.onnx, tensorrt-rtx 1.x: odd (Det):" in table


@pytest.mark.skipif(RTX_MISSING is not None, reason=str(RTX_MISSING))
def test_the_parser_finds_what_the_operators_name_does_not_say(tmp_path: Path) -> None:
    path = tmp_path / "reduce.onnx"
    onnx.save(make("ReduceSum", inputs=("x", "axes"), shape=ANY), path)
    by_flavour = {finding.flavour: finding for finding in check_graph(path)}
    (blocker,) = by_flavour["tensorrt-rtx 1.x"].blockers
    assert (blocker.node, blocker.operator) == ("odd", "ReduceSum")
    assert blocker.reason != "the parser does not know this operator"


@pytest.mark.parametrize("content", [None, b"no graph"], ids=["missing", "not-a-graph"])
def test_a_file_that_is_no_graph_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="x.onnx: (no such file|not an ONNX graph)"):
        check_graph(path)


def test_a_bundle_is_told_to_name_its_graphs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; give its ONNX files: .*/\*.onnx"):
        check_graph(tmp_path)


def test_8_bit_graphs_are_checked_from_their_file() -> None:
    result = CliRunner().invoke(app, ["check-graph", "--precision", "int8"])
    assert isinstance(result.exception, InputError)
    assert "give the ONNX file as GRAPHS" in str(result.exception)


@pytest.mark.parametrize(
    "options", [("--checkpoint", "x"), ("--precision", "fp32")], ids=["checkpoint", "precision"]
)
def test_a_graph_has_its_own_weights_and_precision(options: tuple[str, ...]) -> None:
    result = check(Path("x.onnx"), options=options)
    assert isinstance(result.exception, InputError)
    assert "cannot be combined with ONNX files" in str(result.exception)
