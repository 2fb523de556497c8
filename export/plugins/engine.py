"""What the builder of an engine needs to know of a graph's plugins."""

from __future__ import annotations

from typing import Any

from clinreadnet.errors import CheckFailed
from clinreadnet.export.engines.layers import OWN_PRODUCTS, LayerTypes, check_types
from clinreadnet.export.plugins.names import PORTABLE
from clinreadnet.export.plugins.plan import Plan
from clinreadnet.export.plugins.register import plugin_module, register_plugins
from clinreadnet.runtime.backends.flavours import Flavour

_PLUGIN_LAYER = "PLUGIN_V3"


class GraphPlugins:
    """The plugins of one graph.

    Args:
        plan: its plugins and their kernels.
        portable: whether engines are for every GPU since Ampere.
    """

    def __init__(self, plan: Plan, *, portable: bool = False) -> None:
        self.plan, self._portable = plan, portable

    def prepare(self, trt: Any, flavour: Flavour) -> int:
        """Register the plugins, so that the parser finds them; return flags of the network.

        Raises:
            ClinReadNetError: this TensorRT takes no plugins that are compiled ahead of time.
        """
        self._module = plugin_module(trt, flavour)
        self.register(trt, next(iter(self.plan.kernels)))
        return 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)

    def register(self, trt: Any, target: str) -> None:
        """Let the plugins have the kernels of a target."""
        kernels = self.plan.of_target(PORTABLE if self._portable else target)
        register_plugins(trt, self._module, kernels)

    def check(self, layers: LayerTypes, precision: str, file: str) -> None:
        """Check that every node of the plan is a plugin layer, and the types of the others.

        Raises:
            CheckFailed: TensorRT took a function instead of a plugin, or a type is another.
        """
        wanted = sum(len(node.layers) for node in self.plan.nodes)
        found = sum(layers.get(_PLUGIN_LAYER, {}).values())
        if found != wanted:
            raise CheckFailed(
                f"{file}: {found} of {wanted} nodes became plugins; this TensorRT's parser built "
                "the functions instead"
            )
        own = dict(OWN_PRODUCTS)
        if self.plan.layers("sobel_stem"):
            own["CONVOLUTION"] = 0  # the edges are inside the kernel
        check_types(layers, precision, file, own=own)
