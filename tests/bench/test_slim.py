"""Wheels made smaller for one GPU."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.gpu_check import slim

IMAGES = {75: b"a" * 40, 90: b"b" * 48, 120: b"c" * 32}


def container(images: dict[int, bytes]) -> bytes:
    content = b""
    for architecture, code in images.items():
        header = struct.pack("<HHIQIIII", 2, 257, 64, len(code), 0, 0, 0, architecture)
        content += header.ljust(64, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def library(section: bytes, name: bytes = b".nv_fatbin") -> bytes:
    """Return an ELF file with a section, and one of names."""
    names = b"\0.shstrtab\0" + name + b"\0"
    table = 64 + len(section) + len(names)
    header = b"\x7fELF\x02\x01".ljust(0x28, b"\1") + struct.pack("<Q", table)
    header = header.ljust(0x3C, b"\0") + struct.pack("<HH", 2, 0)
    sections = struct.pack("<IIQQQQ", 1, 3, 0, 0, 64 + len(section), len(names)).ljust(64, b"\0")
    sections += struct.pack("<IIQQQQ", 11, 1, 0, 0, 64, len(section)).ljust(64, b"\0")
    return header + section + names + sections


def wheel_of(folder: Path, content: bytes) -> Path:
    wheel = folder / "made-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        out.writestr("made/libmade.so", content)
        out.writestr("made/__init__.py", "answer = 42\n")
        out.writestr(
            "made-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: made\nVersion: 1.0"
        )
        out.writestr(
            "made-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any",
        )
        out.writestr("made-1.0.dist-info/RECORD", "")
    return wheel


def test_code_of_other_architectures_becomes_zeros_in_place() -> None:
    before = library(container(IMAGES) + bytes(8) + container(IMAGES))
    after = slim.slim(before, 90)
    zeros = {code: bytes(len(code)) for of, code in IMAGES.items() if of != 90}
    expected = before
    for code, empty in zeros.items():
        expected = expected.replace(code, empty)
    assert after == expected and after.count(IMAGES[90]) == 2
    assert [of for of, _, _ in slim.images(after)] == 2 * list(IMAGES)


def test_a_library_without_cuda_code_stays_as_it_is() -> None:
    plain = library(b"text", b".text")
    assert slim.slim(plain, 90) == plain


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (container(IMAGES)[:-1], "no container of images at 0x40"),
        (b"\1" * 16 + container(IMAGES), "no container of images at 0x40"),
        (container(IMAGES).replace(struct.pack("<Q", 48), struct.pack("<Q", 999)), "no image at"),
    ],
    ids=["cut", "other-magic", "image-too-long"],
)
def test_code_in_another_format_is_refused(section: bytes, message: str) -> None:
    with pytest.raises(slim.NotSlim, match=message):
        slim.slim(library(section), 90)


def test_parts_become_a_wheel_that_pip_installs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = library(container(IMAGES))
    wheel = wheel_of(tmp_path, content)
    monkeypatch.setattr(slim, "ROOT", tmp_path)
    monkeypatch.setattr(slim, "PARTS", tmp_path / "parts")
    monkeypatch.setattr(slim.write_parts, "__defaults__", (600,))
    assert slim.main([str(wheel)]) == 0
    first, *_ = parts = sorted((tmp_path / "parts").rglob("*.whl.*"))
    assert len(parts) > 1
    assert capsys.readouterr().out.count("slim: parts/part0") == len(parts)

    away = first.rename(tmp_path / "away")
    assert slim.main(["--join"]) == 2
    assert f"{len(parts) - 1} of {len(parts)} parts of {wheel.name}" in capsys.readouterr().err
    away.rename(first)
    assert slim.main(["--join"]) == 0
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target")
    subprocess.run([*pip, tmp_path / "site", tmp_path / "parts" / wheel.name], check=True)
    assert (tmp_path / "site/made/libmade.so").read_bytes() == slim.slim(content, 90)


def test_a_damaged_part_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slim, "PARTS", tmp_path / "parts")
    (part,) = slim.write_parts(wheel_of(tmp_path, library(container(IMAGES))), 90, slim.PARTS)
    content = bytearray(part.read_bytes())
    content[120] ^= 1
    part.write_bytes(content)
    assert slim.main(["--join"]) == 2
    assert capsys.readouterr().err.endswith("carry the parts again\n")


def test_bad_arguments_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slim, "ROOT", tmp_path)
    monkeypatch.setattr(slim, "PARTS", tmp_path / "parts")
    wheel = wheel_of(tmp_path, library(container(IMAGES)))
    (tmp_path / "cut").mkdir()
    cut = wheel_of(tmp_path / "cut", library(container(IMAGES))[:-60])
    cases = {
        (
            str(wheel),
            "--target",
            "sm80",
        ): "libmade.so: no code for sm80, only for sm75, sm90, sm120",
        (str(cut),): "made/libmade.so: unpack_from requires a buffer",
        (str(tmp_path / "missing.whl"),): "No such file",
        (str(Path(__file__)),): "not a zip file",
        ("--join",): "no parts; make them with a wheel and --target",
    }
    for arguments, message in cases.items():
        assert slim.main(arguments) == 2
        assert message in capsys.readouterr().err
    for arguments in ((), (str(wheel), "--join"), (str(wheel), "--target", "h200")):
        with pytest.raises(SystemExit):
            slim.main(arguments)
