"""`clinreadnet check-graph`: find the nodes of a graph that a TensorRT cannot build.

For an installed flavour, its parser checks each node. Otherwise the operator table of the parser's
project is used (`operators.json`, which states source and version).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from rich.console import Console
from rich.markup import escape

from clinreadnet.console import Column, fitted_table, status
from clinreadnet.errors import InputError, first_line
from clinreadnet.export.engines.build import parser_error
from clinreadnet.files import read_regular
from clinreadnet.limits import BUNDLE_FILE
from clinreadnet.precision import DEFAULT_PRECISIONS, find_precision
from clinreadnet.runtime.backends.flavours import (
    FLAVOURS,
    Flavour,
    FlavourMissing,
    collecting_logger,
    load_flavour,
)
from clinreadnet.runtime.bundle.graph import check_graph as check_content
from clinreadnet.verify.emulate import element_types, without_functions

_TABLE_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.FLOAT8E4M3FN: "FP8",
    TensorProto.INT8: "INT8",
    TensorProto.DOUBLE: "DOUBLE",
}
"""Names of relevant types in the table. TensorRT converts integers and masks."""


@dataclass(frozen=True)
class Blocker:
    """A node that a flavour cannot build, and the reason."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """Result for a graph and a flavour.

    Attributes:
        graph: file name of the graph.
        flavour: name and major version of the flavour.
        judge: source of the result: a parser with its version, or the published table; None if the
            graph was not checked.
        blockers: nodes that cannot be built; empty if there are none.
        note: why the graph was not checked.
    """

    graph: str
    flavour: str
    judge: str | None
    blockers: tuple[Blocker, ...] = ()
    note: str | None = None


def check_graphs(
    graphs: Sequence[str | os.PathLike[str]],
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    preset: str = "small",
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
) -> list[Finding]:
    """Check each graph against each flavour.

    Args:
        graphs: ONNX files; if empty, graphs are exported from ``checkpoint``.
        checkpoint: checkpoint file; default the shipped one of ``preset``.
        preset: preset that the checkpoint must have.
        precisions: precisions of the exported graphs, from those that PyTorch exports.

    Raises:
        InputError: a file is missing or not an ONNX graph, or a precision is unknown.
    """
    if graphs:
        return [finding for graph in graphs for finding in check_graph(Path(graph))]
    from clinreadnet.export.onnx.export import check_network, export_onnx
    from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path

    for precision in precisions:
        if not find_precision(precision).exported:
            raise InputError(
                f"precisions={precision}: export it first and give the ONNX file as `graphs`"
            )
    path = Path(checkpoint) if checkpoint is not None else pretrained_path(preset)
    model = load_checkpoint(path, preset=preset)
    check_network(model, path)
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            file = Path(folder) / f"clinreadnet.{precision}.onnx"
            with status(f"Exporting the {precision} graph"):
                export_onnx(model, file, precision=precision)
            findings += check_graph(file)
    return findings


def check_graph(path: Path) -> list[Finding]:
    """Check a graph against every flavour.

    Raises:
        InputError: the file is missing, is not an ONNX graph, or needs another file.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give its ONNX files: {path}/*.onnx")
    content = read_regular(path, BUNDLE_FILE)
    check_content(content, str(path))
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model)
        functions = {(function.domain, function.name) for function in model.functions}
        plugins = sum((node.domain, node.op_type) in functions for node in model.graph.node)
        if plugins:  # check the functions, which a TensorRT without plugins builds
            model = without_functions(model)
            content = model.SerializeToString()
    except Exception as error:  # protobuf's and onnx's errors share no base class
        raise InputError(f"{path}: not an ONNX graph ({first_line(error)})") from None
    findings = []
    for flavour in FLAVOURS:
        try:
            installed, module = load_flavour(flavour.name)
        except FlavourMissing as error:
            findings.append(_without_parser(path, model, flavour, str(error)))
            continue
        if installed == flavour:
            blockers = ask_parser(module, content, model)
            judge = f"parser of {flavour.name} {module.__version__}"
            findings.append(Finding(path.name, flavour.title, judge, tuple(blockers)))
        else:
            findings.append(_without_parser(path, model, flavour, f"{installed.title} is here"))
    return [_noted(finding, plugins) for finding in findings] if plugins else findings


def _noted(finding: Finding, plugins: int) -> Finding:
    """Add a note that the functions of plugin nodes were checked, not the plugins."""
    said = f"{plugins} nodes are plugins where a build registers them; judged are their functions"
    return replace(finding, note=f"{said}; {finding.note}" if finding.note else said)


def ask_parser(trt: Any, content: bytes, model: onnx.ModelProto) -> list[Blocker]:
    """Return the nodes that TensorRT's parser rejects: by operator, by subgraph and by its errors.

    Args:
        trt: module of the flavour.
        content: serialised graph.
        model: parsed graph.
    """
    logger = collecting_logger(trt, [])
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    blockers: dict[str, Blocker] = {}

    def block(index: int, reason: str) -> None:
        node = model.graph.node[index]
        name = node.name or f"{node.op_type}[{index}]"
        blockers.setdefault(name, Blocker(name, node.op_type, reason))

    known = {op: parser.supports_operator(op) for op in {n.op_type for n in model.graph.node}}
    for index, node in enumerate(model.graph.node):
        if not known[node.op_type]:
            block(index, "the parser does not know this operator")
    if not parser.supports_model_v2(content):
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            if 0 <= error.node() < len(model.graph.node):
                block(error.node(), first_line(error.desc()))
        for subgraph in range(parser.num_subgraphs):
            if not parser.is_subgraph_supported(subgraph):
                for index in parser.get_subgraph_nodes(subgraph):
                    block(index, "in a subgraph that the parser does not take")
        if not blockers:
            reason = parser_error(parser) if parser.num_errors else "the parser gives no reason"
            blockers[""] = Blocker("", "", reason)
    return list(blockers.values())


def ask_table(model: onnx.ModelProto, table: dict[str, Any]) -> list[Blocker]:
    """Return the nodes that the published operator table excludes.

    Args:
        model: the graph.
        table: operator table from `operator_table`.
    """
    low, high = table["opset"]
    blockers = [
        Blocker("", "", f"operator set {o.domain or 'ai.onnx'} {o.version}, not {low} to {high}")
        for o in model.opset_import
        if o.domain not in ("", "ai.onnx") or not low <= o.version <= high
    ]
    types = element_types(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:  # functions have no initializers
        for attribute in node.attribute if node.op_type == "Constant" else ():
            constants[node.output[0]] = attribute.t

    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}[{index}]"
        supported = table["operators"].get(node.op_type, [])
        reasons = [] if supported else ["not a supported operator"]
        taken = _TABLE_TYPES.get(types.get(node.input[0], 0)) if node.input else None
        if supported and taken is not None and taken not in supported:
            reasons.append(f"takes {', '.join(supported)}, not {taken}")
        for position in table["constant_inputs"].get(node.op_type, ()):
            if position < len(node.input) and node.input[position] not in {"", *constants}:
                reasons.append(f"its input {position} must be a constant")
        if node.op_type in table["single_output"] and any(node.output[1:]):
            reasons.append("only its first output is supported")
        if node.op_type in table["zero_point_must_be_zero"] and len(node.input) > 2:
            zero = constants.get(node.input[2])
            if zero is None or np.any(numpy_helper.to_array(zero).astype(np.float32)):
                reasons.append("its zero point must be zero")
        blockers += [Blocker(name, node.op_type, reason) for reason in reasons]
    return blockers


def operator_table() -> dict[str, Any]:
    """Return the published table of the operators of TensorRT's parser."""
    return json.loads(files(__package__).joinpath("operators.json").read_bytes())


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print a row for each graph and flavour, then each blocker."""
    counts = [str(len(f.blockers)) if f.judge else "not checked" for f in findings]
    columns = [
        Column("flavour", [f.flavour for f in findings], justify="left"),
        Column("asked", [fill(f.judge or "", 34) for f in findings], leave_out=1, justify="left"),
        Column("blockers", counts),
    ]
    names = [f.graph for f in findings]
    console.print(fitted_table(console, "graph", names, columns, most=12, compact=True))
    for finding in findings:
        for line in (f"{b.node} ({b.operator}): {b.reason}" for b in finding.blockers):
            console.print(
                f"[red]blocked[/] {escape(f'{finding.graph}, {finding.flavour}: {line}')}",
                soft_wrap=True,
            )
        if finding.note:
            console.print(
                escape(f"{finding.graph}, {finding.flavour}: {finding.note}"), soft_wrap=True
            )


def _without_parser(path: Path, model: onnx.ModelProto, flavour: Flavour, why: str) -> Finding:
    if flavour.name != "tensorrt":
        return Finding(path.name, flavour.title, None, note=f"not checked: {why}")
    table = operator_table()
    judge = f"{table['source']}, TensorRT {table['version']}"
    return Finding(path.name, flavour.title, judge, tuple(ask_table(model, table)))
