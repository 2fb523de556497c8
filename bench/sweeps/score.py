"""Data for timing `clinreadnet score` from DICOM files to scores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom

SLICES = 24
"""Number of slices of the series."""
# The peak memory of a process includes that of its parent at the fork, so a small process starts
# the command.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def write_series(folder: Path, count: int) -> Path:
    """Write a CT series of noisy discs with the size of a patient."""
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


def peak_memory(folder: Path, bundle: Path, python: str = sys.executable) -> int:
    """Score a folder with the command; return its peak memory in bytes."""
    score = [python, "-m", "clinreadnet.cli", "score", str(folder), "--json"]
    command = [sys.executable, "-c", PEAK, *score, "--bundle", str(bundle)]
    peak = int(subprocess.run(command, check=True, capture_output=True).stdout)
    return peak * (1 if sys.platform == "darwin" else 1024)
