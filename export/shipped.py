"""Make the bundle inside the package: the shipped checkpoint for the CPU engine, without graphs.

    python -m clinreadnet.export.shipped

writes clinreadnet/weights/manifest.json and golden.npz beside the checkpoint. It keeps fewer golden
slices than an export, so that the package stays small. golden.reference.npz holds the reference's
outputs of all of an export's slices, so that an export of this checkpoint need not compute them.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from clinreadnet.console import progress_bar
from clinreadnet.errors import CheckFailed
from clinreadnet.export.bundle import checkpoint_artifacts, unverified_manifest
from clinreadnet.export.engines.options import DEFAULT_BATCH
from clinreadnet.export.golden import (
    MIN_SLICES,
    REFERENCE_NAME,
    SIMULATED_KIND,
    Known,
    save_golden,
    save_reference,
    write_golden,
)
from clinreadnet.library import forced, load_library
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.runtime.bundle.files import write_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import GOLDEN_NAME
from clinreadnet.verify.record import fresh, merged
from clinreadnet.verify.run import verify_golden

HARD = ("ramp", "patches", "blocks", "tiles", "large field", "denoised")
"""Kinds of hard slices that are kept: those that compress best."""


def write_shipped(folder: Path = SHIPPED) -> None:
    """Write the manifest and the golden slices for the checkpoint of preset `small` in a folder.

    Raises:
        CheckFailed: the CPU engine does not reproduce the golden slices with an instruction set of
            this processor; no manifest is written.
    """
    checkpoint = folder / pretrained_path("small").name
    model = load_checkpoint(checkpoint)
    with tempfile.TemporaryDirectory() as scratch, progress_bar() as bar:
        known: Known = {}  # nothing: all of it is computed
        entry = write_golden(Path(scratch) / GOLDEN_NAME, model, bar, known=known)
        arrays = read_golden(scratch, entry)
    simulated = np.flatnonzero(arrays["kind"] == SIMULATED_KIND)
    by_score = simulated[np.argsort(arrays["score"][simulated], kind="stable")]
    spread = by_score[np.linspace(0, len(by_score) - 1, MIN_SLICES).round().astype(int)]
    kept = np.sort(np.concatenate([spread, np.flatnonzero(np.isin(arrays["kind"], HARD))]))
    golden = save_golden(
        folder / GOLDEN_NAME, {name: values[kept] for name, values in arrays.items()}
    )
    save_reference(folder / REFERENCE_NAME, checkpoint, known)
    artifacts = checkpoint_artifacts(checkpoint, DEFAULT_BATCH)
    manifest = unverified_manifest(model, checkpoint, DEFAULT_BATCH, artifacts, golden)
    reports = [verify_golden(folder, manifest)]
    # With a record, a session tests one golden slice on its processor, without it all.
    best, *others = load_library().crn_instructions().decode().split()
    for name in others:
        with forced(name):
            reports.append(verify_golden(folder, manifest))
    for name, report in zip((best, *others), reports, strict=True):
        if not report.passed:
            reasons = "; ".join(
                f"{a.title}: {a.parity and a.parity.reason}" for a in report.artifacts
            )
            raise CheckFailed(f"{folder}: {name} does not reproduce the golden slices ({reasons})")
    entries = [replace(a, records=fresh(replace(a, parity=None))) for a in reports[0].artifacts]
    for report in reports[1:]:
        entries = [
            merged(entry, fresh(ran)) for entry, ran in zip(entries, report.artifacts, strict=True)
        ]
    write_manifest(replace(manifest, artifacts=tuple(entries), verified=True), folder)


if __name__ == "__main__":
    write_shipped()
