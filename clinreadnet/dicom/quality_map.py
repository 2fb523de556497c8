"""Quality maps as DICOM: a Parametric Map, or secondary captures for viewers that show no such map.

A pixel of the parametric map is the score of one 32x32 patch of a slice. It has its own spacing, 32
times the slice's, and lies at the centre of the patch, so viewers that fuse by geometry align it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from clinreadnet._version import __version__
from clinreadnet.data.slices import SliceRef
from clinreadnet.dicom import device
from clinreadnet.dicom.codes import QUALITY_MAP, identify_scheme
from clinreadnet.dicom.sources import Sources
from clinreadnet.errors import InputError
from clinreadnet.files import whole_folder
from clinreadnet.scoring.series import SeriesReport
from clinreadnet.spec import GRADE_RANGE, SIZE, TILE

_WINDOW = (400.0, 40.0)  # width and level of a capture, HU
_OPACITY = 0.4
_BURNT_IN = "RESEARCH USE ONLY"
_VIRIDIS = np.array(
    [
        *([68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141]),
        *([39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]),
    ],
    np.float32,
)
"""Anchors of the colours of scores from 0 to 4, RGB."""


def check_geometry(refs: Sequence[SliceRef], sources: Sources) -> None:
    """Refuse slices whose map has no place in space, before anything is scored.

    Args:
        refs: slices from `find_slices`.
        sources: from `read_sources`, of the same slices.

    Raises:
        InputError: a slice is not 512x512, has no position, orientation, spacing or
            FrameOfReferenceUID, or differs from its series in one of the last three.
    """
    first: dict[str, tuple[tuple[Any, ...], SliceRef]] = {}
    for ref in refs:
        header = sources[ref.path]
        if (header.Rows, header.Columns) != (SIZE, SIZE):
            raise InputError(
                f"{ref.name}: {header.Rows}x{header.Columns} pixels; a map is written only of "
                f"slices of {SIZE}x{SIZE}, leave out `map`"
            )
        _, orientation, spacing = _geometry(ref, header)
        shared = header.get("SharedFunctionalGroupsSequence")
        if shared and "PixelMeasuresSequence" not in shared[0]:
            raise InputError(
                f"{ref.name}: its frames share no PixelMeasuresSequence, so a map has no place; "
                "leave out `map`"
            )
        frame_of_reference = str(header.get("FrameOfReferenceUID") or "")
        if not frame_of_reference:
            raise InputError(
                f"{ref.name}: no FrameOfReferenceUID, so a map has no place; leave out `map`"
            )
        here = (tuple(np.round(orientation, 4)), tuple(np.round(spacing, 4)), frame_of_reference)
        other, path = first.setdefault(ref.series, (here, ref))
        if other != here:
            raise InputError(
                f"{ref.name}: its orientation, spacing or frame of reference is not that of "
                f"{path.name}, of the same series; leave out `map`, or give them separately"
            )


def write_maps(
    report: SeriesReport, sources: Sources, session: Mapping[str, Any], folder: Path
) -> None:
    """Write a Parametric Map of each series, ``map-1.dcm`` ..., into a new folder.

    Args:
        report: scores from `score_slices`.
        sources: from `read_sources`, of the same slices, which passed `check_geometry`.
        session: from `Session.describe`.
        folder: folder to create.

    Raises:
        InputError: ``folder`` exists or cannot be created.
    """
    members = _members(report)
    with whole_folder(folder) as temporary:
        for number, indices in enumerate(members, start=1):
            made = _make_map(report, indices, sources, session, number)
            made.save_as(temporary / f"map-{number}.dcm", enforce_file_format=True)


def write_captures(
    report: SeriesReport, sources: Sources, session: Mapping[str, Any], folder: Path
) -> None:
    """Write each slice under its map as a Secondary Capture, ``capture-1-0001.dcm`` ....

    The window is 400/40. "RESEARCH USE ONLY" and the score are burnt into the pixels, which are
    read again.

    Args:
        report: scores from `score_slices`.
        sources: from `read_sources`, of the same slices.
        session: from `Session.describe`.
        folder: folder to create.

    Raises:
        InputError: ``folder`` exists or cannot be created, or a slice cannot be read any more.
    """
    with whole_folder(folder) as temporary:
        for number, indices in enumerate(_members(report), start=1):
            series = device.new_uid()
            for place, index in enumerate(indices, start=1):
                made = _make_capture(report, index, sources, number, place, series)
                _describe(made, sources[report.refs[index].path], session)
                made.save_as(
                    temporary / f"capture-{number}-{place:04d}.dcm", enforce_file_format=True
                )


def draw_overlay(
    hu: NDArray[np.float32], quality_map: NDArray[np.float32], caption: str
) -> NDArray[np.uint8]:
    """Return a slice under its coloured map, with two lines burnt in.

    Args:
        hu: [512, 512], Hounsfield units.
        quality_map: [16, 16], scores 0...4.
        caption: second line, below "RESEARCH USE ONLY".

    Returns:
        uint8 [512, 512, 3], RGB.
    """
    width, level = _WINDOW
    grey = 255 * np.clip((hu - level + width / 2) / width, 0, 1)[..., None]
    at = np.clip(quality_map / GRADE_RANGE, 0, 1) * (len(_VIRIDIS) - 1)
    low = np.minimum(at.astype(int), len(_VIRIDIS) - 2)
    part = (at - low)[..., None]
    colours = (1 - part) * _VIRIDIS[low] + part * _VIRIDIS[low + 1]
    colours = colours.repeat(TILE, axis=0).repeat(TILE, axis=1)
    image = Image.fromarray(np.rint(grey + _OPACITY * (colours - grey)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for line, top in ((_BURNT_IN, 6), (caption, 28)):
        draw.text(
            (8, top), line, "white", ImageFont.load_default(18), stroke_width=2, stroke_fill="black"
        )
    return np.asarray(image)


def _members(report: SeriesReport) -> list[list[int]]:
    """Return the indices of the slices of each series."""
    members: dict[str, list[int]] = {}
    for index, one in enumerate(report.slices):
        members.setdefault(one.series, []).append(index)
    return list(members.values())


def _make_map(
    report: SeriesReport,
    indices: Sequence[int],
    sources: Sources,
    session: Mapping[str, Any],
    number: int,
) -> ParametricMap:
    refs = [report.refs[i] for i in indices]
    places = [_geometry(ref, sources[ref.path]) for ref in refs]
    _, orientation, spacing = places[0]
    centre = (TILE - 1) / 2  # of the first patch, in pixels of the slice
    positions = [
        place + centre * (axes[:3] * between[1] + axes[3:] * between[0])
        for place, axes, between in places
    ]
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.sort(np.unique(np.round([p @ normal for p in positions], 4)))
    step = float(np.diff(along).min()) if len(along) > 1 else 0.0
    header = sources[refs[0].path]
    thickness = float(header.get("SliceThickness") or 0) or step or 1.0
    made = ParametricMap(
        source_images=[
            _with_thickness(header, thickness)
            for header in {ref.path: sources[ref.path] for ref in refs}.values()
        ],
        pixel_array=np.ascontiguousarray(report.outputs.quality_map[list(indices)], np.float32),
        series_instance_uid=device.new_uid(),
        series_number=device.SERIES_NUMBERS["map"] + 10 * (number - 1),
        sop_instance_uid=device.new_uid(),
        instance_number=1,
        manufacturer=device.MANUFACTURER,
        manufacturer_model_name=device.MODEL,
        software_versions=__version__,
        device_serial_number=__version__,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label="SCORE",
                lut_explanation="Image quality, 0 bad to 4 excellent, research use only",
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, GRADE_RANGE),
                slope=1,
                intercept=0,
                quantity_definition=QUALITY_MAP,
            )
        ],
        window_center=GRADE_RANGE / 2,
        window_width=GRADE_RANGE,
        content_label="QUALITY_MAP",
        content_description=device.DESCRIPTION,
        pixel_measures=PixelMeasuresSequence(
            pixel_spacing=[float(TILE * one) for one in spacing],
            slice_thickness=thickness,
            spacing_between_slices=step or None,
        ),
        plane_orientation=PlaneOrientationSequence("PATIENT", [float(v) for v in orientation]),
        plane_positions=[
            PlanePositionSequence("PATIENT", [round(float(v), 6) for v in position])
            for position in positions
        ],
    )
    _describe(made, header, session)
    identify_scheme(made)
    return made


def _with_thickness(header: pydicom.Dataset, thickness: float) -> pydicom.Dataset:
    """Return a header that has a SliceThickness, which highdicom reads but does not use here."""
    copy = pydicom.Dataset(header)
    if copy.get("SliceThickness") is None:
        copy.SliceThickness = thickness
    return copy


def _make_capture(
    report: SeriesReport, index: int, sources: Sources, number: int, place: int, series: str
) -> SCImage:
    one, ref = report.slices[index], report.refs[index]
    novel = ", unlike the training data" if one.in_domain is False else ""
    caption = f"score {one.score:.2f} of 4 ({one.grade}){novel}"
    made = SCImage.from_ref_dataset(
        sources[ref.path],
        draw_overlay(ref.load(), report.outputs.quality_map[index], caption),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        series_instance_uid=series,
        series_number=device.SERIES_NUMBERS["capture"] + 10 * (number - 1),
        sop_instance_uid=device.new_uid(),
        instance_number=place,
        manufacturer=device.MANUFACTURER,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = sources[ref.path].SOPClassUID
    reference.ReferencedSOPInstanceUID = sources[ref.path].SOPInstanceUID
    if ref.frame is not None:
        reference.ReferencedFrameNumber = ref.frame + 1
    made.SourceImageSequence = [reference]
    made.BurnedInAnnotation = "NO"  # it means text that identifies the patient
    return made


def _describe(made: pydicom.Dataset, source: pydicom.Dataset, session: Mapping[str, Any]) -> None:
    if source.get("BodyPartExamined"):
        made.BodyPartExamined = source.BodyPartExamined
    made.SeriesDescription = device.DESCRIPTION
    made.ManufacturerModelName = device.MODEL
    made.SoftwareVersions = __version__
    made.DerivationDescription = f"Research use only; {'; '.join(device.parameters(session))}"[
        :1024
    ]


_Vector = NDArray[np.float64]


def _geometry(ref: SliceRef, header: pydicom.Dataset) -> tuple[_Vector, _Vector, _Vector]:
    """Return position [3], orientation [6] and spacing [2] of a slice, mm."""
    own, shared = (
        (header.get(name) or [pydicom.Dataset()])
        for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
    )
    groups = [own[min(ref.frame or 0, len(own) - 1)], shared[0]]

    def value(sequence: str, name: str, count: int) -> _Vector:
        for group in groups:
            for item in group.get(sequence) or []:
                if name in item:
                    return _vector(item[name].value, count, ref, name)
        return _vector(header.get(name), count, ref, name)

    return (
        value("PlanePositionSequence", "ImagePositionPatient", 3),
        value("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        value("PixelMeasuresSequence", "PixelSpacing", 2),
    )


def _vector(found: Any, count: int, ref: SliceRef, name: str) -> _Vector:
    try:
        vector = np.array([float(v) for v in found])
    except (TypeError, ValueError):
        vector = np.empty(0)
    if vector.shape != (count,) or not np.isfinite(vector).all():
        raise InputError(f"{ref.name}: no {name}, so a map has no place; leave out `map`")
    return vector
