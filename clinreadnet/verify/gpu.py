"""Run the artifacts of a bundle on this machine's GPU, through the backends that a session uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import (
    BackendError,
    BackendUnavailable,
    DeviceLost,
    InputError,
    OutOfMemory,
)
from clinreadnet.runtime.backends.ladder import SessionOptions, open_artifact
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, Manifest, Parity
from clinreadnet.runtime.records import CUDA_BACKEND, other_records, ran_on
from clinreadnet.runtime.verdict import this_machine
from clinreadnet.verify.batches import verified_range
from clinreadnet.verify.compare import failed, not_run
from clinreadnet.verify.graph import Evidence, judge_runs
from clinreadnet.verify.reference import Advance


def verify_on_cuda(
    bundle: Path,
    manifest: Manifest,
    graph: Artifact,
    evidence: Evidence,
    advance: Advance = lambda n: None,
    device: int = 0,
) -> Parity:
    """Run a graph on this machine's GPU with ONNX Runtime, and compare; as `verify_artifact`."""
    try:
        return verify_on_gpu(CUDA_BACKEND, bundle, manifest, graph, evidence, advance, device)[0]
    except BackendUnavailable as reason:
        return not_run(graph, f"{CUDA_BACKEND}: {reason}")
    except (BackendError, InputError) as error:
        return failed(graph, error)


def verify_on_gpu(
    backend: str,
    bundle: Path,
    manifest: Manifest,
    artifact: Artifact,
    evidence: Evidence,
    advance: Advance,
    device: int,
) -> tuple[Parity, NDArray[Any]]:
    """Run an artifact on this machine's GPU.

    Raises:
        BackendUnavailable: this machine cannot load it.
        BackendError, InputError: it cannot be loaded, a file is not the one in the manifest, memory
            is full, or the GPU is lost.
    """
    # Not what is recorded: that would refuse what failed before.
    new = replace(artifact, parity=None, records=())
    options = SessionOptions(batch=new.batch.max, device=device)
    loaded = open_artifact(backend, bundle, manifest, new, options)
    scores: NDArray[Any] = np.full(len(evidence.labels), np.nan)
    try:
        here = verified_range(new.batch, loaded.batch)
        parity, scores = judge_runs(
            loaded.backend.run, new.precision, new.batch, here, evidence, advance
        )
    except (OutOfMemory, DeviceLost):
        raise
    except BackendError as error:
        parity = failed(artifact, error)
    finally:
        loaded.backend.close()
    return replace(parity, ran_on=ran_on(backend, loaded.machine)), scores


def with_others(artifact: Artifact, parity: Parity, device: int) -> Parity:
    """Add to what was not run here what other machines recorded of it."""
    if parity.status != NOT_RUN or artifact.flavour is None:
        return parity
    others = other_records(artifact, artifact.flavour, this_machine(device=device))
    return replace(parity, reason=f"{parity.reason}; {others}") if others else parity
