"""Seeds, mutations and the reader of each kind of file that is fuzzed.

A case is a kind and some bytes. The same seed and number give the same case, wherever pyarrow is
installed.
"""

from __future__ import annotations

import io
import json
import random
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from rich.console import Console
from support.bodies import body
from support.dicom_files import make_ct, noise, write_enhanced_ct
from support.metaimage_files import write_mha
from support.score_files import row, write_csv, write_parquet
from support.tiny_bundle import make_graph, write_bundle

from clinreadnet.data.ldctiqa import IMAGES_FOLDER, LABELS_FILE, SIMULATION_FILE, read_ldctiqa
from clinreadnet.data.slices import find_slices
from clinreadnet.data.tiles import TILES_FILE, read_tiles, write_tiles
from clinreadnet.errors import ClinReadNetError
from clinreadnet.limits import MESSAGE
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.bundle.format import parse_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.graph import check_graph
from clinreadnet.runtime.bundle.manifest import Golden
from clinreadnet.runtime.bundle.trust import read_manifest
from clinreadnet.scoring.protocol_limits import ProtocolLimits, Section, read_protocol_limits
from clinreadnet.scoring.summary import summarize
from clinreadnet.scoring.summary_table import print_summary

INTERESTING = (0, 1, -1, 2, 7, 127, 128, 255, 256, 512, 32767, 32768, 65535, 2**31 - 1, 2**31)
WORDS = (
    *(b"-1", b"0", b"1e308", b"nan", b"inf", b"True", b"None", b"\x00", b"\xff\xff\xff\xff", b"[]"),
    *(
        b"../../etc/passwd",
        b"/dev/zero",
        b"LIST",
        b"{}",
        b"1" + b"0" * 400,
        b"\n",
        b'"',
        b"'",
        b"(",
    ),
)
SIDE = 64  # smallest that is read
LIMITS = """
[default]
least_score = 1.5
most_noise_hu = 14.0
most_novel_share = 0.1
[protocol."Abd*"]
category = "Abdomen"
least_mean_score = 2
most_ssde_mgy = 18
"""
LABELS = {"0000.tif": 2.8, "0001.tif": 0, "0002.tif": 4.0}
READ, REFUSED = "read", "refused"
"""What `judge` says of a case that ends well."""


def _small() -> np.ndarray:
    return noise(0, (SIDE, SIDE))


def _dicom(ds: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _seeds_dicom() -> list[bytes]:
    packed = make_ct(_small())
    packed.compress(RLELossless)
    frames = make_ct(np.stack([_small()] * 3), NumberOfFrames=3)
    with tempfile.TemporaryDirectory() as folder:
        enhanced = write_enhanced_ct(Path(folder) / "e.dcm", 2)
        ds = pydicom.dcmread(enhanced)
        ds.Rows = ds.Columns = SIDE
        ds.PixelData = np.stack([_small() + 1024] * 2).astype("<i2").tobytes()
        return [
            _dicom(make_ct(_small())),
            _dicom(make_ct(_small(), syntax=ImplicitVRLittleEndian)),
            _dicom(make_ct(_small(), syntax=DeflatedExplicitVRLittleEndian)),
            _dicom(packed),
            _dicom(frames),
            _dicom(ds),
            _bare(_dicom(make_ct(_small()))),
            _bare(_dicom(make_ct(_small(), syntax=ImplicitVRLittleEndian))),
        ]


def _bare(content: bytes) -> bytes:
    """Return a data set without preamble and meta information."""
    return content[144 + struct.unpack("<L", content[140:144])[0] :]


def _seeds_tif() -> list[bytes]:
    image = ((body(40) + 1000) / 1400).clip(0, 1).astype(np.float32)
    seeds = []
    for options in ({}, {"compression": "zlib"}, {"compression": "lzma"}, {"tile": (64, 64)}):
        buffer = io.BytesIO()
        try:
            tifffile.imwrite(buffer, image, **options)
        except Exception:  # a codec that is not installed
            continue
        seeds.append(buffer.getvalue())
    return seeds


def _seeds_npy() -> list[bytes]:
    seeds = []
    stack = np.stack([_small()] * 2)
    for array in (_small(), stack, stack.astype(np.float32), np.asfortranarray(stack)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        seeds.append(buffer.getvalue())
    return seeds


def _seeds_mha() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mha"
        stack = np.stack([_small()] * 2)
        return [
            write_mha(path, stack, compress=compress, msb=msb).read_bytes()
            for compress in (False, True)
            for msb in (False, True)
        ]


@cache
def _bundle() -> tuple[bytes, bytes, bytes, bytes]:
    """Return manifest, golden file, signature and public key of a signed bundle."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(Path(folder) / "b")
        manifest = (bundle / "manifest.json").read_bytes()
        golden = io.BytesIO()
        shapes = {"hu": (2, 512, 512), "label": (2,), "novelty": (2,), "score": (2,)}
        shapes |= {"probs": (2, 21), "quality_map": (2, 16, 16)}
        kinds = {"hu": np.int16, "label": np.float32}
        arrays = {name: np.zeros(shape, kinds.get(name, float)) for name, shape in shapes.items()}
        np.savez_compressed(golden, **arrays)
        key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
        public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        return manifest, golden.getvalue(), key.sign(manifest), public


def _simulation() -> bytes:
    record = {"group": 1, "quality": 1.25, "denoiser": None, "noise_hu": 20.5}
    images = {name: record | {"anatomy": i} for i, name in enumerate(LABELS)}
    return json.dumps({"seed": 1, "images": images}).encode()


def _tiles() -> bytes:
    grid = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    with tempfile.TemporaryDirectory() as folder:
        write_tiles(folder, {name: (4 * grid, grid) for name in LABELS})
        return (Path(folder) / TILES_FILE).read_bytes()


def _scores(write: Callable[..., Path]) -> list[bytes]:
    rows = [
        row(series=f"1.2.{i}", acquired=f"2026-01-{i:02}", score=i / 4, noise_hu=10.0 + i)
        for i in range(1, 9)
    ]
    with tempfile.TemporaryDirectory() as folder:
        return [write(Path(folder) / "scores", rows).read_bytes()]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "dicom": _seeds_dicom,
    "tif": _seeds_tif,
    "npy": _seeds_npy,
    "mha": _seeds_mha,
    "manifest": lambda: [_bundle()[0]],
    "golden": lambda: [_bundle()[1]],
    "signature": lambda: [_bundle()[2]],
    "key": lambda: [_bundle()[3]],
    "graph": lambda: [make_graph(), make_graph(half=True)],
    "labels": lambda: [json.dumps(LABELS).encode()],
    "simulation": lambda: [_simulation()],
    "tiles": lambda: [_tiles()],
    "csv": lambda: _scores(write_csv),
    "limits": lambda: [LIMITS.encode()],
}
"""Valid files of each kind."""
if find_spec("pyarrow") is not None:
    SEEDS["parquet"] = lambda: _scores(write_parquet)

_seeds = cache(lambda kind: SEEDS[kind]())


def case(seed: int, number: int) -> tuple[str, bytes]:
    """Return a case: its kind, and a valid file with a few mutations."""
    draw = random.Random(f"{seed}/{number}")
    kind = draw.choice(list(SEEDS))
    content = draw.choice(_seeds(kind))
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        change = STRUCTURED.get(kind, _bytes) if draw.random() < 0.5 else _bytes
        content = change(content, draw)
    return kind, content


def _bytes(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return draw.choice(WORDS)
    # Most of the structure is at both ends.
    end = len(content) if draw.random() < 0.3 else min(len(content), 2048)
    at = draw.randrange(end)
    kind = draw.randrange(7)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
    if kind == 2:
        form = draw.choice("<h >h <i >i <q".split())
        size = struct.calcsize(form)
        value = draw.choice(INTERESTING) & (2 ** (8 * size) - 1)
        return (
            content[:at]
            + value.to_bytes(size, "little" if "<" in form else "big")
            + (content[at + size :])
        )
    if kind == 3:
        return content[:at] + draw.choice(WORDS) + content[at:]
    if kind == 4:
        return content[:at] + content[at + draw.choice((1, 2, 4, 8, 64, 512)) :]
    if kind == 5:
        other = draw.randrange(len(content))
        return content[:at] + content[other : other + draw.choice((4, 64, 512))] + content[at:]
    word = draw.choice(WORDS)
    return content[:at] + word + content[at + len(word) :]


def _items(ds: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Yield the items of all sequences, at every depth."""
    for element in ds:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)


def _tags(content: bytes, draw: random.Random) -> bytes:
    """Set an element of a DICOM file to a value that it should not have."""
    try:
        ds = pydicom.dcmread(io.BytesIO(content), force=True)
        element = draw.choice([e for e in ds.iterall() if e.tag != 0x7FE00010])
        kind = element.VR
        if draw.random() < 0.2:
            holder = next(part for part in (ds, *_items(ds)) if element in part.values())
            del holder[element.tag]
        elif kind == "US":
            element.value = draw.choice([v for v in INTERESTING if 0 <= v < 65536])
        elif kind in ("IS", "DS"):
            values = ("-1", "0", "1e30", "99999999999", "1e-300", "")
            element._value = draw.choice(values)
        elif kind in ("UI", "CS", "LO"):
            element._value = draw.choice(("", "1.2.840.10008.5.1.4.1.1.4", "X" * 60, "CT\\MR"))
        buffer = io.BytesIO()
        ds.save_as(buffer)
        return buffer.getvalue()
    except Exception:  # not writable any more
        return _bytes(content, draw)


def _values(content: bytes, draw: random.Random) -> bytes:
    """Replace a value of a JSON document, or write a key twice."""
    if draw.random() < 0.05:
        at = content.find(b'"', draw.randrange(len(content) or 1))
        key = content[at : content.find(b",", at) + 1]
        return content[:at] + key + content[at:] if at >= 0 else content
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _bytes(content, draw)
    place: Any = document
    while isinstance(place, dict | list) and place:
        inside = list(place) if isinstance(place, dict) else range(len(place))
        chosen: Any = draw.choice(inside)
        if not isinstance(place[chosen], dict | list) or not place[chosen] or draw.random() < 0.2:
            odd = (None, -1, 0, True, 1e308, 10**400, "", "../x", [], {}, "fp8", 10**9, [[]] * 40)
            place[chosen] = draw.choice(odd)
            break
        place = place[chosen]
    try:
        return json.dumps(document).encode()
    except ValueError:
        return _bytes(content, draw)


def _members(content: bytes, draw: random.Random) -> bytes:
    """Write an archive again with one member changed."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = draw.choice(list(members))
        members[name] = _bytes(members[name][:4096], draw) + members[name][4096:]
        methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", draw.choice(methods)) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return buffer.getvalue()
    except Exception:  # not an archive any more
        return _bytes(content, draw)


def _entries(content: bytes, draw: random.Random) -> bytes:
    """Change the value of a line of a MetaImage header, or of a TOML file."""
    head, separator, data = content.partition(b"ElementDataFile")
    lines = (head + separator).split(b"\n")
    at = draw.randrange(len(lines))
    values = (*WORDS, b"512 512 2147483648", b"64 64 99", b"MET_DOUBLE", b"MET_CHAR", b"True")
    lines[at] = lines[at].partition(b"=")[0] + b"= " + draw.choice(values)
    return b"\n".join(lines) + data


STRUCTURED = {
    "dicom": _tags,
    "golden": _members,
    "labels": _values,
    "limits": _entries,
    "manifest": _values,
    "mha": _entries,
    "simulation": _values,
    "tiles": _members,
}
"""Mutations that know the format; bytes alone are changed in the other half of the cases."""


def kind_of(seed: int, number: int) -> str:
    """Return the kind of a case, without making it."""
    return random.Random(f"{seed}/{number}").choice(list(SEEDS))


SUFFIXES = {"dicom": ".dcm", "tif": ".tif", "npy": ".npy", "mha": ".mha"}


def read(kind: str, content: bytes, folder: Path) -> None:
    """Read a case as the package would.

    Raises:
        ClinReadNetError: it is refused, which is right for most.
    """
    if kind in SUFFIXES:
        path = folder / f"case{SUFFIXES[kind]}"
        path.write_bytes(content)
        refs = find_slices([path], resample=True)
        for ref in {refs[0].name: refs[0], refs[-1].name: refs[-1]}.values():
            ref.load()
    elif kind == "manifest":
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            return
        parse_manifest(text)
    elif kind == "golden":
        (folder / "golden.npz").write_bytes(content)
        listed = Golden("golden.npz", digest(content), len(content), 2)
        read_golden(folder, listed, first=1)
    elif kind in ("signature", "key"):
        manifest, _, signature, public = _bundle()
        (folder / "manifest.json").write_bytes(manifest)
        (folder / "manifest.sig").write_bytes(content if kind == "signature" else signature)
        (folder / "key.pem").write_bytes(content if kind == "key" else public)
        read_manifest(folder, [folder / "key.pem"])
        if content not in _seeds(kind) and kind == "signature":
            raise AssertionError("another signature was accepted")
    elif kind in ("labels", "simulation"):
        _read_labels(kind, content, folder)
    elif kind == "tiles":
        (folder / TILES_FILE).write_bytes(content)
        read_tiles(folder, list(LABELS))
    elif kind == "limits":
        (folder / "limits.toml").write_bytes(content)
        section = read_protocol_limits(folder / "limits.toml").of("Abdomen")
        if not all(0 <= bound < float("inf") for bound in section.bounds.values()):
            raise AssertionError("a limit out of range was accepted")
    elif kind in ("csv", "parquet"):
        _read_scores(content, folder)
    else:
        check_graph(content, "case.onnx", "fp32")


def _read_labels(kind: str, content: bytes, folder: Path) -> None:
    """Read an LDCTIQA folder and everything that is computed from its two JSON files."""
    labelled = folder / "labelled"
    if not labelled.exists():
        (labelled / IMAGES_FOLDER).mkdir(parents=True)
        for name in LABELS:
            (labelled / IMAGES_FOLDER / name).touch()
    for file, seeds in ((LABELS_FILE, "labels"), (SIMULATION_FILE, "simulation")):
        (labelled / file).write_bytes(content if kind == seeds else _seeds(seeds)[0])
    labels = read_ldctiqa(labelled)
    _ = labels.groups, labels.quality, labels.denoised
    if not all(0 <= score <= 4 for score in labels.scores):
        raise AssertionError("a score out of range was accepted")


def _read_scores(content: bytes, folder: Path) -> None:
    """Summarise a file of scores, and write everything that is computed from it."""
    (folder / "scores").write_bytes(content)
    limits = ProtocolLimits("limits.toml", Section("*", {"least_score": 1.5, "most_noise_hu": 14}))
    summary = summarize([folder / "scores"], limits=limits)
    json.dumps(summary.to_dict(), allow_nan=False)
    print_summary(summary, Console(file=io.StringIO()))
    for group in summary.groups:
        if group.quality is not None and not 0 <= group.quality.mean <= 4:
            raise AssertionError("a score out of range was accepted")


def judge(kind: str, content: bytes, folder: Path) -> str:
    """Return `READ` or `REFUSED`; else what is wrong with the reading of a case."""
    try:
        read(kind, content, folder)
    except ClinReadNetError as error:
        message = str(error)
        if len(message) > MESSAGE or not message.isprintable():
            return f"a message of {len(message)} characters, or not one printable line"
        return REFUSED
    except BaseException as error:  # MemoryError too: a limit came too late
        return f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
    return READ
