"""Configuration of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinreadnet.errors import InputError
from clinreadnet.spec import SIZE

TASKS = ("network", "head")
"""Tasks: train the whole network on crops, or only the head on whole slices."""

TARGETS = ("score", "quality")
KEPT = ("best", "last")
CROPS = (256, SIZE)
LOSS_NAMES = ("hrps", "rps-fine", "rps-coarse", "cross-entropy")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run, with the defaults of command line, recipes and ablation."""

    preset: str = "small"
    task: str = "network"
    """One of `TASKS`. "head" trains on cached tokens and needs ``init``."""
    epochs: int = 30
    batch_size: int = 8
    """Slices per step over all processes."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    crop: int = 256
    """Side of the random crops in pixels, 256 or 512. The task "head" uses whole slices."""
    validation_share: float = 0.1
    """Share of the anatomies held out."""
    most_slices: int | None = None
    """Largest number of training slices, taken evenly from all anatomies; None for all."""
    denoised_repeats: int = 1
    """Repetitions of each denoised copy of a simulated folder in an epoch."""
    patience: int = 20
    """Number of epochs without a better validation sum after which to stop."""
    keep: str = "best"
    """Averaged weights to write: of the "best" epoch on validation, or of the "last"."""
    seed: int = 0
    bf16: bool | None = None
    """Run the products in bfloat16 (autocast); edges, softmax, norms and loss stay float32.
    None: if there is a GPU. A processor without bfloat16 instructions runs them in float32."""
    compile: bool = False
    """Compile the network with `torch.compile`: minutes at the start, then faster steps."""
    limit_seconds: float | None = None
    """Training time of the whole schedule in seconds, instead of a number of epochs."""
    init: str | None = None
    """Checkpoint to start from instead of random weights."""
    loss: str = "hrps"
    """One of `LOSS_NAMES`. All except "hrps" are for ablations."""
    target: str = "score"
    """Target of the image's distribution: "score", the label, or "quality", the noiseless quality
    that simulated folders record. Validation always uses the scores."""
    tile_weight: float = 3.0
    """Weight of the tile loss relative to the image loss; 0 uses only image labels."""
    use_sobel: bool = True
    """Whether Sobel edges are input channels of the stem; False for ablations."""
    use_attention: bool = True
    """Whether blocks have attention; False for ablations."""
    octaves: int = 3
    """Sharpness levels of the attention; 1 for ablations."""

    def check(self) -> None:
        """Check that the settings are in range.

        Raises:
            InputError: a setting is out of range.
        """
        for name, value, known in (
            ("task", self.task, TASKS),
            ("crop", self.crop, CROPS),
            ("keep", self.keep, KEPT),
            ("loss", self.loss, LOSS_NAMES),
            ("target", self.target, TARGETS),
        ):
            if value not in known:
                raise InputError(f"{name}={value}: unknown; known: {', '.join(map(str, known))}")
        for name, number, least in (
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 1),
            ("patience", self.patience, 1),
            ("most_slices", 1 if self.most_slices is None else self.most_slices, 1),
            ("denoised_repeats", self.denoised_repeats, 1),
            ("octaves", self.octaves, 1),
            ("tile_weight", self.tile_weight, 0),
        ):
            if number < least:
                raise InputError(f"{name}={number}: must be {least} or more")
        if not 0 < self.validation_share < 1:
            raise InputError(
                f"validation_share={self.validation_share}: give 0 to 1, without the ends"
            )
        if self.task == "head" and self.init is None:
            raise InputError("task=head needs `init`, the checkpoint whose head to train")

    def named(self) -> dict[str, Any]:
        """Return the settings for a summary. ``init`` is reduced to its file name."""
        values = dict(vars(self))
        values["init"] = self.init and Path(self.init).name
        return values
