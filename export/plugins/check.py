"""`clinreadnet check-graph --plugins`: what would stop a kernel from being a plugin."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from clinreadnet.errors import InputError
from clinreadnet.export.engines.check import Blocker, Finding
from clinreadnet.export.plugins.names import ALL, AUTO, PLUGIN_OPS, PORTABLE
from clinreadnet.kernels.spec import NetworkShape
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.precision import find_precision
from clinreadnet.runtime.backends.flavours import FLAVOURS
from clinreadnet.runtime.bundle.plugins import driver_obstacle
from clinreadnet.runtime.gpu import driver_version, find_gpus


def check_plugins(
    wanted: Sequence[str],
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    preset: str = "small",
    precisions: Sequence[str],
) -> list[Finding]:
    """Compile each kernel of the ops for this machine's GPU, else for sm80, and list obstacles.

    Args:
        wanted: names of ops, or ``ALL``.
        checkpoint: checkpoint file; default the shipped one of ``preset``.
        preset: preset that the checkpoint must have.
        precisions: of the graphs, those that PyTorch exports.

    Raises:
        InputError: `--plugins auto`, no Triton, or a precision that PyTorch does not export.
    """
    if AUTO in wanted:
        raise InputError("plugins=auto: a check builds nothing to measure; name ops, or give all")
    if importlib.util.find_spec("triton") is None:
        raise InputError(
            '`plugins`: needs triton, which is not installed; run `pip install "clinreadnet'
            '[export,kernels]"`'
        )
    for precision in precisions:
        if not find_precision(precision).exported:
            raise InputError(f"precisions={precision}: no graph of it has plugins")
    model = load_checkpoint(
        Path(checkpoint) if checkpoint is not None else pretrained_path(preset), preset=preset
    )
    from clinreadnet.export.kernels import network_shape

    ops = PLUGIN_OPS if ALL in wanted else tuple(wanted)
    gpus = find_gpus()
    target = gpus[0].target if gpus else PORTABLE
    network = network_shape(model.config)
    findings = []
    for precision in precisions:
        graph = f"plugins of {precision}"
        blockers = _blockers(ops, network, precision, target)
        for flavour in FLAVOURS:
            judge = f"kernels compiled for {target}"
            if flavour.plugins:
                findings.append(Finding(graph, flavour.title, judge, blockers))
            else:
                note = "takes no plugins; build the graph without them"
                findings.append(Finding(graph, flavour.title, None, note=note))
    return findings


def _blockers(
    ops: Sequence[str], network: NetworkShape, precision: str, target: str
) -> tuple[Blocker, ...]:
    from clinreadnet.export.plugins.kernel import Native, plugin_kernel
    from clinreadnet.kernels.registry import OPS

    found = []
    for op in ops:
        for source in OPS[op].sources(network):
            try:
                kernel = plugin_kernel(OPS[op], source, precision, target)
            except Native as reason:
                found.append(Blocker(source.name, op, str(reason)))
                continue
            if obstacle := driver_obstacle(kernel.isa, driver_version()):
                found.append(Blocker(source.name, op, obstacle))
    return tuple(found)
