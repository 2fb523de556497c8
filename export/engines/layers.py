"""Check the precision of an engine by the types of its layers, before and after the build.

Before the build, the layers of the strongly typed network are counted by kind and type. After the
build, TensorRT's inspector reports the types that were built, if this machine's GPU can load the
engine; otherwise TensorRT-RTX's builder lists them in its log.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinreadnet.errors import CheckFailed
from clinreadnet.precision import PRECISIONS, lowered_precisions

LayerTypes = dict[str, dict[str, int]]
"""Number of network layers by kind and by type of their output: {"CONVOLUTION": {"HALF": 2}}."""

_PRODUCTS = ("MATRIX_MULTIPLY", "CONVOLUTION")
_FLOAT32_KINDS = ("NORMALIZATION", "SOFTMAX", "REDUCE", "UNARY")
"""Kinds of layers in float32 islands: LayerNorm, softmax with exponentials and sums, mixture."""
OWN_PRODUCTS = {"CONVOLUTION": 1, "MATRIX_MULTIPLY": 5}
"""Number of float32 products in the network: Sobel edges; mixture of votes, pooled tokens and the
two layers after them, and whitening of the novelty."""


_LAUNCH_NOTHING = ("shape_call", "signal", "wait")
"""Kinds of layers in the builder's listing that order others and launch no kernel."""


def layers_path(engine: Path) -> Path:
    """Return the path of the layers report of an engine."""
    return engine.with_name(engine.name.removesuffix(".engine") + ".layers.json")


def layer_types(network: Any) -> LayerTypes:
    """Count the layers of a TensorRT network by kind and by type of their first output."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        counts[layer.type.name][layer.get_output(0).dtype.name] += 1
    return {kind: dict(sorted(types.items())) for kind, types in sorted(counts.items())}


def check_types(
    layers: LayerTypes,
    precision: str,
    file: str,
    chosen: dict[str, int] | None = None,
    own: Mapping[str, int] = OWN_PRODUCTS,
) -> None:
    """Check that products run in ``precision`` and the float32 islands in float32.

    An engine that was silently built in float32 would pass every numerical check.

    Args:
        layers: layers of the network, counted by kind and type.
        precision: a name of the table in `clinreadnet.precision`.
        file: file name for errors.
        chosen: number of float32 products from `--fp32-islands auto`, by kind; None for the
            network's own islands.
        own: number of float32 products of the network itself, by kind.

    Raises:
        CheckFailed: a layer has another type.
    """
    row = PRECISIONS[precision]
    wanted = row.tensorrt_type
    allowed = own if chosen is None else chosen
    for kind in _PRODUCTS:
        types = dict(layers.get(kind, {}))
        if wanted != "FLOAT" and kind in allowed:
            types["FLOAT"] = types.get("FLOAT", 0) - allowed[kind]
        others = {name: count for name, count in types.items() if name != wanted and count}
        if others or not (types.get(wanted) or allowed.get(kind)):
            raise CheckFailed(
                f"{file}: {kind} layers are {layers.get(kind, {})}, not {wanted}; "
                f"the network is not {precision}"
            )
    quantized = row.quantized_type
    if quantized is not None and set(layers.get("QUANTIZE", {})) != {quantized}:
        raise CheckFailed(
            f"{file}: QUANTIZE layers are {layers.get('QUANTIZE', {})}, not {quantized}; "
            f"the network is not {precision}"
        )
    for kind in _FLOAT32_KINDS if chosen is None else ():
        if set(layers.get(kind, {})) - {"FLOAT"}:
            raise CheckFailed(f"{file}: {kind} layers are {layers[kind]}, must be FLOAT")


def listed_layers(listing: str) -> dict[str, Any]:
    """Read the layers of an engine that the builder lists in its log, in the inspector's form.

    TensorRT-RTX lists them without a GPU.

    Args:
        listing: message of the log: a line for each layer, then the tensors of the engine.

    Returns:
        ``Layers`` with name, ``LayerType`` and outputs, and ``Bindings``. Layers that launch
        nothing are left out.
    """
    layers = []
    for name, kind, outputs in re.findall(
        r"^Name: (.*?), LayerType: (\w+),.*?, Outputs: (\[.*?\]), TacticName", listing, re.M
    ):
        if kind not in _LAUNCH_NOTHING:
            types = re.findall(r"Name: ([^,]*),.*?Datatype: (\w+)", outputs)
            tensors = [{"Name": tensor, "Format/Datatype": dtype} for tensor, dtype in types]
            layers.append({"Name": name, "LayerType": kind, "Outputs": tensors})
    return {"Layers": layers, "Bindings": re.findall(r"^ Name: (.*?), IOMode:", listing, re.M)}


def fused_attentions(built: dict[str, Any]) -> int:
    """Count the layers of a built engine that compute a whole attention."""
    return sum("_mha" in str(layer["Name"]) for layer in _detailed(built))


def _detailed(built: dict[str, Any]) -> list[dict[str, Any]]:
    # Without detailed verbosity the report contains only names of layers.
    return [layer for layer in built.get("Layers", ()) if isinstance(layer, dict)]


def check_built(inspected: dict[str, Any], precision: str, file: str) -> Counter[str]:
    """Check the types inside a built engine.

    Args:
        inspected: report of TensorRT's inspector, parsed from JSON, or of `listed_layers`.
        precision: a name of the table in `clinreadnet.precision`.
        file: file name for errors.

    Returns:
        Number of inner tensors by type. Empty if the engine is a single fused layer, whose inner
        types the inspector does not report.

    Raises:
        CheckFailed: no inner tensor has the type, or a float32 engine has narrower inner tensors.
    """
    ends = {str(name) for name in inspected.get("Bindings", ())}
    built: Counter[str] = Counter()
    for layer in _detailed(inspected):
        for output in layer.get("Outputs", ()):
            if output.get("Name") not in ends:
                built[str(output.get("Format/Datatype"))] += 1
    if not built:
        return built
    row = PRECISIONS[precision]
    if not any(re.search(row.built_pattern, kind) for kind in built):
        raise CheckFailed(f"{file}: built with {dict(built)}, nothing in {precision}")
    fewer_bits = "|".join(PRECISIONS[lower].built_pattern for lower in lowered_precisions())
    if not row.reduced and any(re.search(fewer_bits, kind) for kind in built):
        raise CheckFailed(f"{file}: built with {dict(built)}, not in {precision} alone")
    return built
