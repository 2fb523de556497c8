"""Types of a manifest for the plugins of a graph and of its engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from clinreadnet.runtime.bundle.types import FileName, FileSize, Sha256

DRIVER_OF_ISA = {"8.0": 525, "8.6": 565, "8.7": 570}
"""Oldest branch of the NVIDIA driver for a version of the PTX ISA (CUDA 12.0, 12.7 and 12.8)."""


@dataclass(frozen=True)
class PtxFile:
    """PTX file of a kernel, as passed to TensorRT. Engines do not need the file at run time."""

    file: FileName
    sha256: Sha256
    size: FileSize
    kernel: str
    target: str
    isa: str


@dataclass(frozen=True)
class PluginNodes:
    """Nodes of a graph that are the same plugin.

    Attributes:
        name: operator of the nodes, in the domain ``clinreadnet``.
        op: op of the kernel.
        kernel: name of the kernel in `PtxFile`.
        layers: layers of the network.
    """

    name: str
    op: str
    kernel: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Plugins:
    """Plugins of a graph or an engine.

    Attributes:
        triton: version of Triton that compiled the kernels.
        nodes: nodes that are plugins.
        native: reason why a kernel of a requested op is not a plugin, by name.
        ptx: kernels for each target. Those of an engine are a subset of those of its graph.
        needed_at_run_time: always false: an engine contains the code of its kernels. It needs no
            plugin library, no Python and no Triton.
    """

    triton: str
    nodes: tuple[PluginNodes, ...]
    native: dict[str, str]
    ptx: tuple[PtxFile, ...]
    needed_at_run_time: Annotated[bool, Meta(extra_json_schema={"const": False})] = False


def driver_obstacle(isa: str, driver: str | None) -> str | None:
    """Return why a driver does not support a version of the PTX ISA, or None.

    Args:
        isa: version of the ISA, such as "8.7".
        driver: version of the NVIDIA driver, such as "580.65.06"; None if unknown.
    """
    needed = DRIVER_OF_ISA.get(isa)
    branch = (driver or "").split(".")[0]
    if needed is None or not branch.isdecimal() or int(branch) >= needed:
        return None
    return f"PTX ISA {isa} needs NVIDIA driver {needed} or later, here is {driver}"
