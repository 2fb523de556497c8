"""Select the GPU for benchmarks (`--device N`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clinreadnet.errors import InputError
from clinreadnet.runtime.gpu import find_gpus

VISIBLE = "CUDA_VISIBLE_DEVICES"


def use(device: int) -> None:
    """Make only one GPU visible to this process and its children. Call it before CUDA starts.

    PyTorch, Triton, ONNX Runtime and TensorRT then all use this GPU.

    Args:
        device: index of the GPU among the visible ones.

    Raises:
        InputError: the GPU does not exist.
    """
    missing = InputError(f"--device {device}: no such GPU; `nvidia-smi -L` lists them")
    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if device < 0 or (visible and device >= len(visible)):
        raise missing
    os.environ[VISIBLE] = visible[device].strip() if visible else str(device)
    if device and not find_gpus():
        raise missing


def taken(arguments: Sequence[str]) -> list[str]:
    """Apply ``--device N`` and return the other arguments.

    Raises:
        InputError: the GPU does not exist, or N is not a number.
    """
    others = list(arguments)
    if "--device" in others:
        index = others.index("--device")
        _, *named = others[index : index + 2]
        if not named or not named[0].lstrip("-").isdecimal():
            raise InputError("--device: give the number of a GPU, such as 1")
        use(int(named[0]))
        del others[index : index + 2]
    return others
