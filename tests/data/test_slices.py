"""Finding slices: order, skipped files, other formats, and errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from support.dicom_files import MR, SERIES, noise, write_ct, write_enhanced_ct, write_series
from support.metaimage_files import write_mha

from clinreadnet.data import slices
from clinreadnet.data.slices import find_slices, resize
from clinreadnet.data.tif import write_tif
from clinreadnet.errors import InputError


def test_a_series_is_sorted_by_position_not_by_name(tmp_path: Path) -> None:
    refs = find_slices([write_series(tmp_path / "s", 5, step=2.5)])
    assert [r.position for r in refs] == [0, 2.5, 5, 7.5, 10]
    assert [r.path.name for r in refs] == [f"IM{i:04d}.dcm" for i in (5, 4, 3, 2, 1)]
    assert {r.series for r in refs} == {SERIES} and {r.frame for r in refs} == {None}
    for i, ref in enumerate(refs):
        np.testing.assert_array_equal(ref.load(), noise(i))


def test_named_files_are_sorted_like_a_folder(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 4)
    named = find_slices(sorted(folder.iterdir()))
    assert [r.path for r in named] == [r.path for r in find_slices([folder])]


@pytest.mark.parametrize(
    ("drop", "positions"),
    [
        (("ImagePositionPatient",), [30, 20, 10]),
        (("ImagePositionPatient", "SliceLocation"), [None, None, None]),
    ],
    ids=["slice-location", "instance-number"],
)
def test_one_slice_without_position_changes_the_order_of_all(
    tmp_path: Path, drop: tuple[str, ...], positions: list[float | None]
) -> None:
    for i, (z, location, number) in enumerate([(1, 30, 7), (2, 20, 8), (3, 10, 9)]):
        tags: dict[str, Any] = {
            "ImagePositionPatient": [0, 0, z],
            "SliceLocation": location,
            "InstanceNumber": number,
        }
        if i == 1:
            tags |= {name: "" for name in drop}
        write_ct(tmp_path / f"{i}.dcm", **tags)
    refs = find_slices([tmp_path])
    known = [position for position in positions if position is not None]
    assert [r.position for r in refs] == (sorted(known) if known else positions)
    assert len({r.path for r in refs}) == 3
    if None in positions:
        assert [r.path.name for r in refs] == ["0.dcm", "1.dcm", "2.dcm"]


def test_series_of_one_folder_are_kept_apart_and_in_order(tmp_path: Path) -> None:
    for name, series, number, z in [
        ("a", "1.2.30", 3, 0),
        ("b", "1.2.4", 2, 1),
        ("c", "1.2.30", 3, -1),
        ("d", "1.2.4", 2, 0),
    ]:
        write_ct(
            tmp_path / f"{name}.dcm",
            SeriesInstanceUID=series,
            SeriesNumber=number,
            ImagePositionPatient=[0, 0, z],
        )
    assert [r.path.stem for r in find_slices([tmp_path])] == ["d", "b", "c", "a"]


def test_enhanced_frames_are_slices_along_the_normal(tmp_path: Path) -> None:
    refs = find_slices([write_enhanced_ct(tmp_path / "e.dcm", 3)])
    assert [(r.frame, r.position) for r in refs] == [(2, -10), (1, -5), (0, 0)]
    assert refs[0].name.endswith("e.dcm[2]")
    np.testing.assert_array_equal(refs[0].load(), noise(2) + 200)


def test_a_folder_leaves_out_what_is_no_slice_and_says_so(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 2)
    write_ct(folder / "scout.dcm", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_ct(folder / "mr1.dcm", SOPClassUID=MR, Modality="MR")
    write_ct(folder / "mr2.dcm", SOPClassUID=MR, Modality="MR")
    (folder / "LICENSE.txt").write_text("free")
    (folder / ".DS_Store").write_bytes(b"\x00")
    sub = folder / "sub"
    write_series(sub, 1, SeriesInstanceUID="1.2.3")
    notes: list[str] = []
    assert len(find_slices([folder], note=notes.append)) == 3
    (line,) = notes
    assert "localiser: scout.dcm" in line and "not DICOM: LICENSE.txt" in line
    assert "mr1.dcm and 1 more" in line and "DS_Store" not in line


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("not DICOM at all"), "not a DICOM file"),
        (lambda path: path.write_bytes(path.read_bytes()[:9000]), "truncated"),
    ],
    ids=["text-called-dcm", "truncated"],
)
def test_a_damaged_slice_in_a_folder_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    folder = write_series(tmp_path / "s", 2)
    damage(folder / "IM0001.dcm")
    with pytest.raises(InputError, match=f"IM0001.dcm: {message}"):
        find_slices([folder])


def test_damaged_files_can_be_set_aside(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 3)
    damaged = folder / "IM0002.dcm"
    damaged.write_bytes(damaged.read_bytes()[:9000])
    (folder / "LICENSE.txt").write_text("free")
    refused: list[tuple[Path, InputError]] = []
    notes: list[str] = []
    refs = find_slices([folder], note=notes.append, refused=lambda *pair: refused.append(pair))
    assert [ref.path.name for ref in refs] == ["IM0003.dcm", "IM0001.dcm"]
    ((path, error),) = refused
    assert path == damaged and "truncated" in str(error)
    assert len(notes) == 1 and "LICENSE.txt" in notes[0] and "IM0002" not in notes[0]
    with pytest.raises(InputError, match="no slices"):  # a file that is named is no exception
        find_slices([damaged], refused=lambda *pair: refused.append(pair))
    assert [path for path, _ in refused] == [damaged, damaged]


def test_a_file_named_twice_counts_once(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 2)
    assert len(find_slices([folder / "IM0001.dcm", folder, folder, folder / "IM0001.dcm"])) == 2


def test_a_rescale_type_that_is_not_hu_is_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    find_slices([write_ct(tmp_path / "a.dcm", RescaleType="US")], note=notes.append)
    assert len(notes) == 1 and "rescale type is US" in notes[0]


def test_a_header_is_kept_as_it_is_stored_and_only_where_it_is_asked_for(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PatientID="A\\B", StudyID="7")
    (ref,) = find_slices([path])  # what Ray pickles
    assert ref.header is None
    (ref,) = find_slices([path], keep=["PatientID", "StudyID"])
    assert ref.header is not None
    assert ref.header.get_item("PatientID").value == b"A\\B "  # though the owner was read from it
    assert ref.header.StudyID == "7" and "AccessionNumber" not in ref.header
    frames = find_slices([write_enhanced_ct(tmp_path / "e.dcm", 2)], keep=["PatientID"])
    assert frames[0].header is frames[1].header


def test_headers_are_read_without_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "read_hu", lambda frame: pytest.fail("pixels were read"))
    assert len(find_slices([write_series(tmp_path / "s", 3)])) == 3


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64], ids=lambda d: d.__name__)
def test_npy_stacks_and_single_slices(tmp_path: Path, dtype: type) -> None:
    stack = noise(0, (3, 512, 512)).astype(dtype)
    np.save(tmp_path / "stack.npy", stack)
    np.save(tmp_path / "one.npy", stack[0])
    refs = find_slices([tmp_path / "stack.npy", tmp_path / "one.npy"])
    assert [(r.frame, r.position) for r in refs] == [(0, None), (1, None), (2, None), (None, None)]
    assert refs[1].load().dtype == np.float32
    np.testing.assert_array_equal(refs[1].load(), stack[1])
    np.testing.assert_array_equal(refs[3].load(), stack[0])


def test_files_without_position_keep_the_natural_order(tmp_path: Path) -> None:
    for name in ("slice_10", "slice_2", "slice_1"):
        np.save(tmp_path / f"{name}.npy", noise())
    assert [r.path.stem for r in find_slices([tmp_path])] == ["slice_1", "slice_2", "slice_10"]


def test_tif_is_decoded_to_hu(tmp_path: Path) -> None:
    hu = noise().clip(-1000, 400)
    tifffile.imwrite(tmp_path / "0000.tif", ((hu + 1000) / 1400).astype(np.float32))
    (ref,) = find_slices([tmp_path / "0000.tif"])
    np.testing.assert_allclose(ref.load(), hu, atol=1e-3)


def save_npy(array: Any) -> Any:
    return lambda path: np.save(path, array, allow_pickle=True)


def save_tif(array: Any) -> Any:
    return lambda path: tifffile.imwrite(path, array)


def with_one(value: float) -> np.ndarray:
    hu = noise().astype(np.float64)
    hu[5, 5] = value
    return hu


REFUSED_AT_THE_HEADER: dict[str, tuple[str, Any, str]] = {
    "npy-wrong-size": ("a.npy", save_npy(np.zeros((100, 512))), "100x512 pixels.*resample=True"),
    "npy-four-axes": ("a.npy", save_npy(np.zeros((1, 1, 512, 512))), r"shape \[1, 1, 512, 512\]"),
    "npy-empty": ("a.npy", save_npy(np.zeros((0, 512, 512))), r"shape \[0, 512, 512\]"),
    "npy-complex": ("a.npy", save_npy(np.zeros((512, 512), complex)), "holds no numbers"),
    "npy-objects": ("a.npy", save_npy(np.array([None, 1])), "not a readable .npy"),
    "npy-text": ("a.npy", lambda path: path.write_text("hello"), "not a readable .npy"),
    "tif-wrong-size": ("a.tif", save_tif(np.zeros((256, 256), np.float32)), "256x256 pixels"),
    "tif-text": ("a.tif", lambda path: path.write_text("hello"), "not a readable TIFF"),
    "dicom-wrong-size": (
        "a.dcm",
        lambda path: write_ct(path, noise(0, (256, 512))),
        "256x512 pixels.*resample=True",
    ),
    "localiser": (
        "a.dcm",
        lambda path: write_ct(path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        "a localiser",
    ),
    "unknown-suffix": ("a.png", lambda path: path.write_bytes(b"\x89PNG"), "not a DICOM file"),
}


@pytest.mark.parametrize(
    ("name", "save", "message"), REFUSED_AT_THE_HEADER.values(), ids=REFUSED_AT_THE_HEADER.keys()
)
def test_bad_files_are_refused_before_pixels(
    tmp_path: Path, name: str, save: Any, message: str
) -> None:
    save(tmp_path / name)
    with pytest.raises(InputError, match=message) as refusal:
        find_slices([tmp_path / name])
    assert str(refusal.value).startswith(str(tmp_path / name)) and "\n" not in str(refusal.value)


REFUSED_AT_THE_SLICE: dict[str, tuple[str, Any, str]] = {
    "nan": ("a.npy", save_npy(with_one(np.nan)), "NaN or infinity"),
    "infinity": ("a.npy", save_npy(with_one(np.inf)), "NaN or infinity"),
    "beyond-float32": ("a.npy", save_npy(with_one(1e300)), "NaN or infinity"),
    "constant": ("a.npy", save_npy(np.full((512, 512), 40)), "every pixel is 40 HU"),
    "constant-dicom": (
        "a.dcm",
        lambda path: write_ct(path, np.full((512, 512), -2048)),
        "every pixel is -1000 HU",
    ),
    "encoded-npy": (
        "a.npy",
        save_npy(np.random.default_rng(0).random((512, 512))),
        "every value is in 0...1",
    ),
    "tif-above-one": ("a.tif", save_tif(with_one(1.5).astype(np.float32)), "0.*1"),
    "tif-nan": (
        "a.tif",
        save_tif(np.where(with_one(9e4) > 8e4, np.nan, 0.5).astype(np.float32)),
        "a.tif",
    ),
}


@pytest.mark.parametrize(
    ("name", "save", "message"), REFUSED_AT_THE_SLICE.values(), ids=REFUSED_AT_THE_SLICE.keys()
)
def test_bad_pixels_are_refused_at_the_slice(
    tmp_path: Path, name: str, save: Any, message: str
) -> None:
    save(tmp_path / name)
    (ref,) = find_slices([tmp_path / name])
    with pytest.raises(InputError, match=message) as refusal:
        ref.load()
    assert str(refusal.value).startswith(str(tmp_path / name)) and "\n" not in str(refusal.value)


def test_missing_empty_and_slice_free_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        find_slices([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="an empty folder"):
        find_slices([tmp_path])
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"no CT slices \(not DICOM: notes.txt\)"):
        find_slices([tmp_path])
    with pytest.raises(InputError, match="no slices"):
        find_slices([])


def test_resample_accepts_other_sizes(tmp_path: Path) -> None:
    write_ct(tmp_path / "a.dcm", noise(0, (400, 768)))
    np.save(tmp_path / "b.npy", noise(0, (2, 256, 256)))
    refs = find_slices([tmp_path], resample=True)
    assert len(refs) == 3
    assert {r.load().shape for r in refs} == {(512, 512)}


@pytest.mark.parametrize("side", [256, 300, 511, 768, 1024])
def test_resize_keeps_a_linear_ramp_and_a_constant(side: int) -> None:
    ramp = np.tile(np.linspace(-100, 100, side, dtype=np.float32), (side, 1))
    resized = resize(ramp)
    centres = (np.arange(512) + 0.5) * side / 512 - 0.5
    expected = -100 + centres * 200 / (side - 1)
    np.testing.assert_allclose(resized[200, 8:-8], expected[8:-8], atol=1e-2)
    np.testing.assert_allclose(resize(np.full((side, side), 40, np.float32)), 40, atol=1e-3)


def test_resize_averages_instead_of_aliasing() -> None:
    stripes = np.tile(np.float32([-500, 500]), (1536, 768))
    assert np.abs(stripes[::3, ::3]).min() == 500  # the result without antialiasing
    assert np.abs(resize(stripes)[:, 4:-4]).max() < 60


def test_resize_keeps_proportions_with_air() -> None:
    resized = resize(np.full((256, 512), 40, np.float32))
    assert (resized[:128] == -1000).all() and (resized[-128:] == -1000).all()
    assert (resized[128:384] == 40).all()


def test_whole_hu_of_a_file_stay_int16(tmp_path: Path) -> None:
    hu = noise()
    write_ct(tmp_path / "whole.dcm", hu)
    write_ct(tmp_path / "slope.dcm", hu, RescaleSlope=1.01)
    write_ct(tmp_path / "intercept.dcm", hu, intercept=-1000.5)
    unsigned = np.where(hu > 200, 65000, hu + 1024).astype("<u2")  # beyond int16
    write_ct(tmp_path / "large.dcm", hu, PixelRepresentation=0, PixelData=unsigned.tobytes())
    write_ct(tmp_path / "padded.dcm", np.where(hu < -500, -3024, hu))
    np.save(tmp_path / "int16.npy", np.asfortranarray(hu))
    np.save(tmp_path / "big.npy", hu.astype(">i2"))
    np.save(tmp_path / "int32.npy", hu.astype(np.int32))
    np.save(tmp_path / "float.npy", hu.astype(np.float32) + 0.25)
    write_mha(tmp_path / "int16.mha", hu[None])
    write_mha(tmp_path / "float.mha", hu[None].astype(np.float32))
    write_tif(tmp_path / "a.tif", hu)
    short = {"whole.dcm", "padded.dcm", "int16.npy", "big.npy", "int16.mha"}
    for path in tmp_path.iterdir():
        (ref,) = find_slices([path])
        compact, image = ref.load_compact(), ref.load()
        assert (image.max() > 32767) == (path.name == "large.dcm")
        assert compact.dtype == (np.int16 if path.name in short else np.float32), path.name
        assert image.dtype == np.float32 and compact.flags.c_contiguous
        np.testing.assert_array_equal(compact, image)
        if path.name in short:
            expected = np.where(hu < -500, -1000, hu) if path.name == "padded.dcm" else hu
            np.testing.assert_array_equal(compact, expected)
    np.save(tmp_path / "small.npy", hu[:400])
    (ref,) = find_slices([tmp_path / "small.npy"], resample=True)
    assert ref.load_compact().dtype == np.float32


@pytest.mark.skipif(
    "CLINREADNET_REAL_DATA" not in os.environ,
    reason="CLINREADNET_REAL_DATA does not name a folder of real slices",
)
@pytest.mark.parametrize(
    ("folder", "count"), [("abdomen-ge", 11), ("liver-dome", 3), ("enhanced-ct", 2)]
)
def test_real_slices_are_read(folder: str, count: int) -> None:
    refs = find_slices([Path(os.environ["CLINREADNET_REAL_DATA"]) / folder])
    assert len(refs) == count
    positions = [r.position for r in refs]
    assert None not in positions and positions == sorted(positions)  # type: ignore[type-var]
    for ref in refs:
        hu = ref.load()
        assert hu.dtype == np.float32 and -1500 < hu.min() < -900 and 100 < hu.max() < 4000
