"""The programs in `examples/`, run as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from support.bodies import body
from support.tiny_bundle import reference, write_bundle

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_score_series(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    hu = np.stack([body(value) for value in (0, 10, 20, 395, 30)]).astype(np.int16)
    np.save(tmp_path / "hu.npy", hu)
    command = [sys.executable, EXAMPLES / "score_series.py", bundle, tmp_path / "hu.npy"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(line[0]) for line in lines] == list(range(5))
    expected = [f"{score:.3f}" for score in reference(hu)["score"]]
    assert [line[1] for line in lines] == expected
    assert [line[2:] for line in lines] == [[], [], [], ["novel"], []]
    (bundle / "manifest.json").write_text("{}")
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1 and failed.stderr.startswith("score_series: ")
    assert len(failed.stderr.splitlines()) == 1
