"""Places in a slice that measurements refer to, in pixel coordinates of the slice.

The origin of the coordinates is the top left corner of the top left pixel (DICOM PS3.3, C.18.6).
OHIF shows a report only if each measurement group refers to coordinates, and draws the text of a
group beside the first of them. Measurements of a whole slice therefore refer to a point at its
border, where the text hides little of the body.
"""

from __future__ import annotations

import numpy as np
from highdicom.sr import CoordinatesForMeasurement, GraphicTypeValues, SourceImageForRegion
from numpy.typing import NDArray

from clinreadnet.data.slices import SliceRef
from clinreadnet.dicom.sources import Source, frame_number
from clinreadnet.spec import SIZE, TILE

SLICE = (1 / 32, 1 / 32)
"""Point for measurements of a slice: shares of its columns and rows."""
SERIES = (1 / 32, 3 / 4)
"""Point for measurements of a series, in one of its slices."""

_CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * TILE


def point(ref: SliceRef, source: Source, place: tuple[float, float]) -> CoordinatesForMeasurement:
    """Return a point of a slice.

    Args:
        ref: the slice.
        source: header of the slice.
        place: ``SLICE`` or ``SERIES``.
    """
    points = np.array([[int(source.Columns), int(source.Rows)]]) * place
    return _coordinates(ref, source, GraphicTypeValues.POINT, points)


def worst_patch(
    ref: SliceRef, source: Source, quality_map: NDArray[np.float32], body: NDArray[np.bool_]
) -> tuple[float, CoordinatesForMeasurement] | None:
    """Return the lowest score of the body's patches, with its border.

    Args:
        ref: the slice.
        source: header of the slice.
        quality_map: [16, 16], scores 0...4.
        body: [16, 16], patches that count, see `Cells.patches`.

    Returns:
        None if no patch counts.
    """
    scores = np.where(body, quality_map, np.inf)
    row, column = np.unravel_index(int(scores.argmin()), scores.shape)
    lowest = float(scores[row, column])
    if not np.isfinite(lowest):
        return None
    # Undo `resize`, which pads the shorter side at both ends and scales.
    lengths = np.array([int(source.Columns), int(source.Rows)])
    longer = int(lengths.max())
    corners = (_CORNERS + [column * TILE, row * TILE]) * (longer / SIZE) - (longer - lengths) // 2
    border = np.clip(corners, 0, lengths)
    return lowest, _coordinates(ref, source, GraphicTypeValues.POLYLINE, border)


def _coordinates(
    ref: SliceRef, source: Source, kind: GraphicTypeValues, points: NDArray[np.float64]
) -> CoordinatesForMeasurement:
    frame = frame_number(ref, source)
    image = SourceImageForRegion(
        referenced_sop_class_uid=source.SOPClassUID,
        referenced_sop_instance_uid=source.SOPInstanceUID,
        referenced_frame_numbers=None if frame is None else [frame],
    )
    return CoordinatesForMeasurement(kind, points, image)
