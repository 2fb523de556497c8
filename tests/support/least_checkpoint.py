"""The smallest checkpoint that the CPU engine runs: random weights, without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

Tensors = dict[str, NDArray[Any]]
CONFIG: dict[str, Any] = {
    "preset": "small",
    "embed_dim": 32,
    "depths": [1, 2, 1, 1],
    "heads": [1, 2, 4, 8],
    "window": 8,
    "octaves": 3,
    "mlp_ratio": 1,
    "image_dim": 4,
    "use_sobel": True,
    "use_attention": True,
}


def tensors() -> Tensors:
    rng = np.random.default_rng(0)
    arrays: Tensors = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        arrays[f"{name}.weight"] = (rng.standard_normal(shape) * 0.1).astype(np.float16)
        if bias:
            arrays[f"{name}.bias"] = (rng.standard_normal(shape[0]) * 0.1).astype(np.float16)

    c = CONFIG["embed_dim"]
    layer("stem.conv1", c // 2, 4, 3, 3)
    layer("stem.embed", c, c // 2, 3, 3)
    layer("stem.norm", c)
    statistics = 2 * c
    for stage, (depth, heads) in enumerate(zip(CONFIG["depths"], CONFIG["heads"], strict=True)):
        first = 0
        if stage:
            layer(f"stages.{stage}.0.norm", 4 * c)
            layer(f"stages.{stage}.0.reduction", 2 * c, 4 * c, bias=False)
            c, first = 2 * c, 1
        for block in range(first, first + depth):
            name = f"stages.{stage}.{block}"
            layer(f"{name}.norm1", c)
            layer(f"{name}.attention.qkv", 3 * c, c)
            layer(f"{name}.attention.projection", c, c)
            arrays[f"{name}.attention.bias_table"] = rng.standard_normal((225, heads))
            arrays[f"{name}.attention.log_inv_temperature"] = rng.standard_normal(heads)
            arrays[f"{name}.attention.gate_logits"] = rng.standard_normal((heads, 3))
            layer(f"{name}.norm2", c)
            layer(f"{name}.mlp.0", c * CONFIG["mlp_ratio"], c)
            layer(f"{name}.mlp.2", c, c * CONFIG["mlp_ratio"])
    layer("head.norm", c)
    layer("head.vote", 21, c)
    layer("head.token_weight", 1, c)
    layer("head.image.0", CONFIG["image_dim"], c)
    layer("head.image.2", 21, CONFIG["image_dim"])
    for name, value in (("head.gain", 1), ("head.temperature", 1), ("novelty.threshold", 1.5)):
        arrays[name] = np.array(value)
    arrays["statistics.shift"] = np.zeros(statistics)
    arrays["statistics.scale"] = np.ones(statistics)
    arrays["novelty.mean"] = np.zeros(2 * statistics)
    arrays["novelty.whitening"] = np.eye(2 * statistics) / 8
    return {name: value.astype(np.float16) for name, value in arrays.items()}


def least_checkpoint(weights: Tensors | None = None, **config: Any) -> bytes:
    """Return the file with other weights, or other values of its configuration."""
    metadata = {"clinreadnet_config": json.dumps(CONFIG | config)}
    return save(tensors() if weights is None else weights, metadata)


def write_least(folder: Path) -> Path:
    path = folder / "least.safetensors"
    path.write_bytes(least_checkpoint())
    return path
