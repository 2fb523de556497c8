"""Write quality maps as DICOM: Parametric Maps, or Secondary Captures for other viewers.

A pixel of the parametric map is the score of a 32x32 patch of a slice. Its spacing is 32 times that
of the slice and its position is the centre of the patch, so viewers that fuse by geometry align map
and slice. For viewers that need as many pixels as the slice has, such as OHIF, each score is
repeated in its patch, and stored as a share of the range of scores, because OHIF draws 0 ... 1. The
real world value mapping gives the score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from pydicom.valuerep import DSfloat

from clinreadnet._version import __version__
from clinreadnet.data.character_sets import UTF_8
from clinreadnet.data.dicom_container import CT_IMAGE
from clinreadnet.data.slices import SliceRef
from clinreadnet.dicom import device
from clinreadnet.dicom.attributes import COPIED, UNPAIRED
from clinreadnet.dicom.codes import QUALITY_MAP, identify_scheme
from clinreadnet.dicom.object_files import ObjectFile, write_objects
from clinreadnet.dicom.sources import Source, Sources, frame_number
from clinreadnet.errors import InputError
from clinreadnet.scoring.overlay import draw_bar, draw_map
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.spec import GRADE_RANGE, LIKERT, SIZE, TILE

RESOLUTIONS = {"patch": TILE, "slice": 1}
"""Side of a pixel of the map, in pixels of the slice, by name."""

_Vector = NDArray[np.float64]

_LEAST_ORTHONORMAL = 1e-3
_FARTHEST = 1e5  # mm
_WINDOW = (400.0, 40.0)  # width and level of a capture, HU
_BURNT_IN = "RESEARCH USE ONLY"
_BAR = slice(51, 63), slice(48, 304)  # rows and columns of the colour bar


def check_resolution(name: str) -> str:
    """Return the name of a resolution. InputError: it is not one of ``RESOLUTIONS``."""
    if name not in RESOLUTIONS:
        raise InputError(f"map_resolution={name!r}: give {' or '.join(RESOLUTIONS)}")
    return name


def check_geometry(refs: Sequence[SliceRef], sources: Sources) -> None:
    """Check, before scoring, that maps of the slices can be positioned in space.

    Args:
        refs: slices from `find_slices`.
        sources: headers of the same slices, from `make_sources`.

    Raises:
        InputError: a slice is not 512x512, its position, orientation, spacing or
            FrameOfReferenceUID is invalid, one of the last three differs from its series, or its
            frames share one position.
    """
    first: dict[str, tuple[tuple[Any, ...], SliceRef]] = {}
    for ref in refs:
        header = sources[ref.path]
        shape = header.get("Rows"), header.get("Columns")
        if shape != (SIZE, SIZE):
            raise InputError(
                f"{ref.name}: {shape[0]}x{shape[1]} pixels; a map is written only of "
                f"slices of {SIZE}x{SIZE}, leave out `map`"
            )
        _, orientation, spacing = _geometry(ref, header)
        frame_of_reference = str(header.get("FrameOfReferenceUID") or "")
        if not frame_of_reference:
            raise InputError(
                f"{ref.name}: no FrameOfReferenceUID that is valid, so a map has no place; leave "
                "out `map`"
            )
        here = (tuple(np.round(orientation, 4)), tuple(np.round(spacing, 4)), frame_of_reference)
        other, path = first.setdefault(ref.series, (here, ref))
        if other != here:
            raise InputError(
                f"{ref.name}: its orientation, spacing or frame of reference is not that of "
                f"{path.name}, of the same series; leave out `map`, or give them separately"
            )


def write_maps(
    report: SeriesReport,
    sources: Sources,
    session: Mapping[str, Any],
    folder: Path,
    resolution: str = "patch",
) -> list[ObjectFile]:
    """Write a Parametric Map of each series into a new folder: ``map-1.dcm``, ``map-2.dcm``, ....

    A series with several slices at one position, such as cardiac phases, gets one map for each
    phase: ``map-1-1.dcm``, ``map-1-2.dcm``, ....

    The other arguments, return value and errors are those of
    `clinreadnet.dicom.structured_report.write_reports`. Call `check_geometry` first. A frame has
    16x16 pixels (1 KiB) with the ``resolution`` "patch" and 512x512 (1 MiB) with "slice", which
    stores scores / 4.
    """
    return write_objects(_maps(report, sources, session, RESOLUTIONS[resolution]), folder)


def write_captures(
    report: SeriesReport, sources: Sources, session: Mapping[str, Any], folder: Path
) -> list[ObjectFile]:
    """Write each slice with its map as an overlay: Secondary Captures ``capture-1-0001.dcm``, ....

    The window is 400/40. "RESEARCH USE ONLY" and the score are burnt into the image. The pixels are
    read again.

    Arguments, return value and errors are those of
    `clinreadnet.dicom.structured_report.write_reports`. Also raises InputError if a slice can no
    longer be read.
    """
    return write_objects(_captures(report, sources, session), folder)


def draw_overlay(
    hu: NDArray[np.float32], quality_map: NDArray[np.float32], caption: str
) -> NDArray[np.uint8]:
    """Draw a slice with its colour map over the body, two lines of text and the colour bar.

    Args:
        hu: [512, 512], Hounsfield units.
        quality_map: [16, 16], scores 0...4.
        caption: second line, below "RESEARCH USE ONLY".

    Returns:
        uint8 [512, 512, 3], RGB.
    """
    pixels = draw_map(hu, quality_map, _WINDOW)
    pixels[_BAR] = draw_bar(*(part.stop - part.start for part in _BAR))
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for text, place, size in (
        (_BURNT_IN, (8, 6), 18),
        (caption, (8, 28), 18),
        (f"0 {LIKERT[0]}", (8, 49), 12),
        (f"{GRADE_RANGE:.0f} {LIKERT[-1]}", (310, 49), 12),
    ):
        font = ImageFont.load_default(size)
        draw.text(place, text, "white", font, stroke_width=2, stroke_fill="black")
    return np.asarray(image)


def _maps(
    report: SeriesReport, sources: Sources, session: Mapping[str, Any], side: int
) -> Iterator[tuple[str, ParametricMap]]:
    for number, indices in enumerate(report.members.values(), start=1):
        phases = _phases([report.refs[i] for i in indices], sources)
        series = device.new_uid()
        for phase in range(1, max(phases) + 1):
            own = [i for i, other in zip(indices, phases, strict=True) if other == phase]
            name = f"map-{number}" if max(phases) == 1 else f"map-{number}-{phase}"
            made = _make_map(report, own, sources, session, (number, phase), series, side)
            yield f"{name}.dcm", made


def _captures(
    report: SeriesReport, sources: Sources, session: Mapping[str, Any]
) -> Iterator[tuple[str, SCImage]]:
    for number, indices in enumerate(report.members.values(), start=1):
        series = device.new_uid()
        for place, index in enumerate(indices, start=1):
            made = _make_capture(report, index, sources, number, place, series)
            _describe(made, sources[report.refs[index].path], session)
            yield f"capture-{number}-{place:04d}.dcm", made


def _phases(refs: Sequence[SliceRef], sources: Sources) -> list[int]:
    """Return the phase of each slice from 1; slices of a phase have different positions.

    A header value is used if one distinguishes the phases. Otherwise the k-th slice at a position
    belongs to phase k.
    """
    places = [tuple(np.round(_geometry(ref, sources[ref.path])[0], 2)) for ref in refs]
    seen: Counter[tuple[float, ...]] = Counter()
    in_order = []
    for place in places:
        seen[place] += 1
        in_order.append(seen[place])
    count = max(in_order)
    for values in zip(*(sources[ref.path].phase for ref in refs), strict=True):
        named = sorted(set(values), key=lambda value: (len(value), value))
        alone = len(set(zip(places, values, strict=True))) == len(refs)
        if len(named) == count and alone:
            return [named.index(value) + 1 for value in values]
    return in_order


def _make_map(
    report: SeriesReport,
    indices: Sequence[int],
    sources: Sources,
    session: Mapping[str, Any],
    number: tuple[int, int],
    series: str,
    side: int,
) -> ParametricMap:
    refs = [report.refs[i] for i in indices]
    places = [_geometry(ref, sources[ref.path]) for ref in refs]
    _, orientation, spacing = places[0]
    centre = (side - 1) / 2  # of the first pixel of the map, in pixels of the slice
    positions = [
        place + centre * (axes[:3] * between[1] + axes[3:] * between[0])
        for place, axes, between in places
    ]
    normal = np.cross(orientation[:3], orientation[3:])
    along = np.sort(np.unique(np.round([p @ normal for p in positions], 4)))
    step = float(np.diff(along).min()) if len(along) > 1 else 0.0
    thickness = refs[0].acquisition.thickness_mm or step or 1.0
    header = sources[refs[0].path]
    frames: dict[str, tuple[Source, int]] = {}
    unit = 1.0 if side == TILE else GRADE_RANGE  # score of a stored 1
    pixels = (report.outputs.quality_map[list(indices)] / unit).astype(np.float32)
    made = ParametricMap(
        source_images=[
            _as_one_slice(ref, sources[ref.path], place[0], places[0], thickness, frames)
            for ref, place in zip(refs, places, strict=True)
        ],
        pixel_array=pixels.repeat(TILE // side, axis=1).repeat(TILE // side, axis=2),
        series_instance_uid=series,
        series_number=device.SERIES_NUMBERS["map"] + 10 * (number[0] - 1),
        sop_instance_uid=device.new_uid(),
        instance_number=number[1],
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
                value_range=(0.0, GRADE_RANGE / unit),
                slope=unit,
                intercept=0,
                quantity_definition=QUALITY_MAP,
            )
        ],
        window_center=GRADE_RANGE / unit / 2,
        window_width=GRADE_RANGE / unit,
        content_label="QUALITY_MAP",
        content_description=device.DESCRIPTION,
        pixel_measures=PixelMeasuresSequence(
            pixel_spacing=[float(side * value) for value in spacing],
            slice_thickness=thickness,
            spacing_between_slices=step or None,
        ),
        plane_orientation=PlaneOrientationSequence("PATIENT", [float(v) for v in orientation]),
        plane_positions=[
            PlanePositionSequence("PATIENT", [round(float(v), 6) for v in position])
            for position in positions
        ],
    )
    _refer_to_frames(made, frames)
    _describe(made, header, session)
    identify_scheme(made)
    return made


def _as_one_slice(
    ref: SliceRef,
    source: Source,
    position: _Vector,
    series: tuple[_Vector, _Vector, _Vector],
    thickness: float,
    frames: dict[str, tuple[Source, int]],
) -> pydicom.Dataset:
    """Return a slice as a single-frame object with the orientation and spacing of its series.

    highdicom takes single-frame files or one multi-frame file, and requires identical orientations.

    Args:
        ref: the slice.
        source: header of the slice.
        position: [3], mm.
        series: position, orientation and spacing of the first slice.
        thickness: mm.
        frames: receives a placeholder for the SOPInstanceUID of a frame, with its source and
            number.
    """
    _, orientation, spacing = series
    made = pydicom.Dataset()
    made.SOPClassUID, made.SOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if ref.frame is not None:
        made.SOPInstanceUID = device.new_uid()
        frames[made.SOPInstanceUID] = source, ref.frame + 1
    if str(made.SOPClassUID) != CT_IMAGE:  # the result has one frame
        made.SOPClassUID = CT_IMAGE
        frames.setdefault(made.SOPInstanceUID, (source, 1))
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", *COPIED):
        if name in source:
            made.add(source[name])
    made.SpecificCharacterSet = UTF_8
    made.Rows = made.Columns = SIZE
    made.SliceThickness = DSfloat(thickness, auto_format=True)
    for name, vector in (
        ("ImagePositionPatient", position),
        ("ImageOrientationPatient", orientation),
        ("PixelSpacing", spacing),
    ):
        setattr(made, name, [DSfloat(float(v), auto_format=True) for v in vector])
    return made


def _refer_to_frames(made: pydicom.Dataset, frames: Mapping[str, tuple[Source, int]]) -> None:
    """Replace the placeholders of `_as_one_slice` by references to frames."""
    if not frames:
        return

    def mend(references: Sequence[pydicom.Dataset], numbered: bool) -> list[pydicom.Dataset]:
        kept: dict[str, pydicom.Dataset] = {}
        for reference in references:
            if (uid := reference.ReferencedSOPInstanceUID) in frames:
                source, number = frames[uid]
                reference.ReferencedSOPClassUID = source.SOPClassUID
                reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
                if numbered:
                    reference.ReferencedFrameNumber = number
            kept.setdefault(f"{reference.ReferencedSOPInstanceUID} {numbered and uid}", reference)
        return list(kept.values())

    made.SourceImageSequence = mend(made.SourceImageSequence, False)
    for series in made.ReferencedSeriesSequence:
        series.ReferencedInstanceSequence = mend(series.ReferencedInstanceSequence, False)
    for group in made.PerFrameFunctionalGroupsSequence:
        for derivation in group.get("DerivationImageSequence", ()):
            derivation.SourceImageSequence = mend(derivation.SourceImageSequence, True)


def _make_capture(
    report: SeriesReport, index: int, sources: Sources, number: int, place: int, series: str
) -> SCImage:
    score, ref = report.slices[index], report.refs[index]
    novel = ", unlike the training data" if score.in_domain is False else ""
    caption = f"score {score.score:.2f} of 4 ({score.grade}){novel}"
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
    if (frame := frame_number(ref, sources[ref.path])) is not None:
        reference.ReferencedFrameNumber = frame
    made.SourceImageSequence = [reference]
    made.BurnedInAnnotation = "NO"  # the attribute is about text that identifies the patient
    return made


def _describe(made: pydicom.Dataset, source: pydicom.Dataset, session: Mapping[str, Any]) -> None:
    if source.get("BodyPartExamined"):
        made.BodyPartExamined = source.BodyPartExamined
    if source.get("BodyPartExamined") not in UNPAIRED:
        made.Laterality = None  # required, may be empty
    device.describe(made)
    made.DerivationDescription = f"Research use only; {'; '.join(device.parameters(session))}"[
        :1024
    ]


def _geometry(ref: SliceRef, header: pydicom.Dataset) -> tuple[_Vector, _Vector, _Vector]:
    """Return position [3], orientation [6] and spacing [2] of a slice, mm."""
    own, shared = (
        (header.get(name) or [pydicom.Dataset()])
        for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
    )
    groups = [own[min(ref.frame or 0, len(own) - 1)], shared[0]]

    def value(sequence: str, name: str, count: int) -> tuple[_Vector, bool]:
        try:
            for group in groups:
                for item in group.get(sequence) or []:
                    if name in item:
                        return _vector(item[name].value, count), group is groups[0]
            return _vector(header.get(name), count), ref.frame is None
        except Exception:  # pydicom raises many types on damaged values
            raise InputError(
                f"{ref.name}: no {name} that is valid, so a map has no place; leave out `map`"
            ) from None

    position, own_position = value("PlanePositionSequence", "ImagePositionPatient", 3)
    orientation, _ = value("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing, _ = value("PixelMeasuresSequence", "PixelSpacing", 2)
    if not own_position:
        raise InputError(
            f"{ref.name}: its frames share one position, so a map has no place; leave out `map`"
        )
    axes = orientation.reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=_LEAST_ORTHONORMAL):
        raise InputError(
            f"{ref.name}: its ImageOrientationPatient is not two directions at a right angle, so a "
            "map has no place; leave out `map`"
        )
    if not (spacing > 0).all() or np.abs(position).max() > _FARTHEST:
        raise InputError(
            f"{ref.name}: its PixelSpacing or ImagePositionPatient cannot be that of a patient, so "
            "a map has no place; leave out `map`"
        )
    return position, orientation, spacing


def _vector(values: Any, count: int) -> _Vector:
    vector = np.array([float(v) for v in values])
    if vector.shape != (count,) or not np.isfinite(vector).all():
        raise ValueError
    return vector
