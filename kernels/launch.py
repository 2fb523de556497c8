"""Launch configurations: which of ``configs/*.json`` applies to a GPU.

A file is named after its GPU ("nvidia-l4.json") and says its compute capability; ``default.json``
is compiled and checked for every supported GPU.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

CONFIGS = Path(__file__).parent / "configs"


def config_file(gpu: str, capability: int, folder: Path = CONFIGS) -> Path:
    """The file of this GPU, else of the nearest older one, else the default.

    Newer GPUs hold what older ones do, so that a file of the nearest lower compute capability is
    safe; one of a higher capability may ask for more shared memory than there is.

    Args:
        gpu: the name that CUDA reports.
        capability: compute capability as one number, 89 for 8.9.
        folder: where the files are.
    """
    named = folder / (re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json")
    if named.exists():
        return named
    older = {
        tuned: path
        for path in sorted(folder.glob("*.json"), reverse=True)
        if (tuned := json.loads(path.read_text())["compute_capability"]) and tuned <= capability
    }
    return older[max(older)] if older else folder / "default.json"


@lru_cache
def _configs(index: int | None) -> dict[str, Any]:
    if index is None:
        path = CONFIGS / "default.json"
    else:
        major, minor = torch.cuda.get_device_capability(index)
        path = config_file(torch.cuda.get_device_name(index), 10 * major + minor)
    configs: dict[str, Any] = json.loads(path.read_text())
    return configs


def launch_config(op: str, device: torch.device, *keys: str) -> dict[str, Any]:
    """Launch configuration of ``op`` on ``device``: the entry at ``keys``, outermost first."""
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    index = (device.index or 0) if on_gpu else None
    entry = _configs(index)[op]
    for key in keys:
        entry = entry[key]
    return dict(entry)
