"""Evaluate a labelled folder with the stages' output replaced by zeros.

    python -m bench.records.without_stages DIR > clinreadnet/weights/small.without-stages.json

The remaining score and map do not depend on the attention.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.recording import print_record
from bench.records.scanned_slices import without_stages
from clinreadnet.evaluation.labels import folder_map_agreement, open_labelled, score_folder
from clinreadnet.metrics import krocc, plcc, srocc
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the sum of correlations and the correlation of the maps as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="LDCTIQA folder with tile labels")
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one")
    options = parser.parse_args(arguments)
    model = load_checkpoint(options.checkpoint or pretrained_path())
    folder = open_labelled(options.data)
    with without_stages(model):
        scored = score_folder(folder, model)
    scores = scored["score"]
    constant = float(np.ptp(scores)) < 1e-6
    agreement = folder_map_agreement(folder, scored["quality_map"])
    result = {
        "command": f"python -m bench.records.without_stages {options.data.name}",
        "slices": len(folder),
        # A constant score has no rank correlation.
        "sum": 0.0
        if constant
        else sum(abs(f(scores, folder.scores)) for f in (plcc, srocc, krocc)),
        "map_correlation": None if agreement is None else agreement["correlation"]["value"],
        "map_rmse_ratio": None if agreement is None else agreement["rmse_ratio"]["value"],
    }
    return print_record(result)


if __name__ == "__main__":
    sys.exit(main())
