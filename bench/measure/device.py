"""Where the benches of kernels and of the network run: a GPU, or a stand-in in a rehearsal.

A rehearsal (`python -m bench.gpu_check --rehearse`) runs every bench on the CPU, once for each row:
with the reference in place of kernels, without compiling, and with false times. It tries the
control flow; nothing that it measures is true.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bench.gpu_check import plan

if TYPE_CHECKING:
    import torch

REHEARSED = os.environ.get(plan.REHEARSAL) == "1"

COMPILE_MODE = os.environ.get(plan.COMPILE_MODE, "max-autotune-no-cudagraphs")
"""The mode of torch.compile on a GPU. None has CUDA graphs: the clock captures one for all runs."""

FALSE_SECONDS = 1e-3
"""What every run takes in a rehearsal."""


def is_there() -> bool:
    """Return whether benches of a GPU can run."""
    import torch

    return REHEARSED or torch.cuda.is_available()


def device() -> torch.device:
    """Return the device that they run on."""
    import torch

    return torch.device("cpu" if REHEARSED else "cuda")


def name() -> str:
    """Return the name of the GPU."""
    import torch

    return "rehearsal" if REHEARSED else torch.cuda.get_device_properties(0).name


def kernels() -> str:
    """Return the implementation of the ops that stands for the kernels."""
    return "reference" if REHEARSED else "triton"
