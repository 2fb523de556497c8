"""Score CT slices as they arrive, in a program without PyTorch.

    python examples/score_series.py BUNDLE SLICES [PUBLIC_KEY.pem]

SLICES is a folder of DICOM slices, or any file that `clinreadnet score` takes, such as an .npy of
Hounsfield units, [n, 512, 512]. Research use only: not a medical device.
"""

import sys

from clinreadnet.data.slices import find_slices
from clinreadnet.errors import ClinReadNetError
from clinreadnet.runtime import Session


def main(bundle: str, slices: str, *keys: str) -> None:
    """Print one line per slice: its number, its score and a mark if it is novel, or the error."""
    series = find_slices([slices])
    with Session(bundle, trusted_keys=keys or None) as session:
        print(f"{session.backend}, {session.artifact.file}", file=sys.stderr)
        with session.stream(capacity=8) as stream:
            for one in series:  # a scanner's callback would call stream.put(hu)
                stream.put(one.load())
        for result in stream:
            if result.scores is None:
                print(result.index, result.error)
                continue
            like = result.scores.in_domain  # None where the bundle cannot judge
            mark = " novel" if like is not None and not like[0] else ""
            print(result.index, f"{result.scores.score[0]:.3f}{mark}")


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit("usage: score_series.py BUNDLE SLICES [PUBLIC_KEY.pem]")
    try:
        main(*sys.argv[1:])
    except ClinReadNetError as error:
        sys.exit(f"score_series: {error}")
