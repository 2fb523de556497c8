"""Instructions of a warp or a block, and control flow."""

from __future__ import annotations

import numpy as np

from clinreadnet.kernels.ptx.errors import PtxError
from clinreadnet.kernels.ptx.instructions import instruction
from clinreadnet.kernels.ptx.machine import Machine as M
from clinreadnet.kernels.ptx.program import Instruction, Operand
from clinreadnet.kernels.ptx.shared import WARP


def whole_warps(m: M, mask: Operand) -> None:
    """Check that a member mask is the whole warp."""
    if (m.of_active(m.read(mask)) != np.uint32(0xFFFF_FFFF)).any():
        raise PtxError("a member mask that leaves threads out")


@instruction("Data Movement and Conversion: shfl.sync", "shfl.sync.{bfly,idx,up,down}.b32")
def shfl(m: M, i: Instruction) -> None:
    d, a, b, c, members = i.operands
    whole_warps(m, members)
    value = m.read(a).reshape(-1, WARP)
    lane = np.arange(WARP, dtype=np.int64)
    offset = (m.read(b).astype(np.int64) & 31).reshape(-1, WARP)
    bounds = m.read(c).astype(np.int64).reshape(-1, WARP)
    segment, clamp = bounds >> 8 & 31, bounds & 31
    last, first = lane & segment | clamp & ~segment & 31, lane & segment
    mode = i.opcode.split(".")[2]
    if mode == "bfly":
        source = lane ^ offset
        inside = source <= last
    elif mode == "idx":
        source = first | offset & ~segment
        inside = source <= last
    elif mode == "up":
        source = lane - offset
        inside = source >= last
    else:
        source = lane + offset
        inside = source <= last
    source = np.where(inside, source, lane)
    m.write(d, np.take_along_axis(value, source, axis=1).reshape(-1))


@instruction("Parallel Synchronization and Communication: bar.sync", "bar.sync")
def bar_sync(m: M, i: Instruction) -> None:
    """All threads of the block have arrived when this runs."""
    if len(i.operands) != 1 or i.operands[0].value != 0:
        raise PtxError("a barrier other than the block's first")
    blocks = np.unique(m.active() // m.threads)
    m.shared.block_time[blocks] += 1
    warps = m.threads // WARP
    m.shared.warp_time.reshape(-1, warps)[blocks] += 1


@instruction("Parallel Synchronization and Communication: bar.warp.sync", "bar.warp.sync")
def bar_warp_sync(m: M, i: Instruction) -> None:
    whole_warps(m, i.operands[0])
    m.shared.warp_time[np.unique(m.active() // WARP)] += 1


@instruction(
    "Parallel Synchronization and Communication: fence",
    "fence.proxy.async",
    "fence.proxy.async.shared::cta",
)
def fence(m: M, i: Instruction) -> None:
    """Order ordinary writes before reads of asynchronous products."""
    m.shared.fence()


@instruction("Control Flow: bra, ret", "bra", "bra.uni", "ret")
def control(m: M, i: Instruction) -> None:
    raise AssertionError("the machine runs control flow itself")
