"""Run the tests marked `interpret` in a separate process."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.whole import WHOLE

KERNELS = [] if WHOLE else ["-k", "within_budget"]
"""`make test` compares the kernels with the oracle, and leaves the rest to `make test-all`."""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_in_the_interpreter() -> None:
    folder = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *KERNELS, str(folder)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
    )
    print(result.stdout[-10_000:])
    assert result.returncode == 0, result.stdout[-10_000:]
    passed = re.search(r"(\d+) passed", result.stdout)
    assert passed and int(passed[1]) >= 20
