"""Device of the benchmarks: a GPU, or the CPU in a rehearsal.

A rehearsal (`python -m bench.gpu_check --rehearse`) runs each row once on the CPU, with references
instead of kernels, without compilation, and with fake times. It tests only the control flow.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.gpu_check import plan

if TYPE_CHECKING:
    import torch

REHEARSED = os.environ.get(plan.REHEARSAL) == "1"

COMPILE_MODE = os.environ.get(plan.COMPILE_MODE, "max-autotune-no-cudagraphs")
"""Mode of torch.compile on a GPU, without CUDA graphs: the clock captures a graph for all runs."""

FALSE_SECONDS = 1e-3
"""Time of every run in a rehearsal."""


def is_there() -> bool:
    """Return whether GPU benchmarks can run."""
    import torch

    return REHEARSED or torch.cuda.is_available()


def device() -> torch.device:
    """Return the device of the benchmarks."""
    import torch

    return torch.device("cpu" if REHEARSED else "cuda")


def name() -> str:
    """Return the name of the GPU."""
    import torch

    return "rehearsal" if REHEARSED else torch.cuda.get_device_properties(0).name


def kernels() -> str:
    """Return the implementation of the ops: "triton", or "reference" in a rehearsal."""
    return "reference" if REHEARSED else "triton"
