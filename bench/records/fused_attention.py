"""Export both forms of the attention for TensorRT-RTX, and record what its builder makes of them.

    python -m bench.records.fused_attention > bench/results/verification/fused-attention.json

No GPU is needed: engines are built, and the graphs are verified on the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.recording import print_record, run_facts
from clinreadnet.runtime.bundle.files import load_manifest

FORMS: dict[str, tuple[str, ...]] = {"plain": (), "fused": ("--fused-attention",)}
TARGETS = ("sm86", "sm89", "sm120")


def row(bundle: Path, form: str) -> dict[str, Any]:
    """Return the error of the graph of a bundle, and the launches and size of its engines."""
    artifacts = load_manifest(bundle).artifacts
    (graph,) = (artifact for artifact in artifacts if artifact.kind == "onnx")
    assert graph.parity is not None
    engines = []
    for artifact in artifacts:
        if artifact.kind == "tensorrt-engine":
            report = (bundle / artifact.file).with_suffix(".layers.json").read_text("utf-8")
            layers = json.loads(report)
            engines.append(
                {
                    "target": artifact.target,
                    "bytes": artifact.size,
                    "launches": layers["launches"],
                    "fused_attentions": layers["fused_attentions"],
                }
            )
    errors = [error for error in graph.parity.relative_error.values() if error is not None]
    return {"form": form, "status": graph.parity.status, "error": max(errors), "engines": engines}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the record as JSON."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args(arguments)
    record = run_facts("python -m bench.records.fused_attention")
    record["rows"] = []
    command = [sys.executable, "-m", "clinreadnet.cli", "export", "--precision", "fp16"]
    command += [part for target in TARGETS for part in ("--target", target)]
    with tempfile.TemporaryDirectory() as folder:
        for form, options in FORMS.items():
            bundle = Path(folder) / form
            subprocess.run(
                [*command, "--out", str(bundle), *options], check=True, stdout=sys.stderr
            )
            record["rows"].append(row(bundle, form))
    return print_record(record)


if __name__ == "__main__":
    sys.exit(main())
