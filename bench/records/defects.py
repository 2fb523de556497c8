"""Verify defective copies of the shipped network's graphs and record which fail: `make defects`.

A defect runs on ``FIRST`` golden slices; if it passes there, on all of them. Results are kept while
the graphs and the code are unchanged, so a stopped run can be continued.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import support.defects
from numpy.typing import NDArray
from support.defects import DEFECTS, Defect

import clinreadnet.runtime.comparison
import clinreadnet.verify
from bench.recording import RESULTS, run_facts, write_record
from clinreadnet.export.onnx.quantization import quantize_dynamically
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.files import load_manifest, read_listed
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.verify.compare import Evidence
from clinreadnet.verify.graph import verify_graph
from clinreadnet.verify.reference import GoldenSlices

RECORD = RESULTS / "verification" / "defects.json"
PRECISIONS_BROKEN = ("fp32", "fp16", "int8", "int8-dynamic")
FIRST = ("saturated", "blocks", "denoised")
"""Kinds of golden slices to run first."""
BATCH = BatchRange(1, 2, 9)
"""Profile for defects of batches. Other defects run at batch 1."""


def code_digest() -> str:
    """Return a hash of the files that determine how a graph is modified and verified."""
    verify = Path(clinreadnet.verify.__file__).parent
    files = [
        *(verify / f"{name}.py" for name in ("batches", "compare", "emulate", "graph")),
        Path(clinreadnet.runtime.comparison.__file__),
        Path(support.defects.__file__),
    ]
    return sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def subset(golden: Mapping[str, NDArray[Any]], kept: NDArray[np.intp] | None = None) -> Evidence:
    """Return some golden slices (default all) without labels."""
    arrays = golden if kept is None else {name: array[kept] for name, array in golden.items()}
    labels = np.full(len(arrays["hu"]), np.nan)
    return Evidence(GoldenSlices(arrays["hu"], arrays["kind"]), arrays, labels)


def judge(
    content: bytes, precision: str, golden: Mapping[str, NDArray[Any]], *, batch: bool
) -> dict[str, Any]:
    """Verify a graph on the first slices and, if it passes, on all."""
    first = np.flatnonzero(np.isin(golden["kind"], FIRST))
    profile = BATCH if batch else BatchRange(1, 1, 1)
    for evidence in (subset(golden, first), subset(golden)):
        parity, _ = verify_graph(content, precision, profile, evidence)
        judgement = {
            "status": parity.status,
            "reason": parity.reason,
            "slices": len(evidence.slices),
            "caught_by": parity.details["slices_off"],
            "slice_error": _rounded(parity.details["slice_error"]),
            "without_quantisers": _rounded(parity.details.get("without_quantisers", {})),
            "worst_tile_difference": _digits(parity.worst_tile_difference),
            "worst_novelty_difference": _digits(parity.worst_novelty_difference),
        }
        if parity.status == "failed" or batch:
            break
    return judgement


def _rounded(errors: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _digits(error) for name, error in errors.items()}


def _digits(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.2e}")


def broken(defect: Defect, precision: str, sources: Mapping[str, bytes]) -> bytes:
    """Return a defective copy of a graph, converted from its source if dynamic."""
    row = PRECISIONS[precision]
    if not row.dynamic:
        return defect.of(sources[precision])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        source.write_bytes(defect.of(sources[str(row.source)]))
        quantize_dynamically(source, target, precision=precision)
        return target.read_bytes()


def run(bundle: Path, end: float) -> int:
    """Record every defect of a bundle's graphs; return 1 if the correct graph fails."""
    manifest = load_manifest(bundle)
    golden = read_golden(bundle, manifest.golden)
    sources = {
        artifact.precision: read_listed(bundle, artifact)
        for artifact in manifest.artifacts
        if artifact.kind == "onnx" and artifact.precision in PRECISIONS_BROKEN
    }
    missing = [name for name in PRECISIONS_BROKEN if name not in sources]
    if missing:
        print(f"{bundle}: no graph in {', '.join(missing)}", file=sys.stderr)
        return 2
    head: dict[str, Any] = {
        **run_facts("make defects"),
        "onnxruntime": onnxruntime.__version__,
        "preset": manifest.model.preset,
        "weights_sha256": manifest.model.weights_sha256,
        "golden_sha256": manifest.golden.sha256,
        "code": code_digest(),
    }
    same = ("weights_sha256", "golden_sha256", "code")
    before = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    kept = before.get("defects", {}) if all(before.get(k) == head[k] for k in same) else {}
    right = Defect("none", "nothing: the graph as it is exported", lambda net: None)
    judgements: dict[str, Any] = {}
    complete = True
    for defect in (*DEFECTS, right):
        entry = kept.get(defect.name, {"precisions": {}})
        judgements[defect.name] = entry | {"what": defect.what, "batch": defect.batch}
        for precision in sources:
            alone = PRECISIONS[precision].dynamic  # does not run in batches
            if precision in entry["precisions"] or (alone and defect.batch):
                continue
            if time.monotonic() > end:
                complete = False
                continue
            start = time.process_time()
            content = broken(defect, precision, sources)
            judgement = judge(content, precision, golden, batch=defect.batch)
            judgement["cpu_seconds"] = round(time.process_time() - start, 1)
            entry["precisions"][precision] = judgement
            print(defect.name, precision, judgement["status"], judgement["reason"], file=sys.stderr)
            write_record(RECORD, head | {"complete": False, "defects": judgements})
    write_record(RECORD, head | {"complete": complete, "defects": judgements})
    right_ones = judgements["none"]["precisions"] if complete else {}
    failing = [p for p, judgement in right_ones.items() if judgement["status"] != "passed"]
    if failing:
        print(f"the right graph fails in {', '.join(failing)}", file=sys.stderr)
    return 1 if failing else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the defects of a bundle, which is exported by default."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle with these graphs; default exported")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    if options.bundle is not None:
        return run(options.bundle, end)
    from clinreadnet.export.bundle import export_bundle
    from clinreadnet.export.request import EngineRequest, GraphRequest

    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        export_bundle(
            bundle,
            graphs=GraphRequest(PRECISIONS_BROKEN),
            engines=EngineRequest(targets=()),
            note=print,
        )
        return run(bundle, end)


if __name__ == "__main__":
    sys.exit(main())
