"""Score CT slices as they arrive, in a program without PyTorch.

    python examples/score_series.py BUNDLE SLICES.npy [PUBLIC_KEY.pem]

SLICES.npy holds Hounsfield units, [n, 512, 512]. Research use only: not a medical device.
"""

import sys

import numpy as np

from clinreadnet.errors import ClinReadNetError
from clinreadnet.runtime import Session


def main(bundle: str, slices: str, *keys: str) -> None:
    """Print one line per slice: its number and its score, or the error."""
    series = np.load(slices, mmap_mode="r")
    with Session(bundle, trusted_keys=keys or None) as session:
        print(f"{session.backend}, {session.artifact.file}", file=sys.stderr)
        with session.stream(capacity=8) as stream:
            for hu in series:  # a scanner's callback would call stream.put(hu)
                stream.put(hu)
        for result in stream:
            print(result.index, result.error or f"{result.scores.score[0]:.3f}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ClinReadNetError as error:
        sys.exit(f"score_series: {error}")
