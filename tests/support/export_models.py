"""What the export tests export: a network that ranks, a phantom, and whether engines build here."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from clinreadnet.model.network import ClinReadNet, ClinReadNetConfig, encode
from clinreadnet.runtime.backends.flavours import FlavourMissing, load_flavour

RTX_MISSING: str | None = None
"""Why engines cannot be built here."""
try:
    load_flavour("tensorrt-rtx")
except FlavourMissing as missing:
    RTX_MISSING = str(missing)


def disc(noise: float, seed: int = 0) -> NDArray[np.float32]:
    """A body of soft tissue in air with noise in HU: [512, 512]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-256:256, -256:256]
    hu = np.where(x**2 + y**2 < 200**2, 40.0, -1000.0) + rng.normal(0, noise, x.shape)
    return hu.astype(np.float32)


def scattered(preset: str, seed: int = 0) -> ClinReadNet:
    """A network of random weights whose score follows the noise, so that slices can be ranked."""
    torch.manual_seed(seed)
    model = ClinReadNet(ClinReadNetConfig.from_preset(preset)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias_table", "log_inv_temperature", "gate_logits")):
                parameter.normal_(0, 0.5)  # too easy otherwise
            if name.endswith("image.2.weight"):
                parameter.normal_(0, 0.02)
        model.head.temperature.fill_(1.25)
        discs = torch.from_numpy(np.stack([disc(noise, seed=9) for noise in range(0, 80, 10)]))
        model.calibrate(discs[:, None])
        summaries = model.novelty.summary(model.statistics(model.stem(encode(discs[:, None]))))
        model.novelty.fit(summaries)
        model.novelty.threshold.fill_(1.5 * float(model.novelty.distance(summaries).max()))
        seen: list[torch.Tensor] = []
        hook = model.head.norm.register_forward_hook(lambda *args: seen.append(args[2]))
        model(torch.from_numpy(np.stack([disc(0), disc(20), disc(60)]))[:, None])
        hook.remove()
        features = seen[0].flatten(1, 2).mean(dim=1)  # [3, C]
        direction = features[0] - features[2]
        direction /= direction.norm() ** 2
        ramp = torch.linspace(-4, 4, 21)
        model.head.vote.weight.copy_(ramp[:, None] * direction)
        model.head.vote.bias.copy_(-ramp * (features[1] @ direction))
    return model
