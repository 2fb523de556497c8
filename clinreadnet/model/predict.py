"""Score slices with the network as it is."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clinreadnet.model.network import ClinReadNet


def predict(model: ClinReadNet, hu: NDArray[np.int16], batch_size: int = 4) -> NDArray[np.float64]:
    """Score slices [n, 512, 512] with the network as it is: [n]."""
    model.eval()
    device = next(model.parameters()).device
    scores = []
    with torch.inference_mode():
        for first in range(0, len(hu), batch_size):
            batch = torch.from_numpy(hu[first : first + batch_size]).to(device)
            scores.append(model(batch[:, None].float()).score.double().cpu().numpy())
    return np.concatenate(scores) if scores else np.zeros(0)
