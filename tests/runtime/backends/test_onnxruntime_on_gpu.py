"""The CUDA backend of ONNX Runtime on a real GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from support.tiny_bundle import reference, write_bundle

from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.onnxruntime import offers_cuda

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("precision", "rtol"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_the_graph_scores_as_the_reference(
    tmp_path: Path, workers: int, precision: str, rtol: float
) -> None:
    if not offers_cuda():
        pytest.skip("onnxruntime-gpu is not installed")
    hu = np.random.default_rng(1).normal(40, 300, (11, 512, 512)).astype(np.float32)
    bundle = write_bundle(tmp_path / "bundle")
    with Session(bundle, "onnxruntime-cuda", precision, workers=workers) as session:
        for n in (1, 4, 11, 3, 11):
            scores = session.score(hu[:n])
            np.testing.assert_allclose(scores.score, reference(hu[:n])["score"], rtol=rtol)
