"""What decides a training run, beside its data."""

from __future__ import annotations

from dataclasses import dataclass

from clinreadnet.spec import SIZE

TARGETS = ("score", "quality")
"""What `--target` takes."""

KEPT = ("best", "last")
"""What `--keep` takes."""


@dataclass(frozen=True)
class TrainConfig:
    """What decides a run, beside its data."""

    preset: str = "small"
    epochs: int = 30
    batch_size: int = 8
    """Slices of a step, over all processes."""
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    crop: int = SIZE
    """Side of the random crops in pixels (256 or 512); 256 costs a quarter."""
    validation_share: float = 0.1
    """Share of the anatomies held out."""
    patience: int = 20
    """Epochs without a better validation score after which to stop."""
    keep: str = "best"
    """Which averaged weights to write: of the "best" epoch on validation, or of the "last", which
    with few anatomies held out is the better choice."""
    seed: int = 0
    bf16: bool | None = None
    """Run the products in bfloat16 (autocast); edges, softmax, norms and loss stay float32.
    None: where there is a GPU."""
    limit_seconds: float | None = None
    """Finish the schedule within this training time, however many epochs that makes."""
    init: str | None = None
    """Checkpoint to start from instead of random weights; one of the SOQN alone gives the stem and
    the statistics of edges."""
    soqn: str | None = None
    """Checkpoint whose stem and view of the edges to take and to keep; the rest is trained, from
    random weights or from the stages of ``init``, to say what they leave unsaid."""
    statistics_only: bool = False
    """Train the head's view of the edges alone and anew, on the frozen stem of ``init``."""
    soqn_only: bool = False
    """Leave out the attention stages: the SOQN alone learns fast, and a network starts from it."""
    loss: str = "hrps"
    """A key of `clinreadnet.training.loss.LOSSES`."""
    target: str = "score"
    """What to learn: "score", the label; or "quality", which simulated folders record beside it
    and which is free of the readers' noise. Validation is against the scores in any case."""
    edges: bool = True
    """Whether the stem sees Sobel edges; False for ablations."""
    octaves: int = 3
    """Sharpness levels of the attention; 1 for ablations."""
