"""Input that exceeds a limit or is slow to read is refused within a second of processor time."""

from __future__ import annotations

import io
import json
import signal
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from support.dicom_files import make_ct, noise
from support.score_files import row, write_parquet
from support.tiny_bundle import write_bundle

from bench import results
from clinreadnet import limits
from clinreadnet.data.ldctiqa import IMAGES_FOLDER, LABELS_FILE, read_ldctiqa
from clinreadnet.data.slices import find_slices
from clinreadnet.data.tif import read_tif
from clinreadnet.data.tiles import TILES_FILE, read_tiles
from clinreadnet.errors import InputError
from clinreadnet.readers.labels import read_labels
from clinreadnet.runtime.bundle.format import parse_manifest
from clinreadnet.runtime.bundle.graph import check_graph
from clinreadnet.runtime.bundle.trust import read_manifest
from clinreadnet.scoring.score_file import read_scores
from clinreadnet.scoring.site_map import read_site_map
from clinreadnet.training.recipe import load_recipe

SECONDS = 1.0
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, ITEMS_END = (
    struct.pack("<HHL", 0xFFFE, element, 0) for element in (0xE000, 0xE00D, 0xE0DD)
)
OPEN_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED)
MOST = limits.DICOM_HEADER // 8 - 1000
"""Elements of eight bytes that fit before the pixels."""


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End a test that reads for too long."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, 60)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


def refused(read: Callable[[], object]) -> None:
    """Check that something is refused, and the processor time that it takes in a warm process.

    The least of three: the garbage of other tests may be collected meanwhile.
    """
    seconds = []
    while not seconds or (min(seconds) >= SECONDS and len(seconds) < 3):
        start = time.thread_time()
        with pytest.raises(InputError):
            read()
        seconds.append(time.thread_time() - start)
    assert min(seconds) < SECONDS


def dicom(path: Path, elements: bytes) -> Callable[[], object]:
    """Write a CT image with more elements before its pixels; return how it is read."""
    buffer = io.BytesIO()
    make_ct(noise(0, (64, 64))).save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    at = content.rindex(struct.pack("<HH", 0x7FE0, 0x10))
    path.write_bytes(content)
    find_slices([path], resample=True)  # what is imported late
    path.write_bytes(content[:at] + elements + content[at:])
    return lambda: find_slices([path], resample=True)


def sequence(group: int, element: int, kind: bytes = b"SQ") -> bytes:
    return struct.pack("<HH2sHL", group, element, kind, 0, UNDEFINED)


ELEMENTS = {
    "tiny elements": struct.pack("<HH2sH", 0x7001, 0x1010, b"LO", 0) * MOST,
    "60,000 private elements": b"".join(
        struct.pack("<HH2sH2s", 0x7001, 0x1000 + i, b"LO", 2, b"ab") for i in range(60_000)
    ),
    "items of a wanted sequence": sequence(0x5200, 0x9230) + ITEM * MOST + ITEMS_END,
    "items of another sequence": sequence(0x7001, 0x1001) + ITEM * MOST + ITEMS_END,
    "items of an unknown element": sequence(0x7001, 0x1001, b"UN") + ITEM * MOST + ITEMS_END,
    "tiny elements of an item": sequence(0x5200, 0x9230)
    + OPEN_ITEM
    + struct.pack("<HH2sH", 0x18, 0x50, b"DS", 0) * MOST
    + ITEM_END
    + ITEMS_END,
    "nested sequences": (sequence(0x5200, 0x9230) + OPEN_ITEM) * (MOST // 3),
    "more than the header may have": struct.pack(
        "<HH2sHL", 0x18, 0x50, b"UT", 0, limits.DICOM_HEADER
    )
    + bytes(limits.DICOM_HEADER),
}


@pytest.mark.parametrize("kind", ELEMENTS)
def test_a_dicom_header(kind: str, tmp_path: Path) -> None:
    refused(dicom(tmp_path / "a.dcm", ELEMENTS[kind]))


def test_a_deflated_file_of_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    ds = make_ct(noise(0, (64, 64)), syntax=DeflatedExplicitVRLittleEndian)
    ds.save_as(path, enforce_file_format=True)
    find_slices([path], resample=True)
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")  # of the meta information after this
    deflate = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    mebibyte = deflate.compress(bytes(limits.MIB)) + deflate.flush(zlib.Z_FULL_FLUSH)
    path.write_bytes(content[: 144 + length] + mebibyte * 2048 + deflate.flush())
    refused(lambda: find_slices([path], resample=True))


@pytest.mark.parametrize("frames", [limits.FRAMES, 4_000_000])
def test_many_frames_of_one_pixel(frames: int, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    ds = make_ct(np.zeros((1, 1), np.int16), NumberOfFrames=frames)
    ds.PixelData = bytes(2 * limits.FRAMES)
    ds.save_as(path, enforce_file_format=True)
    refused(lambda: find_slices([path], resample=True))


def tif(images: list[list[bytes]], tail: bytes = b"") -> bytes:
    at, content = 8, b""
    for number, tags in enumerate(images):
        at += 2 + 12 * len(tags) + 4
        content += struct.pack("<H", len(tags)) + b"".join(tags)
        content += struct.pack("<L", at if number + 1 < len(images) else 0)
    return b"II*\0" + struct.pack("<L", 8) + content + tail


def tag(code: int, kind: int, count: int, value: int) -> bytes:
    return struct.pack("<HHLL", code, kind, count, value)


SIZES = [tag(256, 4, 1, 512), tag(257, 4, 1, 512), tag(258, 4, 1, 32), tag(339, 4, 1, 3)]
TIFFS = {
    "a huge image": lambda: tif([[tag(256, 4, 1, 2**31), tag(257, 4, 1, 2**31), *SIZES[2:]]]),
    "many tags": lambda: tif([[*SIZES, *[tag(60_000, 4, 1, 5)] * 4000]] * 60),
    "one text many times": lambda: tif(
        [[*SIZES, *[tag(270, 2, 15 * 2**20, 8)] * 250]], b"a" * 15 * 2**20
    ),
    "one table many times": lambda: tif(
        [[*SIZES, *[tag(273, 4, 3 * 2**20, 8)] * 250]], bytes(14 * 2**20)
    ),
    "a file above the limit": lambda: bytes(limits.TIF_FILE + 1),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(TIFFS[kind]())
    refused(lambda: read_tif(path))


HEADERS = {
    "slices": "NDims = 3\nDimSize = 64 64 2147483647\nElementType = MET_SHORT\n"
    "ElementDataFile = LOCAL\n",
    "inflated": "NDims = 3\nDimSize = 512 512 9999\nElementType = MET_SHORT\n"
    "CompressedData = True\nElementDataFile = LOCAL\n",
    "header": "a=\n" * limits.METAIMAGE_HEADER,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_metaimage(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(HEADERS[kind].encode() + bytes(1000))
    refused(lambda: find_slices([path]))


def test_an_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x02\0" + struct.pack("<L", 2**31) + bytes(2**20))
    refused(lambda: find_slices([path]))


def test_an_archive_of_many_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / TILES_FILE, "w") as archive:
        for number in range(60_000):
            archive.writestr(str(number), b"")
    refused(lambda: read_tiles(tmp_path, []))


def npy(dtype: str, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x02\0" + struct.pack("<L", len(header)) + header + content


TILE_ARRAYS = {
    f"names has shape .{limits.TILES + 1}": npy(
        "<U8", (limits.TILES + 1,), bytes(32 * limits.TILES + 32)
    ),
    "names holds no plain": npy(f"<U{2**20}", (limits.TILES,), bytes(limits.MIB)),
    str(2**40): npy("<U8", (2**40,), bytes(limits.MIB)),
}


@pytest.mark.parametrize("reason", TILE_ARRAYS, ids=["images", "long-names", "no-end"])
def test_tiles(reason: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / TILES_FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("names.npy", TILE_ARRAYS[reason])
        for name in ("quality", "weight"):
            archive.writestr(f"{name}.npy", npy("<f4", (1, 16, 16), bytes(1024)))
    with pytest.raises(InputError, match=reason):
        read_tiles(tmp_path, [])
    refused(lambda: read_tiles(tmp_path, []))


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    bundle = write_bundle(tmp_path_factory.mktemp("bundle") / "b")
    return (bundle / "manifest.json").read_text()


def many_keys(count: int) -> str:
    """Return a JSON object whose last key is there twice."""
    return "{" + "".join(f'"{number:x}":0,' for number in range(count)) + '"z":1,"z":2}'


def many_artifacts(document: str) -> str:
    manifest = json.loads(document)
    artifact = manifest["artifacts"][0] | {"parity": None}
    count = limits.MANIFEST // len(json.dumps(artifact, separators=(",", ":")))
    many = [artifact | {"file": f"f{number}"} for number in range(count)]
    manifest["artifacts"] = [*many, artifact, artifact]
    return json.dumps(manifest, separators=(",", ":"))


def many_islands(document: str) -> str:
    manifest = json.loads(document)
    manifest["artifacts"][0]["fp32_islands"] = [""] * (limits.MANIFEST // 3) + [0]
    return json.dumps(manifest, separators=(",", ":"))


MANIFESTS: dict[str, Callable[[str], str]] = {
    "nested lists": lambda document: "[" * 100_000 + "]" * 100_000,
    "a key twice": lambda document: many_keys(limits.MANIFEST // 10),
    "many artifacts": many_artifacts,
    "many names": many_islands,
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest(kind: str, document: str) -> None:
    text = MANIFESTS[kind](document)
    parse_manifest(document)
    refused(lambda: parse_manifest(text))


def test_a_manifest_and_a_key_above_the_limit(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(bytes(limits.MANIFEST + 1))
    refused(lambda: read_manifest(tmp_path))
    (tmp_path / "key.pem").write_bytes(bytes(limits.KEYS + 1))
    refused(lambda: read_manifest(tmp_path, [tmp_path / "key.pem"]))


def varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def test_a_graph_of_many_fields() -> None:
    fields = b"\x20\x01" * 2**23
    content = b"\x3a" + varint(len(fields)) + fields
    refused(lambda: check_graph(content, "a.onnx", "fp32"))


@pytest.mark.parametrize("kind", ["a name twice", "nested lists"])
def test_labels(kind: str, tmp_path: Path) -> None:
    (tmp_path / IMAGES_FOLDER).mkdir()
    text = many_keys(300_000) if kind == "a name twice" else "[" * 100_000
    (tmp_path / LABELS_FILE).write_text(text)
    refused(lambda: read_ldctiqa(tmp_path))


@pytest.mark.parametrize("kind", ["commas", "one line"])
def test_a_table_of_scores(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes((b"," if kind == "commas" else b"a") * 2**27)
    refused(lambda: list(read_scores(path)[0]))


def test_scores_of_more_rows_than_there_may_be(tmp_path: Path) -> None:
    """A column of one value takes next to no space, however many rows repeat it."""
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    path, small = tmp_path / "a.parquet", write_parquet(tmp_path / "small.parquet", [row()])
    schema = parquet.read_schema(small)
    batch = pyarrow.table([pyarrow.nulls(2**20, field.type) for field in schema], schema=schema)
    with parquet.ParquetWriter(path, schema) as writer:
        for _ in range(limits.SCORES_ROWS // 2**20 + 1):
            writer.write_table(batch)
    assert path.stat().st_size < limits.MIB
    list(read_scores(small)[0])
    refused(lambda: list(read_scores(path)[0]))


LARGE: dict[str, tuple[int, Callable[[Path], object]]] = {
    "GRADES": (limits.LABELS, read_labels),
    "LABELS": (limits.LABELS, lambda path: read_ldctiqa(path.parent)),
    "RECIPE": (limits.RECIPE, load_recipe),
    "RESULTS": (results.LARGEST, results.read_run),
    "SCORES_FILE": (limits.SCORES_FILE, read_scores),
    "SITE_MAP": (limits.SITE_MAP, read_site_map),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_file_above_its_limit(kind: str, tmp_path: Path) -> None:
    (tmp_path / IMAGES_FOLDER).mkdir()
    limit, read = LARGE[kind]
    path = tmp_path / LABELS_FILE
    with path.open("wb") as file:
        file.truncate(limit + 1)  # takes no space on the disk
    with pytest.raises(InputError, match=str(limit)):
        read(path)
    refused(lambda: read(path))
