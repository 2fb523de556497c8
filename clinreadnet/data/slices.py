"""Find CT slices in files and folders by their headers, and load their pixels one at a time.

Inputs are DICOM (see `clinreadnet.data.dicom`), LDCTIQA ``.tif`` (encoded 0...1), ``.npy`` in HU,
[512, 512] or [n, 512, 512], and MetaImage stacks (see `clinreadnet.data.metaimage`). A file that is
given by name must be a slice. Folders are searched recursively. Files in them that are not CT
slices (localisers, dose reports, text files), pipes, broken links and links to folders are skipped
with a note. A damaged file in a folder is an error, because a missing slice would go unnoticed.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pydicom
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.dicom import (
    DicomFrame,
    NotASlice,
    by,
    file_of,
    read_headers,
    read_hu,
    same_pixels,
)
from clinreadnet.data.header_region import Hint
from clinreadnet.data.metaimage import StackReader, open_metaimage
from clinreadnet.data.npy import ArrayHeader, NotAnArray, hu_dtype, open_array, read_slice
from clinreadnet.data.plausibility import count_pixels, implausible, without_body
from clinreadnet.errors import InputError, counted
from clinreadnet.spec import HU_MIN, SIZE

_TIF = {".tif", ".tiff"}
_METAIMAGE = {".mha", ".mhd"}
_DICOM_SUFFIXES = {".dcm", ".dicom", ".ima"}
_HASH_DIGITS = 8
_SAME_AXIS = 0.999  # least cosine of the angle between the normals of slices of one axis


_Key = tuple[str, str, str]
"""Key of a series: SeriesInstanceUID or folder, hash of the owner, SeriesNumber without UID."""


class NoBody(InputError):
    """The slice is intact but shows no body. It is skipped at the ends of a series in a folder."""


def framed(name: str, frame: int | None) -> str:
    """Return the name of a file, with a frame number in brackets if there is one."""
    return name if frame is None else f"{name}[{frame}]"


@dataclass(frozen=True)
class SliceRef:
    """Reference to a slice; only its header has been read.

    A ``series`` never contains two patients or two studies.

    Attributes:
        path: the file.
        frame: frame number from 0 in a file of several slices, else None.
        position: position along the slice normal in mm; None if the file does not state it or most
            slices of the series have another normal.
        series: SeriesInstanceUID, followed by a hash of patient and study if several share it. The
            folder for ``.tif`` and for DICOM without the UID; the file for ``.npy`` and ``.mha``.
        pixel_mm: width of a pixel in mm; None if the file does not state it.
        acquisition: dose and protocol of a DICOM slice.
        instance_uid: SOPInstanceUID of a DICOM slice; empty without one.
        named: whether it is the only slice of a file that was given by name, not found in a folder.
        hint: body part or quantity that the header of a DICOM slice states.
        header: the data elements of ``keep`` in `find_slices`; None without any.
    """

    path: Path
    frame: int | None
    position: float | None
    series: str
    _read: Callable[[], NDArray[np.int16 | np.float32]]
    _resample: bool = False
    pixel_mm: float | None = None
    acquisition: Acquisition = Acquisition()
    instance_uid: str = ""
    named: bool = False
    hint: Hint = Hint()
    _side: int = SIZE
    header: pydicom.Dataset | None = field(default=None, compare=False, repr=False)

    @property
    def loaded_mm(self) -> float | None:
        """Pixel width in mm of the result of `load`; None if the file does not state it."""
        return None if self.pixel_mm is None else self.pixel_mm * self._side / SIZE

    @property
    def name(self) -> str:
        """The path, with the frame number if the file holds several."""
        return framed(str(self.path), self.frame)

    def load(self) -> NDArray[np.float32]:
        """Read the pixels.

        Returns:
            float32 [512, 512], HU.

        Raises:
            InputError: as `load_compact`.
        """
        return self.load_compact().astype(np.float32, copy=False)

    def load_compact(self) -> NDArray[np.int16 | np.float32]:
        """Read the pixels as int16 if the file holds whole Hounsfield units that fit.

        Returns:
            int16 or float32 [512, 512], HU.

        Raises:
            NoBody: the slice shows only air or materials as light as air.
            InputError: the pixels cannot be read, contain NaN or infinity, have a wrong size, or
                cannot be a CT slice.
        """
        hu = self._read()
        self._check_values(hu)
        if hu.shape != (SIZE, SIZE):
            check_size(self.path, hu.shape, self._resample)
            hu = resize(hu.astype(np.float32, copy=False))
            self._check_values(hu)
        return hu

    def _check_values(self, hu: NDArray[np.int16 | np.float32]) -> None:
        pixels = count_pixels(hu)
        if not pixels.finite:
            raise InputError(f"{self.name}: holds NaN or infinity; repair or leave out the file")
        if reason := implausible(pixels):
            kind = NoBody if without_body(hu) else InputError
            raise kind(f"{self.name}: not a CT slice in HU, {reason}; leave it out")


Source: TypeAlias = str | os.PathLike[str] | pydicom.Dataset
"""What slices come from: a file, a folder, or a DICOM dataset in memory."""


def find_slices(
    paths: Iterable[Source],
    *,
    resample: bool = False,
    keep: Sequence[str] = (),
    note: Callable[[str], None] | None = None,
    refused: Callable[[Path, InputError], None] | None = None,
) -> list[SliceRef]:
    """Find the slices in files and folders. Only headers are read.

    Series are returned in the order of ``paths``, then by SeriesNumber and SeriesInstanceUID.
    Slices of a DICOM series are sorted along their normal. If a slice has no position, all are
    sorted by SliceLocation, otherwise by InstanceNumber. Other files are sorted in the natural
    order of their names. Repeated paths and copies of a DICOM slice count once.

    Args:
        paths: files and folders. A dataset of pydicom counts as a named DICOM file.
        resample: accept sizes other than 512×512; `SliceRef.load` then resizes with `resize`.
        keep: names of DICOM data elements to keep in `SliceRef.header`.
        note: called with one line for each skipped or unusual file.
        refused: called with a damaged file and its error instead of raising. The file is skipped.

    Returns:
        At least one slice. Only headers are held in memory.

    Raises:
        InputError: a file is missing, a folder is empty, a file given by name is not a CT slice, a
            size is not 512×512, or a file states more slices than it contains.
    """
    tell = note or (lambda line: None)
    frames: list[tuple[int, DicomFrame]] = []
    refs: list[tuple[int, SliceRef]] = []
    seen: set[str] = set()
    named: set[Path] = set()
    opened: Sequence[DicomFrame | SliceRef]
    for order, source in enumerate(paths):
        if isinstance(source, pydicom.Dataset):
            path = _name_of(source, order)
            in_memory = read_headers(path, keep, file_of(source, path))
            check_size(path, (in_memory[0].rows, in_memory[0].columns), resample)
            frames += [(order, frame) for frame in in_memory]
            named.add(path)
            continue
        path = Path(source)
        if path.is_dir():
            opened = _search(path, resample, keep, seen, tell, refused)
        elif not os.path.lexists(path):
            raise InputError(f"{path}: no such file or folder")
        elif (real := os.path.realpath(path)) in seen:
            continue
        else:
            seen.add(real)
            try:
                opened = _open(path, resample, keep)
                named.add(path)
            except InputError as reason:
                if refused is None or isinstance(reason, NotASlice):
                    raise
                refused(path, reason)
                continue
        frames += [(order, f) for f in opened if isinstance(f, DicomFrame)]
        refs += [(order, f) for f in opened if isinstance(f, SliceRef)]
    refs += _series(frames, resample, tell)
    refs = [(n, replace(r, named=r.path in named and r.frame is None)) for n, r in refs]
    if not refs:
        if seen:  # `refused` was called with each
            raise InputError("no slices can be read; the lines above say why")
        raise InputError("no slices: name DICOM, .tif, .npy or .mha files, or a folder of them")
    return [ref for _, ref in sorted(refs, key=lambda pair: pair[0])]


def any_readable(paths: Iterable[Source], *, resample: bool = False) -> bool:
    """Return whether a slice is left if the damaged ones are left out. See `find_slices`."""
    try:
        refs = find_slices(paths, resample=resample, refused=lambda path, error: None)
    except InputError:
        return False
    for ref in refs:
        try:
            ref.load_compact()
        except InputError:
            continue
        return True
    return False


def _name_of(ds: pydicom.Dataset, order: int) -> Path:
    """Return what messages call a dataset: its file, or its place among the others."""
    name = getattr(ds, "filename", None)
    return Path(name if isinstance(name, str | os.PathLike) and name else f"dataset {order}")


def resize(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Resize an image to 512×512.

    The shorter side is first padded with air at both ends, so that the proportions do not change.
    Then each axis is filtered with a triangle whose half-width is one output pixel (one input pixel
    when enlarging): bilinear interpolation with antialiasing. Resizing changes the noise and
    therefore the score.

    Args:
        hu: float32 [rows, columns], HU.

    Returns:
        float32 [512, 512], HU.
    """
    side = max(hu.shape)
    square = np.full((side, side), HU_MIN, np.float32)
    top, left = ((side - length) // 2 for length in hu.shape)
    square[top : top + hu.shape[0], left : left + hu.shape[1]] = hu
    weights = _triangle_weights(side)
    return np.asarray(weights @ square @ weights.T, dtype=np.float32)


def _triangle_weights(side: int) -> NDArray[np.float32]:
    """Return the filter [512, side] that resizes one axis; rows sum to 1."""
    scale = side / SIZE
    centres = (np.arange(SIZE) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(side)[None, :] - centres[:, None]) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distance)
    normal: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normal.astype(np.float32)


def _search(
    folder: Path,
    resample: bool,
    keep: Sequence[str],
    seen: set[str],
    tell: Callable[[str], None],
    refused: Callable[[Path, InputError], None] | None,
) -> Sequence[DicomFrame | SliceRef]:
    """Return the slices under ``folder``. Other files are skipped."""
    opened: list[DicomFrame | SliceRef] = []
    left_out: dict[str, list[str]] = {}
    files, odd = _walk(folder)
    for what, path in odd:
        left_out.setdefault(what, []).append(path.name)
    for path in sorted(files, key=_natural):
        if (real := os.path.realpath(path)) in seen:
            continue
        seen.add(real)
        try:
            opened += _open(path, resample, keep)
        except InputError as reason:
            if isinstance(reason, NotASlice) and not (
                reason.what == "not DICOM" and path.suffix.lower() in _DICOM_SUFFIXES
            ):
                left_out.setdefault(reason.what, []).append(path.name)
            elif refused is not None:
                refused(path, reason)
            else:
                raise
    summary = "; ".join(
        f"{what}: {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for what, names in sorted(left_out.items())
    )
    if not files and not odd:
        raise InputError(f"{folder}: an empty folder; give a folder of DICOM, .tif or .npy slices")
    if not opened and summary:
        raise InputError(f"{folder}: no CT slices ({summary}); give a folder of CT slices")
    if summary:
        tell(f"{folder}: skipped files that are not CT slices ({summary})")
    return opened


def _walk(folder: Path) -> tuple[list[Path], list[tuple[str, Path]]]:
    """Return the regular files under ``folder``, and the entries that cannot be opened."""
    files: list[Path] = []
    odd: list[tuple[str, Path]] = []

    def unreadable(error: OSError) -> None:
        odd.append((f"folder that cannot be read ({error.strerror})", Path(error.filename)))

    for root, folders, names in os.walk(folder, onerror=unreadable):
        for name in folders:
            if os.path.islink(path := Path(root, name)):
                odd.append(("link to a folder", path))
        for name in names:
            if name.startswith("."):
                continue
            path = Path(root, name)
            try:
                regular = stat.S_ISREG(os.stat(path).st_mode)
            except OSError:
                odd.append(("broken link", path))
                continue
            if regular:
                files.append(path)
            else:
                odd.append(("pipe, socket or device", path))
    return files, odd


def _open(path: Path, resample: bool, keep: Sequence[str]) -> Sequence[DicomFrame | SliceRef]:
    suffix = path.suffix.lower()
    if suffix in _TIF:
        return [_open_tif(path)]
    if suffix == ".npy":
        return _open_npy(path, resample)
    if suffix in _METAIMAGE:
        return _open_metaimage(path, resample)
    frames = read_headers(path, keep)
    check_size(path, (frames[0].rows, frames[0].columns), resample)
    return frames


def _open_tif(path: Path) -> SliceRef:
    from clinreadnet.data.tif import read_tif, tif_shape

    shape = tif_shape(path)
    if shape != (SIZE, SIZE):
        raise InputError(
            f"{path}: {by(shape)} pixels, but an LDCTIQA slice is {SIZE}x{SIZE}; "
            "resample=True is for DICOM and .npy"
        )
    return SliceRef(path, None, None, str(path.parent), partial(read_tif, path))


def _open_npy(path: Path, resample: bool) -> list[SliceRef]:
    try:
        header = open_array(path)
    except NotAnArray as reason:
        raise InputError(
            f"{path}: not a readable .npy ({reason}); save Hounsfield units as integers or floats"
        ) from None
    if len(header.shape) not in (2, 3) or header.size == 0:
        raise InputError(
            f"{path}: shape {list(header.shape)[:8]}, expected [512, 512] or [n, 512, 512] in HU"
        )
    count = None if len(header.shape) == 2 else header.shape[0]
    check_size(path, header.shape[-2:], resample)
    _check_count(path, count or 1)
    return [
        SliceRef(path, number, None, str(path), partial(_read_npy, path, header, number), resample)
        for number in ([None] if count is None else range(count))
    ]


def _read_npy(
    path: Path, header: ArrayHeader, number: int | None
) -> NDArray[np.int16 | np.float32]:
    with np.errstate(over="ignore"):  # becomes infinity, an error in `SliceRef.load`
        hu: NDArray[Any] = read_slice(path, header, number).astype(hu_dtype(header.dtype), "C")
    if header.dtype.kind == "f" and hu.min() >= 0 and hu.max() <= 1:
        raise InputError(
            f"{path}: every value is in 0...1; a .npy must hold Hounsfield units, which are "
            "1400 * value - 1000 for encoded images"
        )
    return hu


def _open_metaimage(path: Path, resample: bool) -> list[SliceRef]:
    stack = open_metaimage(path)
    count, *shape = stack.shape
    check_size(path, tuple(shape), resample)
    _check_count(path, count)
    reader = StackReader(stack)
    return [
        SliceRef(path, number, None, str(path), partial(reader.read, number), resample)
        for number in range(count)
    ]


def _series(
    frames: list[tuple[int, DicomFrame]], resample: bool, tell: Callable[[str], None]
) -> list[tuple[int, SliceRef]]:
    """Return the frames of all series in order, with the index of each series in ``paths``.

    A series contains one patient and study. Frames without a SeriesInstanceUID are one series if
    they share the folder and the SeriesNumber.
    """
    series: dict[_Key, list[DicomFrame]] = {}
    first: dict[_Key, int] = {}
    sharing: dict[str, set[_Key]] = {}
    for order, frame in frames:
        name = frame.series_uid or str(frame.path.parent)
        number = "" if frame.series_uid else f"{frame.series_number:g}"
        key = (name, frame.owner, number)
        series.setdefault(key, []).append(frame)
        first.setdefault(key, order)
        sharing.setdefault(name, set()).add(key)
    for keys in sharing.values():
        if len({owner for _, owner, _ in keys}) > 1:
            chosen = min(keys, key=lambda k: (first[k], k))
            what = "without a SeriesInstanceUID, its folder" if chosen[2] else "its series"
            tell(
                f"{series[chosen][0].path}: {what} holds several patients or studies; "
                "each gets a mean of its own"
            )
    refs: list[tuple[int, SliceRef]] = []
    place = {key: number for number, key in enumerate(series)}  # owners in the order of their files
    for key in sorted(series, key=lambda k: (first[k], series[k][0].series_number, k[0], place[k])):
        members = _without_copies(series[key], tell)
        _report_doubtful(members, tell)
        members, position = _in_order(members, tell)
        refs += [
            (
                first[key],
                SliceRef(
                    path=f.path,
                    frame=f.index if f.frames > 1 else None,
                    position=position(f),
                    series=_series_name(key, sharing[key[0]]),
                    _read=partial(read_hu, f),
                    _resample=resample,
                    pixel_mm=f.pixel_mm,
                    acquisition=f.acquisition,
                    instance_uid=f.instance_uid,
                    hint=f.hint,
                    _side=max(f.rows, f.columns),
                    header=f.header,
                ),
            )
            for f in members
        ]
    return refs


def _series_name(key: _Key, sharing: set[_Key]) -> str:
    """Return the name of a series, with a suffix if several share the UID or folder."""
    name, owner, number = key
    if len({other for _, other, _ in sharing}) > 1:
        name += f", patient and study {owner[:_HASH_DIGITS]}"
    if len({other for _, _, other in sharing}) > 1:
        name += f", number {number}"
    return name


def _report_doubtful(members: Sequence[DicomFrame], tell: Callable[[str], None]) -> None:
    """Report doubtful header values once for each series."""
    if frame := next((member for member in members if member.unspecified), None):
        tell(f"{frame.path}: rescale type is US, not HU; read as HU")
    if frame := next((member for member in members if member.doubtful_padding is not None), None):
        tell(
            f"{frame.path}: its PixelPaddingValue stands for {frame.doubtful_padding:g} HU, which "
            "tissue has; taken for padding only at the edges of the image"
        )


def _without_copies(members: list[DicomFrame], tell: Callable[[str], None]) -> list[DicomFrame]:
    """Return the frames of a series without copies of the same slices in other files."""
    first: dict[tuple[str, int], DicomFrame] = {}
    kept: list[DicomFrame] = []
    for frame in members:
        other = first.setdefault((frame.instance_uid, frame.index), frame)
        if other is not frame and frame.instance_uid:
            if same_pixels(other, frame):
                tell(f"{frame.path}: a copy of {other.path}; counted once")
                continue
            tell(
                f"{frame.path}: has the SOPInstanceUID of {other.path} and other pixels; both count"
            )
        kept.append(frame)
    return kept


def _in_order(
    members: list[DicomFrame], tell: Callable[[str], None]
) -> tuple[list[DicomFrame], Callable[[DicomFrame], float | None]]:
    """Return the sorted frames of a series, and a function for the position of a frame in mm.

    Slices along the most common axis come first, then those of other axes.
    """
    axes: list[NDArray[np.float64]] = []
    numbers: list[int | None] = []
    for frame in members:
        if frame.normal is None:
            numbers.append(None)
            continue
        along = (i for i, axis in enumerate(axes) if abs(axis @ frame.normal) >= _SAME_AXIS)
        numbers.append(next(along, len(axes)))
        if numbers[-1] == len(axes):
            axes.append(np.asarray(frame.normal))
    most = max(range(len(axes)), key=numbers.count, default=0)
    axis = {id(f): most if n is None else n for f, n in zip(members, numbers, strict=True)}
    others = [frame for frame in members if axis[id(frame)] != most]
    if others:
        tell(
            f"{others[0].path}: {counted(len(others), 'slice', len(members))} of its series: "
            "another orientation than most, so no position"
        )

    def projected(frame: DicomFrame) -> float | None:
        if frame.projected is None or frame.normal is None:
            return None
        turned = float(axes[axis[id(frame)]] @ frame.normal) < 0
        return -frame.projected if turned else frame.projected

    sharing = [f for f in members if axis[id(f)] == most]
    places: list[Callable[[DicomFrame], float | None]] = [projected, lambda f: f.location]
    known = (place for place in places if all(place(f) is not None for f in sharing))
    place = next(known, lambda f: None)

    def key(frame: DicomFrame) -> tuple[Any, ...]:
        number = axis[id(frame)]
        along = (place if number == most else projected)(frame)
        instance = math.inf if frame.instance is None else frame.instance
        return (
            *(number != most, number, 0.0 if along is None else along, instance),
            *(_natural(frame.path), frame.index),
        )

    return sorted(members, key=key), lambda f: place(f) if axis[id(f)] == most else None


def check_size(path: Path, shape: tuple[int, ...], resample: bool) -> None:
    """Check the rows and columns of a slice.

    Raises:
        InputError: the size is not 512x512, or outside the limits of ``resample``.
    """
    if shape != (SIZE, SIZE) and not resample:
        raise InputError(
            f"{path}: {by(shape)} pixels, the network takes {SIZE}x{SIZE}; "
            "give resample=True to resize it"
        )
    if not all(limits.SMALLEST_SIDE <= side <= limits.LARGEST_SIDE for side in shape):
        raise InputError(
            f"{path}: {by(shape)} pixels; rows and columns must be {limits.SMALLEST_SIDE} to "
            f"{limits.LARGEST_SIDE}"
        )


def _check_count(path: Path, count: int) -> None:
    if count > limits.FRAMES:
        raise InputError(f"{path}: {count} slices; at most {limits.FRAMES} are read from a file")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that places slice_2 before slice_10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(int(p), "") if re.fullmatch("[0-9]{1,18}", p) else (-1, p) for p in parts]
