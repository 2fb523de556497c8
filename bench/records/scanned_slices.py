"""Score unmodified scanned slices and measure their noise.

    python -m bench.records.scanned_slices DIR... > clinreadnet/weights/small.scanned.json

A routine-dose slice has no label, but its noise can be measured, and the score should decrease with
it. Each slice is also scored with the output of the stages replaced by zeros, which shows the
contribution of the attention.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.recording import print_record
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.grades import grade_interval
from clinreadnet.metrics import srocc
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.model.network import ClinReadNet
from clinreadnet.model.predict import predict
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.simulator.clean import scanned_slice
from clinreadnet.simulator.radiologists import quality

QUIET_HU = 16.0
"""Largest noise of a clean slice in HU."""

WIDE = 0.30
"""Largest share of the body in a wide field of view."""


def measure(model: ClinReadNet, ref: SliceRef) -> dict[str, Any]:
    """Return the outputs of the network and the measurements of a slice."""
    assert ref.pixel_mm is not None, "needs DICOM slices"
    hu = ref.load()
    clean = scanned_slice(hu, ref.pixel_mm)
    whole = np.rint(hu).astype(np.int16)[None]
    predicted = predict(model, whole)
    low, high = grade_interval(predicted["probs"])
    with without_stages(model):
        blind = predict(model, whole)
    return {
        "slice": ref.path.name,
        "pixel_mm": round(ref.pixel_mm, 3),
        "body_share": round(float(clean.body.mean()), 3),
        "own_noise_hu": round(clean.own_noise_hu, 2),
        "quality_of_own_noise": round(float(quality(clean.own_noise_hu, 0, 0, 0)), 3),
        "score": round(float(predicted["score"][0]), 4),
        "interval": [round(float(low[0]), 1), round(float(high[0]), 1)],
        "novelty": round(float(predicted["novelty"][0]), 3),
        "in_domain": bool(predicted["novelty"][0] <= float(model.novelty.threshold)),
        "score_without_stages": round(float(blind["score"][0]), 4),
    }


@contextmanager
def without_stages(model: ClinReadNet) -> Iterator[None]:
    """Replace the output of the network's stages by zeros inside the block."""
    attend = model.attend

    def zeros(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(attend(x))

    model.attend = zeros
    try:
        yield
    finally:
        model.attend = attend


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the correlation of scores and noise over slices in domain."""
    known = [row for row in rows if row["in_domain"]]
    noise, scores = ([row[key] for row in known] for key in ("own_noise_hu", "score"))
    wide = [row for row in known if row["body_share"] <= WIDE]

    def error(key: str) -> float | None:
        if not wide:
            return None
        return float(np.mean([abs(row[key] - row["quality_of_own_noise"]) for row in wide]))

    return {
        "slices": len(rows),
        "in_domain": len(known),
        "srocc_score_own_noise": srocc(scores, noise) if len(known) > 1 else None,
        "quiet": sum(row["own_noise_hu"] <= QUIET_HU for row in known),
        "quiet_below_3": [
            row["slice"] for row in known if row["own_noise_hu"] <= QUIET_HU and row["score"] < 3.0
        ],
        "wide_error": error("score"),
        "wide_error_without_stages": error("score_without_stages"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the study as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("slices", nargs="+", type=Path, help="DICOM files or folders of them")
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one")
    options = parser.parse_args(arguments)
    path = options.checkpoint or pretrained_path()
    model = load_checkpoint(path)
    refs = find_slices(options.slices, note=lambda line: print(line, file=sys.stderr))
    rows = [measure(model, ref) for ref in refs]
    result = {
        "command": "python -m bench.records.scanned_slices "
        + " ".join(slices.name for slices in options.slices),
        "checkpoint_sha256": digest(path.read_bytes()),
        **summarise(rows),
        "rows": rows,
    }
    return print_record(result)


if __name__ == "__main__":
    sys.exit(main())
