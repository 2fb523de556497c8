"""Compare the artifacts of a bundle with the float64 reference.

The files of all artifacts are checked. ONNX graphs run on the CPU in the batches of
`clinreadnet.verify.batches`. The relative error ‖out − ref‖ / ‖ref‖ of each output, the worst tile
of the quality maps, the worst novelty and the differences of the task metrics must be within the
budgets of the precision. Slices that change between in and out of domain are counted. Graphs also
run with ONNX Runtime's CUDA provider and with OpenVINO if available, and TensorRT engines if this
machine can load them. The slices are the golden slices of the bundle (without torch), or a labelled
folder (with the checkpoint).

If two nearly equal scores change their order, a pair of n slices changes KROCC by 4 / (n (n - 1)),
which exceeds its tolerance if n < 64. Golden slices therefore have distinct reference scores (see
`clinreadnet.export.golden`), so that a change of order is an error of the artifact. A labelled
folder should have a few hundred slices.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import BackendError, InputError
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.onnxruntime import installed_version
from clinreadnet.runtime.bundle.files import digest, read_listed
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, Parity
from clinreadnet.runtime.records import CPU_BACKEND, ran_on
from clinreadnet.runtime.verdict import this_machine
from clinreadnet.verify.backends import (
    backend_of,
    largest_batch,
    more_backends,
    runs_here,
    verify_with,
    with_others,
)
from clinreadnet.verify.batches import planned, verified_range
from clinreadnet.verify.compare import Evidence, LocalTruth, failed, not_run
from clinreadnet.verify.graph import NotRunnable, verify_graph
from clinreadnet.verify.reference import Advance, GoldenSlices, reference_outputs
from clinreadnet.verify.report import GOLDEN_SOURCE, VerifyReport


def verify_artifact(
    bundle: Path,
    artifact: Artifact,
    evidence: Evidence,
    manifest: Manifest | None = None,
    advance: Advance = lambda n: None,
    scores: dict[str, NDArray[Any]] | None = None,
    device: int = 0,
) -> Parity:
    """Check the file of an artifact, run it if this machine can, and compare.

    A graph runs on the CPU, an engine or a checkpoint with the backend of a session. ``ran_on`` of
    the result is None if it was not run.

    Args:
        bundle: folder of the bundle.
        artifact: entry in the manifest.
        evidence: slices, reference outputs and labels.
        manifest: manifest of the bundle; without it only graphs run.
        advance: called with the number of computed slices.
        scores: dict that receives the scores of the artifact, by file name.
        device: index of the GPU.
    """
    try:
        content, *_ = [read_listed(bundle, listed) for listed in artifact.files]
        if artifact.kind == "onnx":
            machine = this_machine(installed_version())
            parity, computed = verify_graph(
                content,
                artifact.precision,
                artifact.batch,
                evidence,
                file=str(bundle / artifact.file),
                advance=advance,
            )
            parity = replace(parity, ran_on=ran_on(CPU_BACKEND, machine))
        elif manifest is None or not runs_here(artifact):
            return not_run(artifact)
        else:
            backend = backend_of(artifact)
            parity, computed = verify_with(
                backend, bundle, manifest, artifact, evidence, advance, device
            )
    except NotRunnable as reason:
        return not_run(artifact, str(reason))
    except (BackendError, InputError) as error:
        return failed(artifact, error)
    if scores is not None and parity.relative_error:
        scores[artifact.title] = computed
    return parity


def verify_golden(
    bundle: str | os.PathLike[str],
    manifest: Manifest,
    advance: Advance = lambda n: None,
    device: int = 0,
) -> VerifyReport:
    """Verify on the bundle's golden slices, without torch.

    Args:
        bundle: folder of the bundle.
        manifest: manifest of the bundle.
        advance: called with the number of computed slices, for each graph.
        device: index of the GPU.
    """
    folder = Path(bundle)
    try:
        golden = read_golden(folder, manifest.golden)
    except InputError as error:
        # Hashes of the artifacts can still be checked.
        artifacts = tuple(replace(a, parity=_only_hashed(folder, a)) for a in manifest.artifacts)
        return VerifyReport(folder, GOLDEN_SOURCE, 0, artifacts, (str(error),))
    evidence = golden_evidence(golden, manifest.model.novelty_threshold)
    return _verify(folder, manifest, GOLDEN_SOURCE, evidence, advance, device)


def golden_evidence(golden: Mapping[str, NDArray[Any]], threshold: float | None = None) -> Evidence:
    """Return the arrays of a golden file as `Evidence`."""
    truth = None
    if "tile_quality" in golden:
        truth = LocalTruth(golden["quality"], golden["tile_quality"], golden["tile_weight"])
    labels = golden["label"].astype(np.float64)
    return Evidence(
        GoldenSlices(golden["hu"], golden.get("kind")), golden, labels, truth, threshold
    )


def verify_folder(
    bundle: str | os.PathLike[str],
    manifest: Manifest,
    data: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    advance: Advance = lambda n: None,
    device: int = 0,
) -> VerifyReport:
    """Verify on a labelled folder, with a reference from the checkpoint.

    Args:
        bundle: folder of the bundle.
        manifest: manifest of the bundle.
        data: an LDCTIQA folder.
        checkpoint: checkpoint of the bundle; default the shipped one.
        advance: called with the number of computed slices, for the reference and each graph.
        device: index of the GPU.

    Raises:
        InputError: the folder cannot be read or has fewer than two slices, torch is not installed,
            or the bundle is from another checkpoint.
    """
    from clinreadnet.data.ldctiqa import read_ldctiqa
    from clinreadnet.data.tiles import read_tiles
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
    tiles = read_tiles(slices.folder, slices.names)
    truth = None
    if tiles is not None and slices.quality is not None:
        truth = LocalTruth(slices.quality, tiles.quality, tiles.weight)
    evidence = Evidence(
        slices=slices,
        reference=reference_outputs(model, slices, advance),
        labels=slices.scores.astype(np.float64),
        truth=truth,
        threshold=manifest.model.novelty_threshold,
    )
    return _verify(Path(bundle), manifest, str(data), evidence, advance, device)


def steps(manifest: Manifest, slices: int, *, golden: bool) -> int:
    """Return the number of computed slices, including repetitions, for progress bars.

    Args:
        manifest: manifest of the bundle.
        slices: number of slices to verify on.
        golden: whether they are the golden slices, whose reference is known.
    """
    total = 0 if golden else slices
    for artifact in manifest.artifacts:
        if artifact.kind == "onnx":
            backends = [CPU_BACKEND, *more_backends(manifest, artifact)]
            if PRECISIONS[artifact.precision].quantized_type is not None:
                total += slices  # the run without quantisers
        else:
            backends = [backend_of(artifact)] if runs_here(artifact) else []
        for backend in backends:
            largest = largest_batch(backend, artifact.batch)
            total += planned(slices, verified_range(artifact.batch, largest))
    return total


def _verify(
    bundle: Path,
    manifest: Manifest,
    source: str,
    evidence: Evidence,
    advance: Advance,
    device: int,
) -> VerifyReport:
    scores = {"reference": evidence.reference["score"]}
    artifacts = []
    for artifact in manifest.artifacts:
        parity = verify_artifact(bundle, artifact, evidence, manifest, advance, scores, device)
        graph = artifact.kind == "onnx" and parity.status == "passed"
        records = tuple(
            verify_with(backend, bundle, manifest, artifact, evidence, advance, device)[0]
            for backend in (more_backends(manifest, artifact) if graph else ())
        )
        parity = with_others(artifact, parity, device)
        artifacts.append(replace(artifact, parity=parity, records=records))
    return VerifyReport(
        bundle,
        source,
        len(evidence.labels),
        tuple(artifacts),
        scores=scores,
        unjudged=manifest.unjudged,
        notes=_few_slices(len(evidence.labels), manifest),
    )


def _few_slices(slices: int, manifest: Manifest) -> tuple[str, ...]:
    largest = max(artifact.batch.max for artifact in manifest.artifacts)
    if slices >= largest:
        return ()
    return (f"{slices} slices are fewer than the profile's MAX, {largest}: batches repeat them",)


def _only_hashed(bundle: Path, artifact: Artifact) -> Parity:
    try:
        read_listed(bundle, artifact)
    except InputError as error:
        return failed(artifact, error)
    return not_run(artifact, "the golden slices cannot be read")
