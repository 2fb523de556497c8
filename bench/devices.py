"""The GPU that benches use where a machine has several: `--device N`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clinreadnet.errors import InputError
from clinreadnet.runtime.gpu import find_gpus

VISIBLE = "CUDA_VISIBLE_DEVICES"


def use(device: int) -> None:
    """Let this process and its children see one GPU alone; before anything starts CUDA here.

    PyTorch, Triton, ONNX Runtime and TensorRT then agree on it without being told.

    Args:
        device: number of the GPU among those that are visible now.

    Raises:
        InputError: there is no such GPU.
    """
    missing = InputError(f"--device {device}: no such GPU; `nvidia-smi -L` lists them")
    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if device < 0 or (visible and device >= len(visible)):
        raise missing
    os.environ[VISIBLE] = visible[device].strip() if visible else str(device)
    if device and not find_gpus():
        raise missing


def taken(arguments: Sequence[str]) -> list[str]:
    """Use the GPU that ``--device N`` names, and return the other arguments.

    Raises:
        InputError: there is no such GPU, or N is not a number.
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
