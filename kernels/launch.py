"""Read launch configurations from ``configs/*.json``.

A file is the result of `clinreadnet tune` on a GPU and has its name ("nvidia-l4.json"). Files for a
compute capability, and ``default.json``, are safe configurations that were not timed on a GPU.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIGS = Path(__file__).parent / "configs"


_trials: dict[tuple[str, ...], Mapping[str, Any]] = {}


def file_name(gpu: str) -> str:
    """Return the name of the file for a GPU with the CUDA name ``gpu``."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"


def config_file(gpu: str, capability: int, folder: Path = CONFIGS) -> Path:
    """Return the file of this GPU, of the nearest GPU of its generation, or the default.

    Args:
        gpu: name of the GPU in CUDA.
        capability: compute capability as a number, 89 for 8.9. A generation shares the tens.
        folder: folder of the files.
    """
    named = folder / file_name(gpu)
    if named.exists():
        return named
    distances = {
        path: abs(tuned - capability)
        for path in sorted(folder.glob("*.json"))
        if (tuned := json.loads(path.read_text())["compute_capability"])
        and tuned // 10 == capability // 10
    }
    return min(distances, key=distances.__getitem__) if distances else folder / "default.json"


def gpu_of(device: torch.device) -> tuple[str, int]:
    """Return name and compute capability of ``device``; ("", 0) without a GPU."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "", 0
    properties = torch.cuda.get_device_properties(device)  # a constant for torch.compile
    return properties.name, 10 * properties.major + properties.minor


def multiprocessors_of(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Return a context that makes the device of ``x`` current, where Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@lru_cache
def read_configs(gpu: str, capability: int) -> dict[str, Any]:
    """Read the file of launch configurations for a GPU. The result is cached."""
    configs: dict[str, Any] = json.loads(config_file(gpu, capability).read_text())
    return configs


@contextmanager
def trial(entry: Mapping[str, Any], *keys: str) -> Iterator[None]:
    """Use ``entry`` instead of the file's entry at ``keys`` inside the block."""
    _trials[keys] = entry
    try:
        yield
    finally:
        del _trials[keys]


def fenced(entry: Mapping[str, Any], capability: int) -> dict[str, Any]:
    """Return a configuration without the pipeline that the installed Triton compiles wrongly.

    Triton before 3.7.1 puts no fence between the copies of a pipelined loop and the asynchronous
    products that read them: wgmma, and tcgen05 of compute capabilities 10 and 11
    (triton-lang/triton#10537). Without a pipeline it puts the fence.
    """
    if entry.get("stages", 1) > 1 and 90 <= capability < 120:
        import triton

        if tuple(map(int, re.findall(r"\d+", triton.__version__)[:3])) < (3, 7, 1):
            return {**entry, "stages": 1}
    return dict(entry)


def launch_config(gpu: str, capability: int, *keys: str) -> dict[str, Any]:
    """Return the entry at ``keys``, outermost first, in the file for this GPU; see `fenced`.

    Float32 products follow the setting of torch: unless ``torch.get_float32_matmul_precision()`` is
    "highest", the precision is TF32.
    """
    entry: Any = _trials.get(keys)
    if entry is None:
        entry = read_configs(gpu, capability)
        for key in keys:
            entry = entry[key]
    entry = fenced(entry, capability)
    if torch.get_float32_matmul_precision() != "highest":
        return {**entry, "precision": "tf32"}
    return entry
