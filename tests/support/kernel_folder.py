"""A folder of exported kernels with the Sobel stem alone: compiled in seconds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import triton

from clinreadnet import __version__
from clinreadnet.export.kernels import (
    INDEX_NAME,
    SCHEMA_VERSION,
    KernelSet,
    compile_source,
    sources,
)


def write_kernels(folder: Path) -> Path:
    """Write the folder like `clinreadnet export-kernels`, and return it."""
    ((spec, source),) = ((a, b) for a, b in sources("tiny") if b.name == "sobel_stem")
    compiled = compile_source(spec, source, "fp16", "sm80")
    assert compiled is not None
    kernel, code = compiled.written_as("ptx")
    index = KernelSet(SCHEMA_VERSION, __version__, triton.__version__, "tiny", (kernel,))
    folder.mkdir(parents=True)
    (folder / kernel.file).write_bytes(code)
    (folder / INDEX_NAME).write_text(json.dumps(asdict(index)))
    return folder
