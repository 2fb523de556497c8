"""Train a small denoiser on clean slices, and estimate with it how likely a slice is.

    clinreadnet simulate --out clean --count 1280 --seed 301
    python -m bench.records.likelihood clean --out denoiser.safetensors \
        > clinreadnet/weights/small.likelihood.json
    python -m bench.records.opponents test-1 --denoiser denoiser.safetensors

The error with which a denoiser removes Gaussian noise from a slice bounds its likelihood (I-MMSE:
Guo, Shamai and Verdú, IEEE Trans. Inf. Theory 2005; Kong, Brekelmans and Ver Steeg, ICLR 2023):
-log p(x) = c + 1/2 ∫ E|x - x̂(x + σn)|² d(1/σ²), here a sum over a ladder of σ in equal ratios.
The denoiser is trained on slices with label 4, without denoised copies. Labels of the held-out
anatomies choose which levels are summed, over which pixels, and whether the most likely slice or
the most typical slice is the best.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.recording import print_record, run_facts
from clinreadnet.data.ldctiqa import LdctiqaFolder
from clinreadnet.evaluation.labels import open_labelled
from clinreadnet.metrics import krocc, plcc, srocc
from clinreadnet.spec import HU_MIN, HU_RANGE

LEVELS_HU = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
AREAS = ("slice", "body")
BODY_HU = -500.0
UNIT_HU = 100.0
"""Hounsfield units in one unit of the denoiser's input."""
WIDTHS = (32, 48, 64)
CROP, BATCH, LEARNING_RATE = 128, 16, 1e-3
CLEAN = 4.0
"""Label of the slices that the denoiser is trained on."""
HELD_OUT = 8
"""One in so many anatomies is held out."""


class Denoiser(nn.Module):
    """U-Net on pixels in groups of 2×2: predicts the noise of a slice from the slice and σ."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c = WIDTHS
        self.first = nn.Conv2d(4 + 1, a, 3, padding=1)
        self.fine_in, self.fine_out = _block(a), _block(a)
        self.middle_in, self.middle_out = _block(b), _block(b)
        self.coarse = _block(c)
        self.down = nn.ModuleList([nn.Conv2d(a, b, 2, 2), nn.Conv2d(b, c, 2, 2)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(b, a, 2, 2), nn.ConvTranspose2d(c, b, 2, 2)])
        self.last = nn.Conv2d(a, 4, 3, padding=1)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Return the noise [B, 1, H, W] in units of σ; H and W are multiples of 8.

        Args:
            noisy: [B, 1, H, W] float32, slice plus noise in units of `UNIT_HU`.
            sigma: [B, 1, 1, 1] float32, standard deviation of the noise in the same unit.
        """
        x = F.pixel_unshuffle(noisy, 2)
        level = sigma.log().expand(-1, 1, *x.shape[2:])
        first = self.first(torch.cat([x / sigma.clamp(min=0.2), level], dim=1))
        # Slices are not rounded to bfloat16, their features are.
        with torch.autocast("cpu", torch.bfloat16):
            fine = self.fine_in(first)
            middle = self.middle_in(self.down[0](fine))
            coarse = self.coarse(self.down[1](middle))
            middle = self.middle_out(middle + self.up[1](coarse))
            out = self.fine_out(fine + self.up[0](middle))
        return F.pixel_shuffle(self.last(out.float()), 2)


def _block(width: int) -> nn.Sequential:
    layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
    return nn.Sequential(nn.ReLU(), layers[0], nn.ReLU(), layers[1])


@dataclass(frozen=True)
class Choice:
    """What the labels of the held-out anatomies choose.

    Attributes:
        levels: first and last index of the levels that are summed, in `LEVELS_HU`.
        area: "slice", or "body" for the pixels above `BODY_HU`.
        typical: mean error of the clean slices, which counts as best; None if the lowest does.
    """

    levels: tuple[int, int]
    area: str
    typical: float | None

    def score(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores [...] of errors [..., levels, areas]; more is better."""
        first, last = self.levels
        mean = errors[..., first : last + 1, AREAS.index(self.area)].mean(axis=-1)
        return np.asarray(-mean if self.typical is None else -np.abs(mean - self.typical))


def train(folder: LdctiqaFolder, indices: Sequence[int], minutes: float) -> tuple[Denoiser, int]:
    """Train a denoiser on slices of a folder; return it and the number of steps.

    The loss is the squared error of the noise in units of σ, which is drawn log-uniformly between
    the lowest and the highest of `LEVELS_HU`. The learning rate falls to zero as a cosine.
    """
    torch.manual_seed(0)
    model = Denoiser()
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    slices = np.stack([_units(folder.hu(i)) for i in indices])
    rng = np.random.default_rng(0)
    low, high = np.log(LEVELS_HU[0] / UNIT_HU), np.log(LEVELS_HU[-1] / UNIT_HU)
    start, steps = time.monotonic(), 0
    while (share := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 + np.cos(np.pi * share)) / 2
        corners = rng.integers(0, slices.shape[1] - CROP, size=(BATCH, 2))
        chosen = rng.integers(0, len(slices), BATCH)
        crops = [
            slices[k, i : i + CROP, j : j + CROP] for k, (i, j) in zip(chosen, corners, strict=True)
        ]
        clean = torch.from_numpy(np.stack(crops))[:, None]
        sigma = torch.from_numpy(np.exp(rng.uniform(low, high, BATCH)).astype(np.float32))
        noise = torch.randn(clean.shape)
        sigma = sigma.view(-1, 1, 1, 1)
        loss = F.mse_loss(model(clean + sigma * noise, sigma), noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
        if steps % 100 == 0:
            print(f"step {steps}, {share:.0%} of the time, {loss:.4f}", file=sys.stderr)
    return model.eval(), steps


def _units(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a slice in units of `UNIT_HU`, clipped as the network's input is."""
    return np.asarray(np.clip(hu, HU_MIN, HU_MIN + HU_RANGE) / UNIT_HU, np.float32)


@torch.no_grad()
def denoising_errors(
    model: Denoiser, hu: NDArray[Any], levels: Sequence[float] = LEVELS_HU
) -> NDArray[np.float64]:
    """Return the mean squared errors of the noise in units of its variance: [levels, areas].

    Args:
        model: trained denoiser.
        hu: [512, 512], Hounsfield units.
        levels: standard deviations of the noise in HU. The noise is the same for every slice and,
            but for its scale, every level.
    """
    clean = torch.from_numpy(_units(hu))[None, None]
    body = torch.from_numpy(np.asarray(hu > BODY_HU))[None, None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for level in levels:
        sigma = torch.full((1, 1, 1, 1), level / UNIT_HU)
        squared = (model(clean + sigma * noise, sigma) - noise).square()
        errors.append([float(squared.mean()), float(squared[body].mean())])
    return np.array(errors)


def choose(errors: NDArray[np.float64], labels: NDArray[Any]) -> tuple[Choice, float]:
    """Return the choice with the highest sum of correlations with the labels, and that sum.

    Args:
        errors: [n, levels, areas], from `denoising_errors`.
        labels: [n].
    """
    clean = errors[labels == CLEAN].mean(axis=0)
    choices = []
    for first, last in product(range(errors.shape[1]), repeat=2):
        for k, area in enumerate(AREAS):
            if first <= last:
                usual = float(clean[first : last + 1, k].mean())
                choices += [Choice((first, last), area, typical) for typical in (None, usual)]

    def agreement(choice: Choice) -> float:
        score = choice.score(errors)
        return plcc(score, labels) + srocc(score, labels) + krocc(score, labels)

    best = max(choices, key=agreement)
    return best, agreement(best)


def likelihood(path: Path) -> Callable[[NDArray[Any]], float]:
    """Return a function that scores a slice [512, 512] in HU with a denoiser of `main`."""
    model = Denoiser().eval()
    with safe_open(path, "pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
        choice = Choice(**json.loads(file.metadata()["choice"]))
    first, last = choice.levels
    levels = LEVELS_HU[first : last + 1]
    chosen = Choice((0, len(levels) - 1), choice.area, choice.typical)
    return lambda hu: float(chosen.score(denoising_errors(model, hu, levels)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a denoiser, write it with its choice, and print the record as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="LDCTIQA folder of `clinreadnet simulate`")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--minutes", type=float, default=20.0, help="time of training")
    options = parser.parse_args(arguments)
    folder = open_labelled(options.data)
    assert folder.groups is not None, "the folder must be a simulated one"
    held_out = folder.groups % HELD_OUT == 0
    clean = ~held_out & (folder.scores == CLEAN) & ~folder.denoised
    model, steps = train(folder, np.flatnonzero(clean).tolist(), options.minutes)
    validation = np.flatnonzero(held_out).tolist()
    errors = np.stack([denoising_errors(model, folder.hu(i)) for i in validation])
    choice, agreement = choose(errors, folder.scores[validation])
    metadata = {"choice": json.dumps(asdict(choice))}
    save_file(model.state_dict(), options.out, metadata=metadata)
    minutes = f" --minutes {options.minutes:g}" if options.minutes != 20 else ""
    result = {
        **run_facts(
            f"python -m bench.records.likelihood {options.data.name} --out {options.out.name}"
            + minutes
        ),
        "data": {key: (folder.simulation or {}).get(key) for key in ("seed", "count")},
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "training_slices": int(clean.sum()),
        "training_anatomies": len(np.unique(folder.groups[clean])),
        "validation_slices": len(validation),
        "validation_anatomies": len(np.unique(folder.groups[held_out])),
        "training_minutes": options.minutes,
        "steps": steps,
        "levels_hu": LEVELS_HU,
        "choice": asdict(choice),
        "validation_sum": agreement,
        "sha256": hashlib.sha256(options.out.read_bytes()).hexdigest(),
    }
    return print_record(result)


if __name__ == "__main__":
    sys.exit(main())
