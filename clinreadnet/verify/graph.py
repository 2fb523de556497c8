"""Run an ONNX graph on slices in batches and compare the outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.precision import PRECISIONS, Limits
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend
from clinreadnet.runtime.bundle.manifest import BatchRange, Parity
from clinreadnet.runtime.comparison import (
    BatchRunner,
    Comparison,
    compare_outputs,
    run_slices,
)
from clinreadnet.runtime.scores import Outputs
from clinreadnet.verify.batches import (
    CPU_BATCH,
    BatchedOutputs,
    batch_failures,
    repeat_failure,
    run_batches,
    verified_range,
)
from clinreadnet.verify.compare import Evidence, compare
from clinreadnet.verify.reference import Advance, SliceSource

EMULATED_NOTE = (
    "emulated on a CPU: every 16-bit tensor is rounded, "
    "the arithmetic inside an operator is float32; only a GPU shows its own"
)
PLAIN_NOTE = (
    "ONNX Runtime's CPU computes in float32: types and weights are proven, 16-bit rounding is not; "
    "with the package onnx installed it is emulated"
)


def verify_graph(
    content: bytes,
    precision: str,
    batch: BatchRange,
    evidence: Evidence,
    *,
    file: str = "ONNX graph",
    advance: Advance = lambda n: None,
) -> tuple[Parity, NDArray[Any]]:
    """Run a graph on a CPU in the batches of its profile and compare.

    A graph with quantised products also runs without its quantisers on single slices, with the
    budgets of its source precision, because quantisation would hide other errors.

    Args:
        content: verified bytes of the graph.
        precision: precision in the manifest.
        batch: the profile. Batches that are too large for a CPU are noted.
        evidence: slices, reference outputs and labels.
        file: named in errors.
        advance: called with the number of computed slices.

    Returns:
        The record, and the score of each slice.

    Raises:
        NotRunnable: no CPU backend can run the graph here.
        BackendError, InputError: the bytes are not a ClinReadNet graph, or it fails to run.
    """
    runnable, note = _emulated(content, precision)
    backend = OnnxRuntimeBackend(runnable, file=file)
    here = verified_range(batch, CPU_BATCH)
    parity, scores = judge_runs(backend.run, precision, batch, here, evidence, advance)
    backend.close()
    if PRECISIONS[precision].quantized_type is not None and note != PLAIN_NOTE:
        parity = _without_quantisers(parity, content, precision, evidence, file, advance)
    return _noted(parity, note), scores


def judge_runs(
    run: BatchRunner,
    precision: str,
    batch: BatchRange,
    here: BatchRange,
    evidence: Evidence,
    advance: Advance = lambda n: None,
) -> tuple[Parity, NDArray[Any]]:
    """Run slices in the batches of a profile with any backend and compare.

    Args:
        run: function that runs a batch.
        precision: precision in the manifest.
        batch: the profile.
        here: part of the profile that this machine can run.
        evidence: slices, reference outputs and labels.
        advance: called with the number of computed slices.

    Returns:
        The record, and the score of each slice.
    """
    slices, reference = evidence.slices, evidence.reference
    limits = PRECISIONS[precision].limits()
    ran = run_batches(run, slices, here, advance)
    parity = compare(precision, ran.outputs, evidence)
    parity = _with_batches(parity, ran, reference, slices, limits)
    details = parity.details | _worst(ran.outputs, reference, slices)
    details["slices_off"] = _off(compare_outputs(ran.outputs, reference, limits), slices)
    parity = replace(parity, details=details)
    if here.max < batch.max:
        what = f"batches above {here.max} were not run; the profile goes to {batch.max}"
        parity = _noted(parity, what)
    return parity, np.asarray(ran.outputs["score"])


def _noted(parity: Parity, note: str | None) -> Parity:
    """Add a note to the details of a record."""
    if note is None:
        return parity
    notes = [text for text in (note, parity.details.get("note")) if text]
    return replace(parity, details=parity.details | {"note": "; ".join(notes)})


def _without_quantisers(
    parity: Parity,
    content: bytes,
    precision: str,
    evidence: Evidence,
    file: str,
    advance: Advance,
) -> Parity:
    """Add the errors of the graph without quantisers."""
    from clinreadnet.verify.emulate import emulate, without_quantisers

    source = str(PRECISIONS[precision].source)
    backend = OnnxRuntimeBackend(emulate(without_quantisers(content)), file=file)
    images = (evidence.slices.hu(index) for index in range(len(evidence.slices)))
    computed = run_slices(backend.run, images, advance=advance)
    backend.close()
    compared = compare_outputs(computed, evidence.reference, PRECISIONS[source].limits())
    off = [*parity.details["slices_off"], *_off(compared, evidence.slices)]
    details = parity.details | {
        "without_quantisers": dict(compared.slice_errors),
        "slices_off": list(dict.fromkeys(off)),
    }
    failures = compared.failures(f"budget of {source}")
    if not failures:
        return replace(parity, details=details)
    said = f"without its quantisers, {'; '.join(failures)}"
    reason = f"{parity.reason}; {said}" if parity.reason else said
    return replace(parity, status="failed", reason=reason, details=details)


def _off(compared: Comparison, slices: SliceSource) -> list[str]:
    """Return the names of the slices that exceed a limit."""
    return [slices.name(index) for index in compared.outside()]


def _with_batches(
    parity: Parity, ran: BatchedOutputs, reference: Outputs, slices: SliceSource, limits: Limits
) -> Parity:
    """Add the batch sizes that ran and those that failed."""
    said = batch_failures(ran, reference, limits, slices.name)
    reasons = [parity.reason] if parity.reason else []
    if len(said) < len(
        {batch.what for batch, _ in ran.runs}
    ):  # otherwise all batches fail, so the batch size is not the cause
        reasons += said.values()
    if not reasons and (apart := repeat_failure(ran, reference, limits, slices.name)):
        reasons.append(apart)
    return replace(
        parity,
        status="failed" if reasons else parity.status,
        reason="; ".join(reasons) or None,
        details=parity.details | {"batches": ran.sizes},
    )


def _worst(outputs: Outputs, reference: Outputs, slices: SliceSource) -> dict[str, Any]:
    """Return the slice with the worst score and the worst tile."""
    score, tiles = (np.abs(outputs[n] - reference[n]) for n in ("score", "quality_map"))
    index, row, column = np.unravel_index(int(np.argmax(tiles)), tiles.shape)
    return {
        "worst_slice": slices.name(int(np.argmax(score))),
        "worst_tile": {
            "slice": slices.name(int(index)),
            "row": int(row),
            "column": int(column),
        },
    }


class NotRunnable(Exception):
    """No installed CPU backend can run the graph. The message gives the reason."""


def _emulated(content: bytes, precision: str) -> tuple[bytes, str | None]:
    """Return a graph that a CPU can run, and a note on what is not checked."""
    row = PRECISIONS[precision]
    if not row.reduced:
        return content, None
    try:
        from clinreadnet.verify.emulate import emulate
    except ModuleNotFoundError as error:
        if not row.runs_on_cpu:
            raise NotRunnable(f"needs {error.name} to emulate {row.torch_dtype} on a CPU") from None
        return content, PLAIN_NOTE
    return emulate(content), EMULATED_NOTE
