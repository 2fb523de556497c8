"""What `clinreadnet export` is asked to make, and the checks of the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from clinreadnet.errors import InputError
from clinreadnet.export.engines.options import (
    DEFAULT_BATCH,
    DEFAULT_TARGETS,
    BuildOptions,
    check_batch,
    check_options,
    resolve_targets,
)
from clinreadnet.export.onnx.quantization import load_dynamic_quantizer, load_optimizer
from clinreadnet.export.plugins.request import check_request
from clinreadnet.precision import (
    DEFAULT_ENGINE_PRECISION,
    DEFAULT_PRECISIONS,
    PRECISIONS,
    find_precision,
    quantized_precisions,
)
from clinreadnet.runtime.backends.flavours import FlavourMissing, load_flavour, newest
from clinreadnet.runtime.bundle.manifest import BatchRange


@dataclass(frozen=True)
class GraphRequest:
    """The graphs of a bundle.

    Attributes:
        precisions: precisions of the ONNX graphs. "tf32" is an engine of the float32 graph.
        batch: batch sizes of the bundle and profile of the engines.
        auto_islands: search for the nodes of float16 and bfloat16 graphs to keep in float32,
            instead of the network's own islands.
        fused_attention: write the attention of unshifted windows in 16-bit graphs as TensorRT
            fuses it into one kernel.
    """

    precisions: Sequence[str] = DEFAULT_PRECISIONS
    batch: BatchRange = DEFAULT_BATCH
    auto_islands: bool = False
    fused_attention: bool = False


@dataclass(frozen=True)
class EngineRequest:
    """The engines of a bundle.

    Attributes:
        flavour: flavour of TensorRT that builds the engines.
        targets: architectures of the engines, or "current" for this machine's GPU; can be empty.
            Default: ``DEFAULT_TARGETS`` if TensorRT-RTX is installed.
        precisions: precisions of the engines. Default: fp16 if exported, otherwise all, and tf32
            if requested.
        options: build options.
        plugins: ops whose kernels become plugins of the engines, or "all". A second graph with
            plugin nodes is then written for each engine's graph.
    """

    flavour: str = "tensorrt-rtx"
    targets: Sequence[str] | None = None
    precisions: Sequence[str] | None = None
    options: BuildOptions = BuildOptions()
    plugins: Sequence[str] = ()


def check_export(
    graphs: GraphRequest, engines: EngineRequest, note: Callable[[str], None]
) -> tuple[GraphRequest, EngineRequest]:
    """Check a request, and choose what it leaves open.

    Args:
        graphs: the graphs that are wanted.
        engines: the engines that are wanted.
        note: called with one line if no engines are built because TensorRT-RTX is not installed.

    Returns:
        The graphs, each precision once, and the engines with their precisions and targets.

    Raises:
        InputError: a precision or target is unknown, the flavour does not support an option, the
            profile is invalid, two options exclude each other, a package is not installed, or
            targets are given and the flavour is not installed.
    """
    graphs = replace(graphs, precisions=tuple(dict.fromkeys(graphs.precisions)))
    engines_alone = [p for p in graphs.precisions if not find_precision(p).has_graph]
    flavour = newest(engines.flavour)
    check_batch(graphs.batch)
    check_options(engines.options, flavour)
    check_request(engines.plugins, flavour, engines.options, auto_islands=graphs.auto_islands)
    if graphs.fused_attention and graphs.auto_islands:
        raise InputError(
            "`fused_attention` and fp32_islands=auto exclude each other: the islands are searched "
            "in the float32 graph"
        )
    precisions = choose_engine_precisions(engines.precisions, graphs.precisions)
    if engines.targets is not None and not engines.targets and engines_alone:
        raise InputError(
            f"precisions={engines_alone[0]}: it is a precision of engines, and none are to be built"
        )
    targets = choose_targets(engines.targets, engines.flavour, note)
    if set(quantized_precisions()) & set(graphs.precisions):
        load_optimizer()
    if any(PRECISIONS[precision].dynamic for precision in graphs.precisions):
        load_dynamic_quantizer()
    return graphs, replace(engines, precisions=precisions, targets=targets)


def choose_targets(
    wanted: Sequence[str] | None, flavour: str, note: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the targets to build for; none by default if TensorRT-RTX is not installed."""
    row = newest(flavour)
    default = DEFAULT_TARGETS if row.targets else ("current",)
    targets = resolve_targets(default if wanted is None else wanted, row)
    if targets:
        try:
            load_flavour(flavour)
        except FlavourMissing as error:
            if wanted is not None or flavour != "tensorrt-rtx":
                raise
            note(f"no engines: {error}, then export again")
            return ()
    return targets


def choose_engine_precisions(
    wanted: Sequence[str] | None, exported: Sequence[str]
) -> tuple[str, ...]:
    """Return the precisions of the engines; by default one whose graph is exported.

    Raises:
        InputError: TensorRT cannot build one, or its graph is not exported.
    """
    if wanted is None:
        chosen = [
            p for p in exported if p == DEFAULT_ENGINE_PRECISION or not PRECISIONS[p].has_graph
        ]
        return tuple(chosen or (p for p in exported if not PRECISIONS[p].dynamic))
    for precision in wanted:
        if find_precision(precision).dynamic:
            raise InputError(
                f"engine_precisions={precision}: TensorRT has no layers that find their scales in "
                "each run; build int8, whose scales are calibrated"
            )
        if precision not in exported and find_precision(precision).graph not in exported:
            raise InputError(
                f"engine_precisions={precision}: its graph is not exported; "
                f"add precisions={precision}"
            )
    return tuple(dict.fromkeys(wanted))
