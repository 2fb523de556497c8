"""Score slices with a PyTorch network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clinreadnet.model.network import ClinReadNet
from clinreadnet.model.soqn import encode
from clinreadnet.spec import FINE_GRADES, MAP_SIDE, OUTPUTS


def predict(
    model: ClinReadNet, hu: NDArray[np.int16], batch_size: int = 4
) -> dict[str, NDArray[np.float64]]:
    """Run the network on slices, on the device of its weights.

    Args:
        model: network; is set to evaluation mode.
        hu: [n, 512, 512] Hounsfield units.
        batch_size: slices per run.

    Returns:
        ``score`` [n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16], ``novelty`` [n], and the
        scores [n] of the head's two experts, ``mixture`` and ``image``.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = []
    with torch.inference_mode():
        for first in range(0, len(hu), batch_size):
            batch = torch.from_numpy(hu[first : first + batch_size]).to(device)
            stem = model.stem(encode(batch[:, None].float()))
            tokens = model.attend(stem)
            prediction, _ = model.read(tokens, stem)
            outputs = [*prediction, *model.head.experts(tokens)]
            parts.append([output.double().cpu().numpy() for output in outputs])
    names = (*OUTPUTS, "mixture", "image")
    if not parts:
        empty = {"probs": (0, FINE_GRADES), "quality_map": (0, MAP_SIDE, MAP_SIDE)}
        return {name: np.zeros(empty.get(name, (0,))) for name in names}
    joined = zip(*parts, strict=True)
    return {name: np.concatenate(part) for name, part in zip(names, joined, strict=True)}
