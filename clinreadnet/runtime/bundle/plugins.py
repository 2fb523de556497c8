"""What a manifest says about the plugins of a graph, and of the engine that was built from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from clinreadnet.runtime.bundle.types import FileName, FileSize, Sha256

DRIVER_OF_ISA = {"8.0": 525, "8.6": 565, "8.7": 570}
"""First branch of the NVIDIA driver that knows a version of the PTX ISA (those of CUDA 12.0, 12.7
and 12.8)."""


@dataclass(frozen=True)
class PtxFile:
    """The PTX of one kernel, as TensorRT got it. No engine needs the file to run."""

    file: FileName
    sha256: Sha256
    size: FileSize
    kernel: str
    target: str
    isa: str


@dataclass(frozen=True)
class PluginNodes:
    """The nodes of a graph that are the same plugin.

    Attributes:
        name: operator of the nodes, in the domain ``clinreadnet``.
        op: whose kernel it is.
        kernel: name in `PtxFile`.
        layers: of the network.
    """

    name: str
    op: str
    kernel: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Plugins:
    """The plugins of a graph or an engine.

    Attributes:
        triton: version that compiled the kernels.
        nodes: which nodes are plugins.
        native: why a kernel of a requested op is no plugin, by its name.
        ptx: the kernels, for each target; those of an engine are among its graph's.
        needed_at_run_time: false: an engine holds the code of its kernels. It needs no plugin
            library, no Python and no Triton.
    """

    triton: str
    nodes: tuple[PluginNodes, ...]
    native: dict[str, str]
    ptx: tuple[PtxFile, ...]
    needed_at_run_time: Annotated[bool, Meta(extra_json_schema={"const": False})] = False


def driver_obstacle(isa: str, driver: str | None) -> str | None:
    """Why a driver does not take PTX of a version of the ISA, or None.

    Args:
        isa: such as "8.7".
        driver: version of the NVIDIA driver, such as "580.65.06"; None where it is not known.
    """
    needed = DRIVER_OF_ISA.get(isa)
    branch = (driver or "").split(".")[0]
    if needed is None or not branch.isdecimal() or int(branch) >= needed:
        return None
    return f"PTX ISA {isa} needs NVIDIA driver {needed} or later, here is {driver}"
