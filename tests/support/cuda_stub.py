"""What compiles cuda_stub.cpp, a CUDA driver that launches nothing, against CUDA's own header."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

STUB = Path(__file__).with_name("cuda_stub.cpp")
HEADERS = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
COMPILER = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++"))), None)
NEEDED = [
    pytest.mark.compile,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (c++, g++ or $CXX)"),
    pytest.mark.skipif(not (HEADERS / "cuda.h").exists(), reason="this triton ships no cuda.h"),
]
"""Marks of tests that compile it."""
