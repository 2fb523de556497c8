"""Write simulated CT slices as DICOM: CT Image Storage, explicit VR little endian, int16 pixels.

Identifiers are derived from the name of the series, so the bytes depend only on the simulation.
Names and descriptions state that the patient is simulated.
"""

from __future__ import annotations

import os
import uuid

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from clinreadnet._version import __version__

_INTERCEPT = -1024
_HU_LIMITS = (-1024.0, 3071.0)  # twelve bits above the intercept, as scanners store them
_DATE = "20230101"
_TIME = "120000"


def _uid(*what: object) -> UID:
    # A UUID as a UID (PS3.5 B.2) needs no registered root. pydicom's generate_uid is random.
    name = "/".join(("clinreadnet", "simulate", *(str(part) for part in what)))
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, name).int}")


def write_ct_slice(
    path: str | os.PathLike[str],
    hu: NDArray[np.float32],
    *,
    series: str,
    patient_id: str,
    index: int,
    pixel_mm: float,
    spacing_mm: float,
) -> None:
    """Write one slice of a simulated series.

    Args:
        path: file to write.
        hu: ``[rows, columns]`` Hounsfield units; stored rounded, within -1024...3071.
        series: name of the series, from which its UIDs are derived.
        patient_id: identifier of the simulated patient.
        index: number of the slice from 0, head to feet.
        pixel_mm: width of a pixel.
        spacing_mm: distance between slices, and their thickness.
    """
    rows, columns = hu.shape
    stored = np.rint(np.clip(hu, *_HU_LIMITS)).astype("<i2") - np.int16(_INTERCEPT)

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = _uid("instance", series, index)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("implementation")
    meta.ImplementationVersionName = f"CLINREADNET{__version__}"[:16]

    ds = FileDataset(os.fspath(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = _DATE
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = _TIME
    ds.AccessionNumber = ""
    ds.Modality = "CT"
    ds.Manufacturer = "clinreadnet"
    ds.ManufacturerModelName = "simulator"
    ds.SoftwareVersions = __version__
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Simulated abdomen, research use only"
    ds.SeriesDescription = "Simulated low-dose abdomen"
    ds.DerivationDescription = "Simulated phantom, not a patient"
    ds.PatientName = "Simulated^Phantom"
    ds.PatientID = patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = ""
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "ABDOMEN"
    ds.KVP = "120"
    ds.ConvolutionKernel = "FBP"
    ds.StudyInstanceUID = _uid("study", series)
    ds.SeriesInstanceUID = _uid("series", series)
    ds.FrameOfReferenceUID = _uid("frame of reference", series)
    ds.PositionReferenceIndicator = ""
    ds.StudyID = "1"
    ds.SeriesNumber = 1
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = index + 1
    # x to the patient's left, y to the back, z to the head; the centre of rotation is the origin.
    z = -index * spacing_mm
    ds.ImagePositionPatient = [
        f"{-(columns // 2) * pixel_mm:.6f}",
        f"{-(rows // 2) * pixel_mm:.6f}",
        f"{z:.6f}",
    ]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SliceLocation = f"{z:.6f}"
    ds.SliceThickness = f"{spacing_mm:.6f}"
    ds.SpacingBetweenSlices = f"{spacing_mm:.6f}"
    ds.PixelSpacing = [f"{pixel_mm:.6f}", f"{pixel_mm:.6f}"]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = rows
    ds.Columns = columns
    ds.BitsAllocated = 16
    ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.RescaleIntercept = str(_INTERCEPT)
    ds.RescaleSlope = "1"
    ds.RescaleType = "HU"
    ds.WindowCenter = "40"
    ds.WindowWidth = "350"
    ds.PixelData = stored.astype("<i2").tobytes()
    ds.save_as(path, enforce_file_format=True)
