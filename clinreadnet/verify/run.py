"""Compare the artifacts of a bundle with the float64 reference.

The files of all artifacts are checked. ONNX graphs run on the CPU: ‖out − ref‖ / ‖ref‖ of each
output and the differences of the task's metrics must be within the budgets of the precision.
TensorRT engines are not run. The slices are the bundle's golden slices (without torch) or a
labelled folder (the checkpoint is then needed).

If two nearly equal scores change places, rank metrics change by a whole pair: one pair of n slices
moves KROCC by 4 / (n (n - 1)), more than its tolerance if n < 64. Golden slices therefore have
distinct reference scores (see `clinreadnet.export.golden`), so that any change of order is an error
of the artifact. In a labelled folder every slice counts; use a few hundred slices.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import BackendError, InputError
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, Parity, digest, read_listed
from clinreadnet.runtime.reproduce import run_slices
from clinreadnet.runtime.scores import Outputs
from clinreadnet.verify.compare import compare, not_run
from clinreadnet.verify.reference import Advance, GoldenSlices, SliceSource, reference_outputs
from clinreadnet.verify.report import VerifyReport

EMULATED_NOTE = (
    "emulated on a CPU: every 16-bit tensor is rounded, "
    "the arithmetic inside an operator is float32; only a GPU shows its own"
)
PLAIN_NOTE = (
    "ONNX Runtime's CPU computes in float32: types and weights are proven, 16-bit rounding is not; "
    "with the package onnx installed it is emulated"
)


def verify_artifact(
    bundle: Path,
    artifact: Artifact,
    slices: SliceSource,
    reference: Outputs,
    labels: NDArray[Any],
    advance: Advance = lambda n: None,
    scores: dict[str, NDArray[Any]] | None = None,
) -> Parity:
    """Check an artifact's file, run it if it is an ONNX graph, and compare.

    Args:
        bundle: its folder.
        artifact: its entry in the manifest.
        slices: n slices.
        reference: float64 outputs on the same slices.
        labels: [n], the radiologists' scores.
        advance: called with the number of computed slices.
        scores: gets the artifact's scores, by its file name.
    """
    try:
        content = read_listed(bundle, artifact)
        if artifact.layers is not None:
            read_listed(bundle, artifact.layers)
        if artifact.kind != "onnx":
            return not_run(artifact)
        content, note = _emulated(content, artifact)
        backend = OnnxRuntimeBackend(content, file=str(bundle / artifact.file))
        outputs = run_slices(
            backend.run,
            (slices.hu(index) for index in range(len(slices))),
            batch=artifact.batch.opt,
            smallest=artifact.batch.min,
            advance=advance,
        )
        if scores is not None:
            scores[artifact.file] = outputs["score"]
    except _NotRunnable as reason:
        return not_run(artifact, str(reason))
    except (BackendError, InputError) as error:
        return Parity("failed", reason=str(error), budget=PRECISIONS[artifact.precision].budget)
    parity = compare(artifact.precision, outputs, reference, labels)
    if note is not None:
        parity = replace(parity, details=parity.details | {"note": note})
    return parity


def verify_golden(
    bundle: str | os.PathLike[str], manifest: Manifest, advance: Advance = lambda n: None
) -> VerifyReport:
    """Verify on the bundle's golden slices, without torch.

    Args:
        bundle: its folder.
        manifest: its manifest.
        advance: called with the number of computed slices, for each graph.
    """
    folder = Path(bundle)
    try:
        golden = read_golden(folder, manifest.golden)
    except InputError as error:
        # The hashes of the artifacts can still be checked.
        artifacts = tuple(replace(a, parity=_only_hashed(folder, a)) for a in manifest.artifacts)
        return VerifyReport(folder, "golden", 0, artifacts, (str(error),))
    return _verify(
        folder, manifest, "golden", GoldenSlices(golden["hu"]), golden, golden["label"], advance
    )


def verify_folder(
    bundle: str | os.PathLike[str],
    manifest: Manifest,
    data: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    advance: Advance = lambda n: None,
) -> VerifyReport:
    """Verify on a labelled folder; the reference is computed from the checkpoint.

    Args:
        bundle: its folder.
        manifest: its manifest.
        data: an LDCTIQA folder.
        checkpoint: the checkpoint of the bundle; default the shipped one.
        advance: called with the number of computed slices, for the reference and each graph.

    Raises:
        InputError: the folder cannot be read or has fewer than two slices, torch is missing, or the
            bundle was made from another checkpoint.
    """
    from clinreadnet.data.ldctiqa import read_ldctiqa
    from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path

    slices = read_ldctiqa(data)
    if len(slices) < 2:
        raise InputError(f"{data}: {len(slices)} labelled slices; metrics need two or more")
    preset = manifest.model.preset
    path = Path(checkpoint) if checkpoint is not None else pretrained_path(preset)
    try:
        model = load_checkpoint(path, preset=preset)
    except ModuleNotFoundError as error:
        raise InputError(
            f"`data` needs {error.name} to compute the reference; run "
            '`pip install "clinreadnet[export]"`, or leave it out'
        ) from None
    if digest(path.read_bytes()) != manifest.model.weights_sha256:
        raise InputError(
            f"{path}: not the checkpoint this bundle was made from (SHA-256 differs); "
            "give that one as `checkpoint`, or export again"
        )
    reference = reference_outputs(model, slices, advance)
    return _verify(Path(bundle), manifest, str(data), slices, reference, slices.scores, advance)


def passes(manifest: Manifest, *, golden: bool) -> int:
    """Return the number of times that each slice is computed, for progress bars."""
    return sum(a.kind == "onnx" for a in manifest.artifacts) + (not golden)


def _verify(
    bundle: Path,
    manifest: Manifest,
    source: str,
    slices: SliceSource,
    reference: Outputs,
    labels: NDArray[Any],
    advance: Advance,
) -> VerifyReport:
    labels = labels.astype(np.float64)
    scores = {"reference": reference["score"]}
    artifacts = []
    for artifact in manifest.artifacts:
        parity = verify_artifact(bundle, artifact, slices, reference, labels, advance, scores)
        if (ours := scores.get(artifact.file)) is not None:
            worst = int(np.argmax(np.abs(ours - reference["score"])))
            parity = replace(parity, details=parity.details | {"worst_slice": slices.name(worst)})
        artifacts.append(replace(artifact, parity=parity))
    return VerifyReport(bundle, source, len(labels), tuple(artifacts), scores=scores)


class _NotRunnable(Exception):
    pass


def _emulated(content: bytes, artifact: Artifact) -> tuple[bytes, str | None]:
    """Return the graph that a CPU can run, and a note on what it does not check."""
    precision = PRECISIONS[artifact.precision]
    if not precision.reduced:
        return content, None
    try:
        from clinreadnet.verify.emulate import emulate
    except ModuleNotFoundError as error:
        if not precision.runs_on_cpu:
            raise _NotRunnable(
                f"needs {error.name} to emulate {precision.torch_dtype} on a CPU"
            ) from None
        return content, PLAIN_NOTE
    return emulate(content), EMULATED_NOTE


def _only_hashed(bundle: Path, artifact: Artifact) -> Parity:
    try:
        read_listed(bundle, artifact)
    except InputError as error:
        return Parity("failed", reason=str(error), budget=PRECISIONS[artifact.precision].budget)
    return Parity(
        "not run",
        reason="the golden slices cannot be read",
        budget=PRECISIONS[artifact.precision].budget,
    )
