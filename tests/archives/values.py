"""Inputs that were read wrongly or refused without reason, for their values or their folder.

Each builder writes to an empty folder and returns the expected result.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    MediaStorageDirectoryStorage,
    RLELossless,
)
from support.dicom_files import CT, make_ct, noise, write, write_enhanced_ct, write_series

from archives.case import Case

PET = "1.2.840.10008.5.1.4.1.1.128"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"


@dataclass(frozen=True)
class Right:
    """Expected result of reading a folder.

    Attributes:
        series: number of slices of each series, in order; empty if the folder is refused.
        hu: values of the first slice in HU; None if they are not compared.
        notes: regular expressions, one for each note.
        positions: positions of the slices in order; empty if they are not compared.
        refused: regular expression for the error.
    """

    series: tuple[int, ...] = ()
    hu: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()
    positions: tuple[float | None, ...] | None = None
    refused: str = ""


def body(seed: int = 0) -> NDArray[np.int16]:
    """Return noisy tissue of 40 HU in air that fills the edges, HU [512, 512]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-256:256, -256:256]
    hu = np.where((x / 200) ** 2 + (y / 150) ** 2 < 1, 40, -1000) + rng.normal(0, 15, x.shape)
    return hu.astype(np.int16)


def outside() -> NDArray[np.bool_]:
    """Return the corners outside the field of a scan, [512, 512]."""
    y, x = np.mgrid[-256:256, -256:256]
    return np.asarray(x**2 + y**2 > 255**2)


# Padding


def stale_padding(folder: Path, *, padding: int, intercept: int, shown: str = "") -> Right:
    """Write shifted values with the old padding value, which is now a value of tissue."""
    hu = np.clip(body(), -1000, 3071)
    ds = make_ct(hu, intercept=intercept)
    ds.add_new("PixelPaddingValue", "SS", padding)
    write(folder / "a.dcm", ds)
    note = rf"PixelPaddingValue stands for {shown or padding + intercept} HU, which tissue has"
    return Right((1,), hu, (note,))


def stale_range(folder: Path) -> Right:
    """Write a range of padding that covers air and all soft tissue."""
    hu = np.clip(body(), -1000, 3071)
    ds = make_ct(hu, intercept=0)
    ds.add_new("PixelPaddingValue", "SS", -1024)
    ds.add_new("PixelPaddingRangeLimit", "SS", 200)
    write(folder / "a.dcm", ds)
    return Right((1,), hu, ("stands for 200 HU",))


def real_padding_of_tissue(folder: Path, *, padding: int, wedge: bool = False) -> Right:
    """Write corners with a padding value that tissue has too. Only the corners become air."""
    hu = np.clip(body(), -1000, 3071)
    corner = np.tri(512, 512, -300, dtype=np.bool_) if wedge else outside()
    right = np.where(corner, -1000, hu)
    ds = make_ct(np.where(corner, padding, hu), intercept=-1024)
    ds.add_new("PixelPaddingValue", "SS", padding + 1024)
    write(folder / "a.dcm", ds)
    return Right((1,), right, (f"stands for {padding} HU",))


# Units


def units(folder: Path, *, kind: str) -> Right:
    write_series(folder, 1, RescaleType=kind)
    return Right(refused=r"rescale type .*not CT slices|no CT slices \(.*rescale type")


def units_beside_hu(folder: Path) -> Right:
    """Write a series of effective atomic numbers beside the images of the same scan."""
    write_series(folder / "images", 2)
    write_series(folder / "maps", 2, RescaleType="Z_EFF", SeriesInstanceUID="1.2.3.4")
    return Right((2,), notes=("skipped.*rescale type Z_EFF.*and 1 more",))


def units_in_frames(folder: Path) -> Right:
    path = write_enhanced_ct(folder / "a.dcm")
    ds = pydicom.dcmread(path)
    shared = ds.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence[0].RescaleType = "MGML"
    ds.save_as(path)
    return Right(refused="rescale type MGML")


# Orientations and owners


def scout_of_another_orientation(folder: Path) -> Right:
    """Write a coronal image into an axial series."""
    write_series(folder, 4)
    coronal = make_ct(
        noise(9),
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
        ImagePositionPatient=[-180, 33, 5],
        InstanceNumber=9,
    )
    write(folder / "z.dcm", coronal)
    return Right(
        (5,),
        notes=("1 of 5 slices of its series: another orientation",),
        positions=(0, 2.5, 5, 7.5, None),
    )


def turned(folder: Path) -> Right:
    """Write rotated slices: half of them are upside down, and their normals point back."""
    for i in range(4):
        ways = [1, 0, 0, 0, 1, 0] if i % 2 else [-1, 0, 0, 0, 1, 0]
        ds = make_ct(noise(i), ImageOrientationPatient=ways, ImagePositionPatient=[0, 0, 5.0 * i])
        write(folder / f"{i}.dcm", ds)
    return Right((4,), positions=(-15, -10, -5, 0))


def owners(folder: Path, **tags: Sequence[Any]) -> Right:
    """Write slices of two owners in turn, under the tags given for each."""
    for i in range(4):
        values = {name: value[i % 2] for name, value in tags.items()}
        place = {"InstanceNumber": i + 1, "ImagePositionPatient": [0, 0, 2.5 * i]}
        write(folder / f"{i}.dcm", make_ct(noise(i), **place | values))
    return Right((2, 2), notes=("several patients or studies",))


def no_series_uid(folder: Path, *, value: str | None) -> Right:
    """Write a series without its UID."""
    write_series(folder, 3, SeriesInstanceUID=value)
    return Right((3,), positions=(0, 2.5, 5))


def no_series_uid_two_numbers(folder: Path) -> Right:
    write_series(folder / "s", 2, SeriesInstanceUID="", SeriesNumber=2)
    for i, path in enumerate(sorted((folder / "s").iterdir())):
        path.rename(folder / "s" / f"two-{i}.dcm")
    write_series(folder / "s", 3, SeriesInstanceUID="", SeriesNumber=3)
    return Right((2, 3))


# Files that are not DICOM, and DICOM that does not look like it


def text(folder: Path, *, name: str, content: bytes) -> Right:
    write_series(folder, 2)
    (folder / name).write_bytes(content)
    return Right((2,), notes=(f"skipped files that are not CT slices .not DICOM: {name}",))


def archive_of(folder: Path, *, kind: str) -> Right:
    write_series(folder, 2)
    paths = sorted(folder.glob("*.dcm"))
    if kind == "tar":
        with tarfile.open(folder / "all.tar", "w") as tar:
            for path in paths:
                tar.add(path, path.name)
    else:
        with zipfile.ZipFile(folder / "all.zip", "w", zipfile.ZIP_STORED) as archive:
            for path in paths:
                archive.write(path, path.name)
    return Right((2,), notes=(f"skipped.*not DICOM: all.{kind}",))


def text_alone(folder: Path) -> Right:
    (folder / "notes").write_text(f"SOPClassUID {CT}\n" * 9)
    return Right(refused=r"no CT slices \(not DICOM: notes\)")


def bare(folder: Path, *, syntax: str, meta: bool, name: str = "a.dcm") -> Right:
    """Write a data set without preamble, with or without its meta information."""
    hu = noise()
    ds = make_ct(hu, syntax=syntax)
    if UID(syntax) == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    write(folder / name, ds)
    content = (folder / name).read_bytes()[132:]
    if not meta:
        length = struct.unpack("<L", content[8:12])[0]
        content = content[12 + length :]
    (folder / name).write_bytes(content)
    return Right((1,), hu)


def without_word(folder: Path) -> Right:
    """Write a preamble of zeros that does not end with DICM. The file is refused."""
    path = write(folder / "a.dcm", make_ct(noise()))
    path.write_bytes(bytes(132) + path.read_bytes()[132:])
    return Right(refused="its preamble does not end with DICM; export the file again")


def bare_compressed(folder: Path) -> Right:
    """Write compressed pixels without meta information, which would name the compression."""
    ds = make_ct(noise())
    ds.compress(RLELossless)
    path = write(folder / "a.dcm", ds)
    content = path.read_bytes()[132:]
    path.write_bytes(content[12 + struct.unpack("<L", content[8:12])[0] :])
    return Right(refused="compressed, and its transfer syntax does not say how; export")


def declared(folder: Path, *, syntax: str, written: str) -> Right:
    """Write elements in another transfer syntax than the declared one."""
    hu = noise()
    path = write(folder / "a.dcm", make_ct(hu, syntax=written))
    ds = pydicom.dcmread(path)
    content = path.read_bytes()
    meta_bytes = content[144 : 144 + ds.file_meta.FileMetaInformationGroupLength]
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(buffer, ds.file_meta)
    path.write_bytes(content[:132] + buffer.getvalue() + content[144 + len(meta_bytes) :])
    return Right((1,), hu)


# Pixels in pieces


def rle_frame(hu: NDArray[Any]) -> bytes:
    """Return one frame, RLE-coded, of signed 16-bit values without rescaling."""
    ds = make_ct(hu, intercept=0)
    ds.compress(RLELossless, generate_instance_uid=False)
    return next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))


def in_pieces(frames: Sequence[bytes], size: int) -> bytes:
    """Return frames as fragments of ``size`` bytes after an empty table of offsets."""
    out = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
    for frame in frames:
        for at in range(0, len(frame), size):
            piece = frame[at : at + size]
            piece += b"\0" * (len(piece) % 2)
            out += struct.pack("<HHL", 0xFFFE, 0xE000, len(piece)) + piece
    return out + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def many_fragments(folder: Path) -> Right:
    """Write a frame in fragments of 1 kB."""
    hu = noise()
    ds = make_ct(hu, intercept=0, syntax=RLELossless)
    ds.PixelData = in_pieces([rle_frame(hu)], 1024)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    write(folder / "a.dcm", ds)
    return Right((1,), hu)


def codestream(image: NDArray[np.int16]) -> bytes:
    """Return a lossless JPEG 2000 codestream of unsigned 16-bit values."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint16)).save(
        buffer, "JPEG2000", irreversible=False, no_jp2=True
    )
    return buffer.getvalue()


def frames_in_pieces(folder: Path) -> Right:
    """Write compressed frames of several fragments each, without a table of offsets."""
    hus = [np.maximum(noise(i), -1024) for i in range(3)]
    ds = make_ct(np.stack(hus), syntax=JPEG2000Lossless, NumberOfFrames=3, PixelRepresentation=0)
    ds.PixelData = in_pieces([codestream(hu + 1024) for hu in hus], 60_000)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    write(folder / "a.dcm", ds)
    return Right((3,), hus[0])


def jpeg_of_12_bits(folder: Path) -> Right:
    """Write JPEG Extended with 12 bits, of which Pillow decodes only 8."""
    ds = make_ct(noise(), syntax=JPEGExtended12Bit, BitsStored=12, HighBit=11)
    ds.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    write(folder / "a.dcm", ds)
    return Right(refused=r"compressed \(JPEG Extended.*`pip install pylibjpeg")


def declared_compressed(folder: Path) -> Right:
    """Write pixels that are not compressed under the transfer syntax JPEG Lossless."""
    hu = noise()
    ds = make_ct(hu)
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    path = folder / "a.dcm"
    pydicom.dcmwrite(path, make_ct(hu), enforce_file_format=True)
    content = path.read_bytes()
    old = pydicom.dcmread(path).file_meta
    new = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(new, ds.file_meta, enforce_standard=True)
    path.write_bytes(
        content[:132] + new.getvalue() + content[144 + old.FileMetaInformationGroupLength :]
    )
    return Right((1,), hu)


def without_syntax(folder: Path, *, written: str) -> Right:
    """Write a preamble, and meta information without a transfer syntax."""
    hu = noise()
    path = write(folder / "a.dcm", make_ct(hu, syntax=written))
    content = path.read_bytes()
    length = pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    media = b"\2\0\2\0UI" + struct.pack("<H", len(CT) + 1) + CT.encode() + b"\0"
    path.write_bytes(content[:132] + media + content[144 + length :])
    return Right((1,), hu)


# Other files of slices


def stack(folder: Path, *, kind: str = "<i2", data: bytes = b"", **header: str) -> Right:
    """Write a MetaImage stack of two slices. With ``data``, its voxels follow in another file."""
    hu = np.stack([np.clip(noise(i), -1024, 3071) for i in range(2)])
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "DimSize": "512 512 2",
        "ElementType": "MET_SHORT",
    }
    lines |= header | {"ElementDataFile": "a.bin" if data else "LOCAL"}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()).encode()
    voxels = hu.astype(kind).tobytes()
    if data:
        (folder / "a.bin").write_bytes(data + voxels)
        (folder / "a.mhd").write_bytes(text)
        return Right((2,), hu[0], ("skipped.*a.bin",))
    (folder / "a.mha").write_bytes(text + voxels)
    return Right((2,), hu[0])


def stack_as_text(folder: Path) -> Right:
    stack(folder, BinaryData="False")
    return Right(refused="written as text; write them in binary")


def packed_tif(folder: Path, *, method: str) -> Right:
    """Write a TIFF in a compression for which tifffile needs another package."""
    from PIL import Image

    image = np.random.default_rng(0).random((512, 512)).astype(np.float32)
    Image.fromarray(image).save(folder / "a.tif", compression=method)
    name = method.removeprefix("tiff_").upper()
    return Right(refused=f"compressed with {name}.*`pip install imagecodecs`")


# Objects that are not scored


def beside(folder: Path, *, make: Callable[[Path], object], what: str) -> Right:
    write_series(folder, 2)
    make(folder / "other")
    return Right((2,), notes=(f"skipped.*{what}",))


def screen(path: Path, **tags: Any) -> None:
    """Write a picture of a screen that claims to be a CT image."""
    image = np.zeros((512, 512), np.int16)
    write(path, make_ct(image, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"], **tags))


def other_class(sop_class: str, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    return make_ct(noise(), syntax=syntax, SOPClassUID=sop_class, Modality="OT")


def long_structures(path: Path) -> None:
    """Write contours in more elements than a CT image may have."""
    ds = other_class(STRUCTURES)
    del ds.PixelData
    ds.Modality = "RTSTRUCT"
    contours = []
    for i in range(6000):
        contour = Dataset()
        contour.ContourNumber, contour.ContourData = i, [1.0, 2.0, 3.0]
        contours.append(contour)
    roi = Dataset()
    roi.ContourSequence = contours
    ds.ROIContourSequence = [roi]
    ds["ROIContourSequence"].is_undefined_length = True
    roi["ContourSequence"].is_undefined_length = True
    write(path, ds)


def directory(path: Path) -> None:
    """Write the DICOMDIR of a disc with many images."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(MediaStorageDirectoryStorage)
    ds.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.FileSetID = "DISC"
    records = []
    for i in range(6000):
        record = Dataset()
        record.DirectoryRecordType, record.InstanceNumber = "IMAGE", i
        records.append(record)
    ds.DirectoryRecordSequence = records
    ds["DirectoryRecordSequence"].is_undefined_length = True
    for record in records:
        record.is_undefined_length_sequence_item = True
    write(path, ds)


def whole_slide(path: Path) -> None:
    """Write more frames than a CT file may have."""
    ds = other_class(MICROSCOPY, JPEG2000Lossless)
    ds.Modality, ds.NumberOfFrames = "SM", 100_000
    ds.PixelData = in_pieces([bytes(4000)], 2)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    write(path, ds)


def private_syntax(path: Path) -> None:
    ds = other_class(PET)
    ds.Modality = "PT"
    write(path, ds)
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0")
    path.write_bytes(content)


def many_pieces(path: Path) -> None:
    """Write an image in more fragments than frames may have."""
    ds = other_class(PET, JPEGLosslessSV1)
    ds.Modality = "PT"
    ds.PixelData = in_pieces([bytes(4000)], 2)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    write(path, ds)


# Copies


def copy_in_another_coding(folder: Path) -> Right:
    ds = make_ct(noise())
    write(folder / "a.dcm", ds)
    ds.compress(RLELossless, generate_instance_uid=False)
    write(folder / "b.dcm", ds)
    return Right((1,), noise(), ("b.dcm: a copy of .*a.dcm; counted once",))


def _words(*words: str) -> bytes:
    return "\n".join(words).encode()


TEXTS = {
    "metadata.csv": _words("Series UID,SOP Class UID", f"1.2.3,{CT}"),
    "metadata.json": json.dumps({"00080016": {"vr": "UI", "Value": [CT]}}).encode(),
    "native.xml": _words('<?xml version="1.0"?>', f'<DicomAttribute tag="00080016">{CT}'),
    "page.html": _words("<html><body>", f"<td>{CT}</td>"),
    "dump.txt": _words("# Dicom-Meta-Information-Header", f"(0002,0002) UI [{CT}] # 26"),
    "README": _words("CT images", f"class {CT}"),
    "table.sqlite": b"SQLite format 3\0" + bytes(200) + CT.encode() + bytes(3000),
    "array.pkl": b"\x80\x04\x95" + struct.pack("<Q", 64) + b"\x8c\x19" + CT.encode(),
    "late.log": b"x" * 4000 + CT.encode(),
}

_SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
}

CASES: tuple[Case, ...] = (
    *(
        Case(
            f"padding-{padding + shift}-at-{shift}",
            partial(stale_padding, padding=padding, intercept=shift),
        )
        for padding, shift in ((0, 0), (1000, 0), (1064, -1024), (40, 0), (1, -101), (2048, -1024))
    ),
    Case("padding-range-over-tissue", stale_range),
    *(
        Case(f"padding-{hu}-in-corners", partial(real_padding_of_tissue, padding=hu))
        for hu in (0, 40, -160)
    ),
    Case("padding-in-a-wedge", partial(real_padding_of_tissue, padding=0, wedge=True)),
    *(
        Case(f"units-{kind}", partial(units, kind=kind))
        for kind in ("MGML", "Z_EFF", "ED", "EDW", "PCT", "OD", "HU_MOD", "mgml", "BQML")
    ),
    Case("units-beside-hu", units_beside_hu),
    Case("units-in-frames", units_in_frames),
    Case("other-orientation", scout_of_another_orientation, "DIAGNijmegen/rse-panimg#126"),
    Case("turned-slices", turned),
    Case(
        "two-patients-one-series",
        partial(owners, PatientID=["P0", "P1"], StudyInstanceUID=["1.2.0", "1.2.1"]),
    ),
    Case("two-studies-one-series", partial(owners, StudyInstanceUID=["1.2.0", "1.2.1"])),
    Case("two-patients-one-study", partial(owners, PatientID=["P0", "P1"])),
    Case("two-names-no-id", partial(owners, PatientID=["", ""], PatientName=["A^B", "C^D"])),
    Case(
        "two-patients-no-series-uid",
        partial(
            owners,
            PatientID=["P0", "P1"],
            StudyInstanceUID=["1.2.0", "1.2.1"],
            SeriesInstanceUID=["", ""],
        ),
    ),
    Case("no-series-uid", partial(no_series_uid, value=None)),
    Case("empty-series-uid", partial(no_series_uid, value="")),
    Case("no-series-uid-two-numbers", no_series_uid_two_numbers),
    *(
        Case(f"text-{name}", partial(text, name=name, content=content))
        for name, content in TEXTS.items()
    ),
    Case("archive-tar", partial(archive_of, kind="tar")),
    Case("archive-zip", partial(archive_of, kind="zip")),
    Case("text-alone", text_alone),
    *(
        Case(
            f"bare-{name}{'-with-meta' if meta else ''}",
            partial(bare, syntax=syntax, meta=meta),
            "pydicom/pydicom#150",
        )
        for name, syntax in _SYNTAXES.items()
        for meta in (True, False)
    ),
    Case(
        "bare-without-suffix", partial(bare, syntax=ImplicitVRLittleEndian, meta=False, name="IM1")
    ),
    Case("bare-compressed", bare_compressed),
    Case("preamble-without-word", without_word),
    Case(
        "declared-implicit",
        partial(declared, syntax=ImplicitVRLittleEndian, written=ExplicitVRLittleEndian),
        "wearemothership/dicom.ts#20",
    ),
    Case(
        "declared-explicit",
        partial(declared, syntax=ExplicitVRLittleEndian, written=ImplicitVRLittleEndian),
    ),
    Case("many-fragments", many_fragments, "dcm4che/dcm4chee-arc-light#752"),
    Case("frames-in-fragments", frames_in_pieces, "fo-dicom/fo-dicom#992"),
    Case("jpeg-of-12-bits", jpeg_of_12_bits),
    Case("long-structures", partial(beside, make=long_structures, what="RT Structure Set")),
    Case(
        "directory",
        partial(beside, make=directory, what="Media Storage Directory"),
        "ayselafsar/dicomviewer#117",
    ),
    Case("whole-slide", partial(beside, make=whole_slide, what="Microscopy")),
    Case("private-syntax", partial(beside, make=private_syntax, what="Positron")),
    Case("many-pieces", partial(beside, make=many_pieces, what="Positron")),
    *(
        Case(
            f"screen-{name}",
            partial(beside, make=partial(screen, **tags), what=what),
            "OHIF/Viewers#1394",
        )
        for name, tags, what in (
            ("of-8-bits", {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "8 bits"),
            ("8-of-16-bits", {"BitsStored": 8, "HighBit": 7}, "8 bits"),
            ("in-colour", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
            ("of-a-palette", {"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        )
    ),
    Case("copy-in-another-coding", copy_in_another_coding),
    Case("declared-compressed", declared_compressed, "fo-dicom/fo-dicom#2008"),
    *(
        Case(f"no-syntax-{name}", partial(without_syntax, written=syntax), "pydicom/pydicom#258")
        for name, syntax in _SYNTAXES.items()
        if name != "big-endian"
    ),
    Case("stack-after-100-bytes", partial(stack, data=bytes(100), HeaderSize="100")),
    Case("stack-at-the-end", partial(stack, data=bytes(77), HeaderSize="-1")),
    Case("stack-of-int64", partial(stack, kind="<i8", ElementType="MET_LONG_LONG")),
    Case("stack-of-long", partial(stack, kind="<i4", ElementType="MET_LONG")),
    Case("stack-with-t", partial(stack, kind=">i2", BinaryDataByteOrderMSB="T")),
    Case("stack-as-text", stack_as_text),
    Case("tif-lzw", partial(packed_tif, method="tiff_lzw")),
    Case("tif-zstd", partial(packed_tif, method="zstd")),
)
