"""Score a series of DICOM with the installed package, and compare it with the float64 reference.

    python score_installed.py

Run it with the Python of the environment to check, which needs nothing beside the package. The
golden slices in the package become the series. The exit status is 0 if `clinreadnet score` ran the
package's own engine and gave the reference's scores.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from clinreadnet import __version__
from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.simulator.dicom_writer import write_ct_slice

ALLOWED = 1e-3
"""Most that a score may differ, in grades of 0 to 4."""


def main() -> None:
    """Write the series, score it and compare."""
    golden = np.load(SHIPPED / "golden.npz", allow_pickle=False)
    simulated = golden["kind"] == "simulated"
    wanted = golden["score"][simulated]
    with tempfile.TemporaryDirectory() as folder:
        for index, hu in enumerate(golden["hu"][simulated]):
            write_ct_slice(
                Path(folder) / f"{index}.dcm",
                hu.astype(np.float32),
                series="golden",
                patient_id="golden",
                index=index,
                pixel_mm=0.7,
                spacing_mm=3.0,
            )
        program = Path(sys.executable).with_name("clinreadnet")
        start = time.monotonic()
        done = subprocess.run(
            [program, "score", folder, "--json"], stdout=subprocess.PIPE, cwd=folder, check=True
        )
        seconds = time.monotonic() - start
    result = json.loads(done.stdout)
    scored = {int(Path(entry["path"]).stem): entry["score"] for entry in result["slices"]}
    difference = max(abs(scored[index] - score) for index, score in enumerate(wanted))
    backend = result["session"]["backend"]
    print(
        f"clinreadnet {__version__}: {len(wanted)} slices in {seconds:.1f} s by {backend}, "
        f"{difference:.1e} from the reference"
    )
    if backend != "native" or not difference <= ALLOWED:
        sys.exit(f"expected the backend native and at most {ALLOWED:g}")


if __name__ == "__main__":
    main()
