"""Verify artifacts with the backends of a session."""

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
from clinreadnet.runtime.backends.loading import (
    LOADERS,
    SessionOptions,
    artifacts_of,
    open_backend,
)
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Artifact, BatchRange, Manifest, Parity
from clinreadnet.runtime.records import (
    CPU_BACKEND,
    CPU_BACKENDS,
    NATIVE_BACKEND,
    other_records,
    ran_on,
)
from clinreadnet.runtime.verdict import this_machine
from clinreadnet.verify.batches import CPU_BATCH, verified_range
from clinreadnet.verify.compare import Evidence, failed, not_run
from clinreadnet.verify.graph import judge_runs
from clinreadnet.verify.reference import Advance


def backend_of(artifact: Artifact) -> str:
    """Return the backend of an engine or a checkpoint."""
    return artifact.flavour or NATIVE_BACKEND


def runs_here(artifact: Artifact) -> bool:
    """Return whether this machine may be able to run an engine or a checkpoint."""
    return LOADERS[backend_of(artifact)].here()


def more_backends(manifest: Manifest, graph: Artifact) -> tuple[str, ...]:
    """Return the backends that run a graph here, besides ONNX Runtime on the CPU."""
    return tuple(
        name
        for name, loader in LOADERS.items()
        if name != CPU_BACKEND and graph in artifacts_of(name, manifest) and loader.here()
    )


def verify_with(
    backend: str,
    bundle: Path,
    manifest: Manifest,
    artifact: Artifact,
    evidence: Evidence,
    advance: Advance = lambda n: None,
    device: int = 0,
) -> tuple[Parity, NDArray[Any]]:
    """Run an artifact with a backend and compare the outputs; see `verify_artifact`.

    Returns:
        The record, and the score of each slice; NaN if it did not run.
    """
    # Without the records, which would reject an artifact that failed before.
    new = replace(artifact, parity=None, records=())
    options = SessionOptions(batch=largest_batch(backend, new.batch), device=device)
    scores: NDArray[Any] = np.full(len(evidence.labels), np.nan)
    try:
        loaded = open_backend(backend, bundle, manifest, options, new)
    except BackendUnavailable as reason:
        prefix = f"{backend}: " if artifact.kind == "onnx" else ""  # several backends run graphs
        return not_run(artifact, f"{prefix}{reason}"), scores
    except (BackendError, InputError) as error:
        return failed(artifact, error), scores
    try:
        here = verified_range(new.batch, loaded.batch)
        parity, scores = judge_runs(
            loaded.backend.run, new.precision, new.batch, here, evidence, advance
        )
    except (OutOfMemory, DeviceLost, InputError) as error:
        return failed(artifact, error), scores
    except BackendError as error:
        parity = failed(artifact, error)
    finally:
        loaded.backend.close()
    return replace(parity, ran_on=ran_on(backend, loaded.machine)), scores


def largest_batch(backend: str, profile: BatchRange) -> int:
    """Return the largest batch to verify with a backend."""
    if backend in CPU_BACKENDS:
        return max(min(CPU_BATCH, profile.max), profile.min)
    return profile.max


def with_others(artifact: Artifact, parity: Parity, device: int) -> Parity:
    """Add records of other machines to the reason of an artifact that was not run here."""
    if parity.status != NOT_RUN or artifact.kind == "onnx":
        return parity
    others = other_records(artifact, backend_of(artifact), this_machine(device=device))
    return replace(parity, reason=f"{parity.reason}; {others}") if others else parity
