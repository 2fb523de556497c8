"""`clinreadnet score` from DICOM files to scores: speed, start-up and memory on this machine.

Needs a bundle: CLINREADNET_BUNDLE, or `bundle` in the current folder. The baseline of the
throughput is the session alone, fed from memory; the difference is the cost of the files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure.sessions import session_facts
from clinreadnet.data.slices import find_slices
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.default import default_bundle
from clinreadnet.scoring.run import score_slices

SLICES = 24
# The peak memory of a process includes the memory of its parent at the fork, so a small process
# starts the command, not one that has just run PyTorch.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
BUNDLE = default_bundle().resolve()

needs_bundle = pytest.mark.skipif(
    not BUNDLE.is_dir(), reason=f"no bundle at {BUNDLE}: run `clinreadnet export --out bundle`"
)


def write_series(folder: Path, count: int) -> Path:
    """Write a CT series of noisy discs the size of a patient."""
    folder.mkdir()
    rows, columns = np.mgrid[:512, :512] - 255.5
    body = np.where(np.hypot(rows * 1.3, columns) < 220, 40, -1000)
    rng = np.random.default_rng(count)
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    ds.Modality, ds.SeriesInstanceUID = "CT", pydicom.uid.generate_uid()
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = body.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    for i in range(count):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        ds.InstanceNumber, ds.ImagePositionPatient = i + 1, [-180, -180, i]
        ds.PixelData = (body + 1024 + rng.normal(0, 30, body.shape)).astype("<i2").tobytes()
        ds.save_as(folder / f"{i:04d}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("series") / "short", SLICES)


def describe(benchmark: BenchmarkFixture, session: Session) -> None:
    if benchmark.stats is None:  # --quick
        return
    benchmark.extra_info |= session_facts(session) | {
        "slices": SLICES,
        "slices_per_second": SLICES / benchmark.stats.stats.min,
    }


@needs_bundle
def test_session_alone(benchmark: BenchmarkFixture, series: Path) -> None:
    session = Session(BUNDLE)
    hu = np.stack([ref.load() for ref in find_slices([series])])
    benchmark.pedantic(session.score, (hu,), rounds=3, warmup_rounds=1)
    describe(benchmark, session)


@needs_bundle
def test_files_included(benchmark: BenchmarkFixture, series: Path) -> None:
    session = Session(BUNDLE)
    benchmark.pedantic(
        lambda: score_slices(session, find_slices([series])), rounds=3, warmup_rounds=1
    )
    describe(benchmark, session)


@pytest.mark.parametrize(
    "statement",
    ["pass", "import numpy", "from clinreadnet.runtime import Session"],
    ids=["python", "numpy", "runtime"],
)
def test_start_up(benchmark: BenchmarkFixture, statement: str) -> None:
    benchmark.pedantic(
        subprocess.run,
        ([sys.executable, "-c", statement],),
        {"check": True},
        rounds=7,
        warmup_rounds=1,
    )


@needs_bundle
@pytest.mark.skipif(os.name != "posix", reason="peak memory needs a POSIX kernel")
@pytest.mark.parametrize("count", [60, 500])
def test_memory_of_the_command(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture, tmp_path: Path, count: int
) -> None:
    folder = write_series(tmp_path / "series", 2 if request.config.getoption("--quick") else count)
    score = [sys.executable, "-m", "clinreadnet.cli", "score", str(folder), "--json"]
    command = [sys.executable, "-c", PEAK, *score, "--bundle", str(BUNDLE)]

    def run() -> int:
        peak = int(subprocess.run(command, check=True, capture_output=True).stdout)
        return peak * (1 if sys.platform == "darwin" else 1024)

    start = time.perf_counter()
    peak = benchmark.pedantic(run, rounds=1)
    seconds = time.perf_counter() - start
    benchmark.extra_info |= {
        "slices": count,
        "peak_mib": round(peak / 2**20),
        "slices_per_second_with_start_up": count / seconds,
    }
    assert peak < 2**30
