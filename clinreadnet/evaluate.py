"""Score a labelled folder and report agreement with its labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from rich.table import Table

from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.errors import InputError
from clinreadnet.metrics import Correlations, correlations
from clinreadnet.progress import progress_bar
from clinreadnet.runtime.manifest import digest
from clinreadnet.train import predict
from clinreadnet.weights import load_checkpoint, pretrained_path


class Evaluation(Correlations):
    """The metrics, and what they were measured on."""

    rmse: float
    slices: int
    checkpoint_sha256: str


def evaluate(
    data: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None
) -> Evaluation:
    """Score every slice of an LDCTIQA folder with the reference network (float32).

    Args:
        data: LDCTIQA folder.
        checkpoint: safetensors file; default the shipped ``small`` one.

    Returns:
        plcc, srocc, krocc and sum, each {value, low, high} (95 % bootstrap interval over slices),
        the root mean square error in grades, the number of slices, and the checkpoint's hash.

    Raises:
        InputError: unreadable data or checkpoint, or fewer than two slices.
    """
    path = checkpoint or pretrained_path()
    model = load_checkpoint(path)
    folder = read_ldctiqa(data)
    if len(folder.names) < 2:
        raise InputError(f"{data}: needs at least two slices to correlate")
    predicted = []
    with progress_bar() as bar:
        for i in bar.track(range(len(folder.names)), description="score"):
            predicted.append(predict(model, np.rint(folder.hu(i)).astype(np.int16)[None])[0])
    true = folder.scores.astype(np.float64)
    return Evaluation(
        **correlations(predicted, true),
        rmse=float(np.sqrt(np.mean((np.asarray(predicted) - true) ** 2))),
        slices=len(true),
        checkpoint_sha256=digest(Path(path).read_bytes()),
    )


def table(result: Evaluation) -> Table:
    """Lay the metrics out for a terminal."""
    out = Table(title=f"{result['slices']} slices, RMSE {result['rmse']:.3f} grades")
    for heading in ("metric", "value", "95 % interval"):
        out.add_column(heading)
    for name in ("plcc", "srocc", "krocc", "sum"):
        interval = result[name]
        label = "|PLCC| + |SROCC| + |KROCC|" if name == "sum" else name.upper()
        out.add_row(
            label, f"{interval['value']:.4f}", f"{interval['low']:.4f} ... {interval['high']:.4f}"
        )
    return out
