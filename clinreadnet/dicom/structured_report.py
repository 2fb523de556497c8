"""Write scores as DICOM structured reports (Comprehensive 3D SR, template TID 1500).

There is one report for each series. Each slice is a measurement group with its score, the
probability of each grade, its novelty, a reference to the image, the worst patch of the body with
its place, and dose and protocol as acquisition context. The last group summarises the series.
Private concepts are in `clinreadnet.dicom.codes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    CoordinatesForMeasurement,
    DeviceObserverIdentifyingAttributes,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from clinreadnet._version import __version__
from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.region import find_cells
from clinreadnet.dicom import codes as private
from clinreadnet.dicom import device, regions
from clinreadnet.dicom.object_files import ObjectFile, write_objects
from clinreadnet.dicom.sources import Sources, frame_number
from clinreadnet.errors import counted
from clinreadnet.grades import likert_probabilities
from clinreadnet.physics import SliceFigures
from clinreadnet.physics.dose import HEAD_CONVERSION
from clinreadnet.physics.table import figure_lines
from clinreadnet.scoring.breaches import Breach, LimitReport
from clinreadnet.scoring.domain import domain_lines
from clinreadnet.scoring.result import SeriesReport, SeriesSummary, SliceScore
from clinreadnet.scoring.site_map import site_lines
from clinreadnet.spec import RESEARCH_USE

_MGY = Code("mGy", "UCUM", "mGy")
_MAS = Code("mA.s", "UCUM", "mA.s")
_MA = Code("mA", "UCUM", "mA")
_KV = Code("kV", "UCUM", "kV")
_MM = Code("mm", "UCUM", "mm")
_NUMBERS = (
    ("ctdi_vol_mgy", Code("113830", "DCM", "Mean CTDIvol"), _MGY),
    ("exposure_mas", Code("113736", "DCM", "Exposure"), _MAS),
    ("tube_current_ma", Code("113734", "DCM", "X-Ray Tube Current"), _MA),
    ("kvp", Code("113733", "DCM", "KVP"), _KV),
    ("thickness_mm", Code("112225", "DCM", "Slice Thickness"), _MM),
)
_TEXTS = (
    ("exposure_source", private.EXPOSURE_SOURCE),
    ("kernel", private.KERNEL),
    ("scanner", Code("113879", "DCM", "Device Model Name")),
    ("protocol", Code("125203", "DCM", "Acquisition Protocol")),
)


_HU = codes.UCUM.HounsfieldUnit
# Field of `SliceFigures`, concept, unit and method.
_FIGURES = (
    ("noise_hu", private.NOISE, _HU, None),
    (
        "water_diameter_cm",
        Code("113980", "DCM", "Water Equivalent Diameter"),
        codes.UCUM.Centimeter,
        Code("113987", "DCM", "AAPM 220"),
    ),
    (
        "ssde_mgy",
        Code("113930", "DCM", "Size Specific Dose Estimate"),
        _MGY,
        Code("113988", "DCM", "Estimated from Water Equivalent Diameter"),
    ),
    ("cut", private.CUT, private.UNITS[private.CUT], None),
    ("air_hu", private.AIR, _HU, None),
    ("fat_hu", private.FAT, _HU, None),
    ("streak_hu", private.STREAKS, _HU, None),
    ("views", private.VIEWS, private.UNITS[private.VIEWS], None),
    ("view_share", private.VIEW_SHARE, private.UNITS[private.VIEW_SHARE], None),
)


def write_reports(
    report: SeriesReport, sources: Sources, session: Mapping[str, Any], folder: Path
) -> list[ObjectFile]:
    """Write a report of each series into a new folder: ``sr-1.dcm``, ``sr-2.dcm``, ....

    Args:
        report: result of `score_slices`.
        sources: headers of the same slices, from `make_sources`.
        session: result of `Session.describe`.
        folder: folder to create.

    Returns:
        The files, in the order of the series.

    Raises:
        InputError: ``folder`` exists or cannot be created, or a slice can no longer be read.
    """
    summaries = report.by_series
    made = (
        (f"sr-{n}.dcm", _make_report(report, own, summaries[series], sources, session, n))
        for n, (series, own) in enumerate(report.members.items(), start=1)
    )
    return write_objects(made, folder)


def _make_report(
    report: SeriesReport,
    indices: Sequence[int],
    summary: SeriesSummary,
    sources: Sources,
    session: Mapping[str, Any],
    number: int,
) -> Comprehensive3DSR:
    algorithm = AlgorithmIdentification(
        name="ClinReadNet",
        version=__version__,
        family=Code("123110", "DCM", "Artificial Intelligence"),
        manufacturer=device.MANUFACTURER,
        parameters=device.parameters(session),
    )
    groups = [_slice_group(report, index, sources, algorithm) for index in indices]
    limits = None
    if report.limits is not None:
        limits = report.limits.only(report.slices[indices[0]].series)
    groups.append(_summary_group(report, indices, summary, limits, sources, algorithm))
    observer = ObserverContext(
        observer_type=Code("121007", "DCM", "Device"),
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=device.device_uid(),
            name="ClinReadNet",
            manufacturer_name=device.MANUFACTURER,
            model_name=device.MODEL,
            serial_number=__version__,
        ),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=Code("77477000", "SCT", "Computed tomography"),
        imaging_measurements=groups,
        title=Code("126000", "DCM", "Imaging Measurement Report"),
    )
    lines = [
        RESEARCH_USE,
        *domain_lines([report.slices[i] for i in indices]),
        *figure_lines((report.slices[i].figures, report.slices[i].remark) for i in indices),
        *([] if report.unjudged is None else [report.unjudged]),
        *site_lines([report.slices[i] for i in indices], report.site_map),
        *([] if limits is None else limits.sentences),
        *_skipped(report, report.refs[indices[0]].series),
    ]
    content[0].ContentSequence.append(_comment(" ".join(lines)))
    evidence = list({report.refs[i].path: sources[report.refs[i].path] for i in indices}.values())
    made = Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        series_instance_uid=device.new_uid(),
        series_number=device.SERIES_NUMBERS["report"] + 10 * (number - 1),
        sop_instance_uid=device.new_uid(),
        instance_number=1,
        manufacturer=device.MANUFACTURER,
        is_complete=True,
    )
    device.describe(made)
    private.identify_scheme(made)
    return made


def _comment(text: str) -> TextContentItem:
    return TextContentItem(
        name=Code("121106", "DCM", "Comment"),
        value=text,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _skipped(report: SeriesReport, series: str) -> list[str]:
    """Return a sentence on the slices of a series that have no score; none without any."""
    count = sum(ref.series == series for ref in report.skipped)
    if not count:
        return []
    return [f"Left out at the ends of the series: {counted(count, 'slice')} without a body."]


def _caution(score: SliceScore) -> str:
    """Return a comment on a slice, which viewers show beside its numbers."""
    return f"{private.NOVEL.meaning}. {RESEARCH_USE}" if score.in_domain is False else RESEARCH_USE


def _slice_group(
    report: SeriesReport, index: int, sources: Sources, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    score, ref = report.slices[index], report.refs[index]
    source = sources[ref.path]
    grades = likert_probabilities(report.outputs.probs[index])
    place = regions.point(ref, source, regions.SLICE)
    measurements = [_number(private.SCORE, score.score, [place])]
    if score.site_score is not None:
        measurements.append(_number(private.SITE_SCORE, score.site_score))
    shown = report.outputs.regions
    body = None if shown is None else shown[index].patches
    if body is None:  # no figures were measured
        body = find_cells(ref.load()).patches
    worst = regions.worst_patch(ref, source, report.outputs.quality_map[index], body)
    if worst is not None:
        measurements.append(_number(private.PATCH, worst[0], [worst[1]]))
    if score.novelty is not None:
        measurements.append(_number(private.NOVELTY, score.novelty))
    measurements += [_number(*pair) for pair in zip(private.GRADES, grades, strict=True)]
    frame = frame_number(ref, source)
    name = f"slice {index + 1}"
    if frame is None and ref.frame is not None:
        name += f", frame {ref.frame + 1}"
    judged = []
    if score.in_domain is not None:
        answer = private.IN_DOMAIN if score.in_domain else private.NOVEL
        judged.append(QualitativeEvaluation(private.DOMAIN, answer))
    if score.region:
        judged.append(QualitativeEvaluation(private.REGION, private.REGIONS[score.region]))
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=device.new_uid(), identifier=name),
        algorithm_id=algorithm,
        measurements=[*measurements, *_figures(score.figures)],
        qualitative_evaluations=judged or None,
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=source.SOPClassUID,
                referenced_sop_instance_uid=source.SOPInstanceUID,
                referenced_frame_numbers=None if frame is None else [frame],
            )
        ],
    )
    group[0].ContentSequence.extend([*_acquisition(ref.acquisition), _comment(_caution(score))])
    if score.remark:
        group[0].ContentSequence.append(_comment(score.remark))
    return group


def _figures(figures: SliceFigures | None) -> list[Measurement]:
    """Return the figures that a slice has as measurements."""
    made = []
    for field, name, unit, method in _FIGURES:
        value = getattr(figures, field, None)
        if figures is None or value is None:
            continue
        if field == "ssde_mgy" and figures.ssde_conversion == HEAD_CONVERSION.name:
            method = private.HEAD_DOSE
        made.append(Measurement(name, _short(value), unit, method=method))
    return made


def _summary_group(
    report: SeriesReport,
    indices: Sequence[int],
    summary: SeriesSummary,
    limits: LimitReport | None,
    sources: Sources,
    algorithm: AlgorithmIdentification,
) -> MeasurementsAndQualitativeEvaluations:
    novel = [i for i in indices if report.slices[i].in_domain is False]
    ranked = sorted(set(indices) - set(novel), key=lambda i: report.slices[i].score)
    measurements = [_number(private.SLICES, summary.n)]
    if summary.novel is not None:
        places = _points(report, novel, sources)
        measurements.append(_number(private.NOVEL_SLICES, summary.novel, places))
    for name, value, derivation, where in (
        (private.SCORE, summary.mean, codes.SCT.Mean, []),
        (private.SCORE, summary.min, codes.SCT.Minimum, ranked[:1]),
        (private.SCORE, summary.max, codes.SCT.Maximum, ranked[-1:]),
        (private.SITE_SCORE, summary.site_mean, codes.SCT.Mean, []),
    ):
        if value is not None:  # None: every slice is marked as novel, or there is no site map
            places = _points(report, where, sources)
            measurements.append(_number(name, value, places, derivation))
    judged = []
    if limits is not None:
        answer = private.UNCHECKED if limits.unchecked else private.KEPT
        if limits.breaches:
            answer = private.EXCEEDED
        judged.append(QualitativeEvaluation(private.LIMITS, answer))
        for breach in limits.breaches:
            beyond = {(place.path, place.frame) for place in breach.slices}
            own = [i for i in indices if (report.slices[i].path, report.slices[i].frame) in beyond]
            measurements += _breach(breach, _points(report, own, sources))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=device.new_uid(), identifier="series summary"),
        finding_type=Code("113015", "DCM", "Series"),
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=judged or None,
    )


def _points(
    report: SeriesReport, indices: Sequence[int], sources: Sources
) -> list[CoordinatesForMeasurement]:
    """Return the points in some slices that a measurement of the series refers to."""
    refs = [report.refs[i] for i in indices]
    return [regions.point(ref, sources[ref.path], regions.SERIES) for ref in refs]


def _number(
    name: Code,
    value: float,
    places: Sequence[CoordinatesForMeasurement] = (),
    derivation: Code | None = None,
) -> Measurement:
    """Return a measurement that is inferred from places in slices."""
    return Measurement(
        name,
        value if isinstance(value, int) else _short(value),
        private.UNITS[name],
        derivation=derivation,
        referenced_coordinates=places or None,
    )


def _breach(breach: Breach, places: Sequence[CoordinatesForMeasurement]) -> list[Measurement]:
    """Return the mean of a figure, and the limit that the series exceeds, with its slices.

    The other values of a series that can exceed a limit are in its summary anyway.
    """
    means = [
        Measurement(name, _short(breach.value), unit, derivation=codes.SCT.Mean, method=method)
        for field, name, unit, method in _FIGURES
        if field == breach.limit.figure
    ]
    return [*means, _number(private.LIMIT_VALUES[breach.limit.key], breach.bound, places)]


def _acquisition(acquisition: Acquisition) -> list[highdicom.sr.ContentItem]:
    """Return dose and protocol as content items of the acquisition context."""
    relation = RelationshipTypeValues.HAS_ACQ_CONTEXT
    items: list[Any] = []
    for field, name, unit in _NUMBERS:
        value = getattr(acquisition, field)
        if value is not None:
            items.append(NumContentItem(name, _short(value), unit, relationship_type=relation))
    for field, name in _TEXTS:
        text = getattr(acquisition, field)
        if text is not None:
            items.append(TextContentItem(name, text, relationship_type=relation))
    return items


def _short(value: float) -> float:
    """Return a number that fits a decimal string of 16 characters."""
    return float(f"{value:.6g}")
