"""Load one candidate and run one slice in a new process.

    python -m bench.sweeps.cold_start BUNDLE TITLE

Prints JSON: seconds to ``load`` (imports and hashes included) and of the ``first`` run.
"""

import json
import sys
import time

START = time.perf_counter()


def main() -> None:
    from pathlib import Path

    import numpy as np

    from bench.sweeps.candidates import find

    bundle, title = Path(sys.argv[1]), sys.argv[2]
    (candidate,) = [c for c in find(bundle, probe=False).candidates if c.title == title]
    hu = np.full((1, 1, 512, 512), 40.0, np.float32)
    run = candidate.open(1)
    loaded = time.perf_counter()
    run(hu)
    print(json.dumps({"load": loaded - START, "first": time.perf_counter() - loaded}))


main()
