"""Read and write checkpoints: safetensors files that contain their configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from clinreadnet.errors import InputError
from clinreadnet.files import whole_file

if TYPE_CHECKING:
    import torch

    from clinreadnet.model.network import ClinReadNet

WEIGHTS = Path(__file__).parents[1] / "weights"
"""Folder of the shipped checkpoints."""

_CONFIG_KEY = "clinreadnet_config"


def pretrained_path(preset: str = "small") -> Path:
    """Return the path of the shipped checkpoint of ``preset``.

    Raises:
        InputError: no checkpoint of that preset is shipped.
    """
    folder = WEIGHTS
    path = folder / f"{preset}.safetensors"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in folder.glob("*.safetensors"))) or "none"
        raise InputError(
            f"no shipped checkpoint of preset {preset!r}; shipped: {shipped}; give the file of a "
            "checkpoint that you trained"
        )
    return path


def load_pretrained(preset: str = "small") -> ClinReadNet:
    """Return the shipped checkpoint as a float32 network in evaluation mode.

    Raises:
        InputError: no checkpoint of that preset is shipped.
    """
    return load_checkpoint(pretrained_path(preset))


def load_checkpoint(path: str | os.PathLike[str], *, preset: str | None = None) -> ClinReadNet:
    """Read a checkpoint into a float32 network in evaluation mode.

    Args:
        path: a file written by ``save_checkpoint``.
        preset: required preset; default any.

    Raises:
        InputError: the file is missing or unreadable, has another preset, or its tensors do not
            match.
    """
    from safetensors import SafetensorError, safe_open

    from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig

    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder; give its model.safetensors")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint; give a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path}: not a readable safetensors file ({error}); give the model.safetensors that "
            "`clinreadnet train` writes"
        ) from error
    try:
        config = ClinReadNetConfig.from_dict(json.loads(metadata[_CONFIG_KEY]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: carries no ClinReadNet configuration; write it with `clinreadnet train`"
        ) from error
    if preset is not None and config.preset != preset:
        raise InputError(
            f"{path}: is a checkpoint of preset {config.preset!r}, not {preset!r}; "
            f"ask for preset={config.preset} or give another file"
        )
    model = ClinReadNet(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{path}: tensors do not fit preset {config.preset!r}: {str(error).splitlines()[1]}"
        ) from error
    return model.eval()


def save_checkpoint(
    model: ClinReadNet, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None
) -> None:
    """Write the weights and the configuration atomically.

    Args:
        model: the network.
        path: target file; replaced if it exists.
        dtype: stored type of the tensors; default unchanged.
    """
    from safetensors.torch import save

    state = model.state_dict()
    tensors = {k: v.detach().to(dtype or v.dtype).contiguous() for k, v in state.items()}
    with whole_file(path) as temporary:
        temporary.write_bytes(
            save(tensors, metadata={_CONFIG_KEY: json.dumps(model.config.to_dict())})
        )
