"""`clinreadnet check-graph`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Checkpoint, Json, WantedPreset
from clinreadnet.console import Output, status
from clinreadnet.errors import CheckFailed, InputError


def check_graph(
    graphs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="ONNX files. Default: the graphs that the checkpoint exports to.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    preset: WantedPreset = "small",
    precisions: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            help="Precision to export the checkpoint in: fp32, fp16 or bf16; repeatable. "
            "Default: fp32 and fp16.",
        ),
    ] = None,
    plugins: Annotated[
        str,
        typer.Option(
            metavar="OPS",
            help="Ops whose kernels to check as plugins of engines instead.",
        ),
    ] = "none",
    as_json: Json = False,
) -> None:
    """Find the nodes of a graph that a TensorRT cannot build. Nothing is built.

    Without graphs, the checkpoint is exported first, which takes about a minute. Exit status 1: a
    graph has a blocker.

    Examples:
    - `clinreadnet check-graph`
    - `clinreadnet check-graph bundle/clinreadnet.fp16.onnx --json`
    - `clinreadnet check-graph --checkpoint run/model.safetensors --precision bf16`
    - `clinreadnet check-graph --plugins sobel_stem,mlp --precision fp16`
    """
    if graphs and (checkpoint is not None or precisions):
        raise InputError("--checkpoint and --precision cannot be combined with ONNX files")
    with status("Importing PyTorch"):
        from clinreadnet.export.engines.check import check_graphs, print_findings
        from clinreadnet.export.plugins.request import check_triton, parse_plugins
        from clinreadnet.precision import DEFAULT_PRECISIONS

    wanted = parse_plugins(plugins)
    if wanted and graphs:
        raise InputError("--plugins cannot be combined with ONNX files, whose plugins are fixed")
    if wanted:
        check_triton()
        from clinreadnet.export.plugins.plan import check_plugins

        findings = check_plugins(
            wanted, checkpoint, preset=preset, precisions=precisions or DEFAULT_PRECISIONS
        )
    else:
        findings = check_graphs(
            graphs or (), checkpoint, preset=preset, precisions=precisions or DEFAULT_PRECISIONS
        )
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        print_findings(findings, Output(markup=True))
    if any(finding.blockers for finding in findings):
        raise CheckFailed("some graphs cannot be built; the blockers above say why")
