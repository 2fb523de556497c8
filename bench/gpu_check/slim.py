"""Make a wheel for one GPU smaller, to carry it in parts: `python -m bench.gpu_check.slim`.

    python -m bench.gpu_check.slim onnxruntime_gpu-*.whl --target sm90   # here
    python -m bench.gpu_check.slim --join                                # there, with every part

The CUDA code of other architectures (images in `.nv_fatbin`) is overwritten with zeros, and the
wheel is compressed with LZMA, which pip can read. Sizes and addresses stay as they are.
"""

from __future__ import annotations

import argparse
import io
import lzma
import re
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.gpu_check.plan import ROOT

PARTS = ROOT / ".gpu-check" / "parts"
"""Folder of the parts. A machine that keeps ignored files between calls collects them there."""
PART_BYTES = 30 * 2**20
"""Bytes of a part: it travels beside the checkout and its pack."""
_FATBIN = 0xBA55ED50
_ELF = b"\x7fELF\x02\x01"


class NotSlim(Exception):
    """A wheel or its parts cannot be used. The message gives the reason."""


def images(library: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the architecture, offset and size of each image of CUDA code in an ELF library.

    The architecture is a number such as 90. The format of `.nv_fatbin` is not documented; it is
    containers (magic number, version, header size, size) of images (kind, version, header size,
    size, and the architecture at byte 28).

    Raises:
        NotSlim: `.nv_fatbin` is not made like this.
    """
    section = _section(library, b".nv_fatbin")
    if section is None:
        return
    position, end = section
    while position < end:
        if library[position : position + 8] == bytes(8):  # padding
            position += 8
            continue
        magic, _, header, size = struct.unpack_from("<IHHQ", library, position)
        stop = position + header + size
        if magic != _FATBIN or stop > end or not size:
            raise NotSlim(f".nv_fatbin: no container of images at {position:#x}")
        position += header
        while position < stop:
            header, size = struct.unpack_from("<IQ", library, position + 4)
            if header < 32 or position + header + size > stop:
                raise NotSlim(f".nv_fatbin: no image at {position:#x}")
            (architecture,) = struct.unpack_from("<I", library, position + 28)
            yield architecture, position + header, size
            position += header + size


def _section(library: bytes, name: bytes) -> tuple[int, int] | None:
    """Return start and end of a section of a 64-bit little-endian ELF file."""
    (table,) = struct.unpack_from("<Q", library, 0x28)
    count, names = struct.unpack_from("<HH", library, 0x3C)
    sections = [struct.unpack_from("<IIQQQQ", library, table + 64 * i) for i in range(count)]
    for first, _, _, _, offset, size in sections:
        start = sections[names][4] + first
        if library[start : start + len(name) + 1] == name + b"\0":
            return offset, offset + size
    return None


def slim(library: bytes, architecture: int) -> bytes:
    """Return a library with zeros in place of the images for other architectures.

    Raises:
        NotSlim: there are images, and none is for the architecture.
    """
    made, kept, others = bytearray(library), 0, set()
    for of, offset, size in images(library):
        if of == architecture:
            kept += 1
        else:
            others.add(of)
            made[offset : offset + size] = bytes(size)
    if others and not kept:
        have = ", ".join(f"sm{of}" for of in sorted(others))
        raise NotSlim(f"no code for sm{architecture}, only for {have}")
    return bytes(made)


def write_parts(wheel: Path, architecture: int, folder: Path, size: int = PART_BYTES) -> list[Path]:
    """Write a smaller wheel in parts, each in a folder of its own.

    Raises:
        NotSlim: a library of the wheel is damaged or has no code for the architecture.
        BadZipFile: not a wheel.
    """
    whole = io.BytesIO()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(whole, "w") as out:
        for entry in source.infolist():
            content = source.read(entry)
            if content.startswith(_ELF):
                try:
                    content = slim(content, architecture)
                except (NotSlim, struct.error) as error:
                    raise NotSlim(f"{entry.filename}: {error}") from None
            out.writestr(entry, content, zipfile.ZIP_LZMA)
    content = whole.getvalue()
    shutil.rmtree(folder, ignore_errors=True)
    parts = []
    for number, start in enumerate(range(0, len(content), size)):
        part = folder / f"part{number:02}" / f"{wheel.name}.{-(-len(content) // size)}"
        part.parent.mkdir(parents=True)
        part.write_bytes(content[start : start + size])
        parts.append(part)
    return parts


def join(folder: Path) -> list[Path]:
    """Write the wheels of which every part is there.

    Raises:
        NotSlim: there is no part, or not every part.
    """
    wheels = []
    for name in sorted({part.name for part in folder.glob("part*/*.whl.*")}):
        parts = sorted(folder.glob(f"part*/{name}"))
        stem, _, count = name.rpartition(".")
        if len(parts) != int(count):
            raise NotSlim(f"{len(parts)} of {count} parts of {stem}; carry the others")
        wheel = folder / stem
        wheel.write_bytes(b"".join(part.read_bytes() for part in parts))
        try:
            with zipfile.ZipFile(wheel) as made:
                damaged = made.testzip()
        except (zipfile.BadZipFile, lzma.LZMAError, EOFError):
            damaged = wheel.name
        if damaged is not None:
            wheel.unlink()
            raise NotSlim(f"{damaged} is damaged; carry the parts again")
        wheels.append(wheel)
    if not wheels:
        raise NotSlim("no parts; make them with a wheel and --target")
    return wheels


def main(arguments: Sequence[str]) -> int:
    """Write parts, or join them; exit status 2 if that fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.slim", description=__doc__)
    parser.add_argument("wheel", type=Path, nargs="?", help="wheel with CUDA code")
    parser.add_argument("--target", default="sm90", help="architecture of the GPU (default: sm90)")
    parser.add_argument("--join", action="store_true", help="put the carried parts together")
    options = parser.parse_args(arguments)
    target = re.fullmatch(r"sm(\d+)", options.target)
    if (options.wheel is None) != options.join or target is None:
        parser.error("give a wheel and --target like sm90, or --join")
    try:
        if options.join:
            for wheel in join(PARTS):
                print(f"slim: {wheel.relative_to(ROOT)}")
            return 0
        parts = write_parts(options.wheel, int(target[1]), PARTS)
    except (NotSlim, OSError, zipfile.BadZipFile) as error:
        print(f"slim: {options.wheel or PARTS}: {error}", file=sys.stderr)
        return 2
    for part in parts:
        print(f"slim: {part.parent.relative_to(ROOT)}: {part.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
