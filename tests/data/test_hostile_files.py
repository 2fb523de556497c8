"""Files with a wrong size, of another kind or damaged are refused at once, in one line."""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless
from support.dicom_files import make_ct, noise, write_ct

from clinreadnet import limits
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError


def npy(header: str) -> bytes:
    words = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(words)) + words


def npy_header(shape: str, kind: str = "<i2") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}")


def metaimage(path: Path) -> None:
    path.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 512 512 2147483648\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )


def small_metaimage_that_inflates(path: Path) -> None:
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 512 512 9000\nElementType = MET_SHORT\n"
        "CompressedData = True\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + zlib.compress(bytes(2**20)))


def many_frames(path: Path) -> None:
    ds = make_ct(np.zeros((1, 1), np.int16), NumberOfFrames=4_000_000)
    ds.PixelData = bytes(2**19)
    ds.save_as(path, enforce_file_format=True)


def frames(number: object, syntax: str | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        ds = make_ct(noise(), NumberOfFrames=number)
        if syntax == RLELossless:
            ds = make_ct(noise())
            ds.compress(RLELossless)
            ds.NumberOfFrames = number
        ds.save_as(path, enforce_file_format=True)

    return write


def deflated(path: Path) -> None:
    ds = make_ct(noise(), syntax=DeflatedExplicitVRLittleEndian)
    ds.PixelData = bytes(limits.INFLATED + 2)
    ds.save_as(path, enforce_file_format=True)


def wide_tif(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((512, 512), np.float32), compression="zlib", rowsperstrip=512)
    content = bytearray(path.read_bytes())
    at = content.find(struct.pack("<H", 256) + b"\x04\x00\x01\x00\x00\x00\x00\x02")
    if at < 0:
        at = content.index(struct.pack("<H", 256) + b"\x03\x00\x01\x00\x00\x00\x00\x02")
    content[at : at + 12] = struct.pack("<HHLL", 256, 4, 1, 2**30)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.mha", metaimage, id="mha-of-2^31-slices"),
        pytest.param("a.mha", small_metaimage_that_inflates, id="mha-that-inflates"),
        pytest.param("a.dcm", many_frames, id="4-million-frames"),
        pytest.param("a.dcm", frames(-1), id="minus-one-frames"),
        pytest.param("a.dcm", frames(10**9), id="10^9-frames"),
        pytest.param("a.dcm", frames(9000, RLELossless), id="9000-rle-frames"),
        pytest.param("a.dcm", deflated, id="deflated"),
        pytest.param("a.tif", wide_tif, id="tif-2^30-wide"),
        pytest.param("a.npy", npy_header("(1" + 30 * "0" + ", 512, 512)"), id="npy-10^30"),
        pytest.param("a.npy", npy_header("(-1, 512, 512)"), id="npy-negative"),
        pytest.param("a.npy", npy_header("(True, 512, 512)"), id="npy-true"),
        pytest.param("a.npy", npy_header("(512, 512", ""), id="npy-unclosed"),
        pytest.param("a.npy", npy("{'descr': (((((((((((((((("), id="npy-tokens"),
        pytest.param("a.npy", npy_header("(512, 512)"), id="npy-cut"),
        pytest.param("a.npy", b"PK\x03\x04" + bytes(100), id="npy-zip"),
    ],
)
def test_a_file_that_promises_too_much_is_refused_at_once(
    tmp_path: Path, name: str, content: bytes | Callable[[Path], None]
) -> None:
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(InputError) as refusal:
        find_slices([path])[0].load()
    assert time.process_time() - start < 1
    message = str(refusal.value)
    assert "a." in message and "\n" not in message and len(message) <= limits.MESSAGE


def headed(path: Path, data_file: str) -> Path:
    path.write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 512 512 1\n"
        f"ElementType = MET_SHORT\nElementDataFile = {data_file}\n"
    )
    return path


def test_a_data_file_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(2 * 512 * 512))
    folder = tmp_path / "stack"
    folder.mkdir()
    for name in ("../secret.raw", str(tmp_path / "secret.raw"), "LIST", "a%03d.raw"):
        path = headed(folder / "a.mhd", name)
        with pytest.raises(InputError, match="not the name of a file beside it"):
            find_slices([path])
    os.symlink(tmp_path / "secret.raw", folder / "link.raw")
    path = headed(folder / "a.mhd", "link.raw")
    with pytest.raises(InputError, match="a link that leaves the folder"):
        find_slices([path])


def test_what_is_no_file_is_named_and_does_not_stop_or_hide_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ct(tmp_path / "a.dcm")
    os.mkfifo(tmp_path / "pipe.dcm")
    os.symlink(tmp_path / "none.dcm", tmp_path / "broken.dcm")
    os.symlink("loop.dcm", tmp_path / "loop.dcm")
    (tmp_path / "closed").mkdir()
    os.symlink(tmp_path, tmp_path / "again")
    scandir = os.scandir

    def guarded(path: object = ".") -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", guarded)
    notes: list[str] = []
    refs = find_slices([tmp_path], note=notes.append)
    assert [ref.path.name for ref in refs] == ["a.dcm"]
    (line,) = notes
    for word in ("pipe.dcm", "broken link", "closed", "Permission denied", "link to a folder"):
        assert word in line


@pytest.mark.parametrize("suffix", [".dcm", ".tif", ".npy", ".mha", ""])
def test_a_named_pipe_is_refused(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(path := tmp_path / f"pipe{suffix}")
    with pytest.raises(InputError, match="a pipe; give a regular file"):
        find_slices([path])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="cut"),
        pytest.param(lambda content: bytes(132) + content[132:], id="no-magic"),
        pytest.param(
            lambda content: content[:340] + b"\xff" * 40 + content[380:], id="overwritten-header"
        ),
    ],
)
def test_a_damaged_slice_of_a_folder_is_an_error(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    write_ct(tmp_path / "a.dcm")
    path = write_ct(tmp_path / "b", PatientName="Doe^Jane")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"/b") as refusal:
        find_slices([tmp_path])[1].load()
    assert "Doe" not in refusal.value.full and "\\x" not in refusal.value.full
    refused: list[Path] = []
    try:
        kept = find_slices([tmp_path], refused=lambda path, error: refused.append(path))
    except InputError:
        raise AssertionError("nothing is left") from None
    assert {ref.path.name for ref in kept} | {path.name for path in refused} == {"a.dcm", "b"}


def test_a_message_is_one_short_line_without_control_characters(tmp_path: Path) -> None:
    path = tmp_path / ("a\x1b[31m\n" + 200 * "b" + ".npy")
    path.write_bytes(b"nothing")
    with pytest.raises(InputError) as refusal:
        find_slices([path])
    message = str(refusal.value)
    assert len(message) <= limits.MESSAGE and message.isprintable()
    assert "a\\x1b[31m\\n" in message and "save Hounsfield units" in message


def test_odd_digits_in_a_name_are_no_numbers(tmp_path: Path) -> None:
    for name in ("a10.npy", "a3²4.npy", "a2.npy", "a٣.npy"):
        np.save(tmp_path / name, noise())
    names = [ref.path.name for ref in find_slices([tmp_path])]
    assert names[:3] == ["a2.npy", "a3²4.npy", "a10.npy"]


def test_a_copy_counts_once_and_is_named(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(path.read_bytes())
    other = pydicom.dcmread(path)
    other.PixelData = (noise(7) + 1024).astype("<i2").tobytes()
    other.save_as(tmp_path / "c.dcm", enforce_file_format=True)
    notes: list[str] = []
    refs = find_slices([tmp_path], note=notes.append)
    assert [ref.path.name for ref in refs] == ["a.dcm", "c.dcm"]
    assert "b.dcm: a copy of" in notes[0] and "c.dcm: has the SOPInstanceUID of" in notes[1]
