from pathlib import Path

import numpy as np
import pytest
from support.metaimage_files import TYPES, write_mha

from clinreadnet.data.metaimage import StackReader, open_metaimage
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError

OPEN_FILES = Path("/proc/self/fd")


def read_metaimage(path: Path) -> np.ndarray:
    """Read a whole stack, [n, rows, columns]."""
    reader = StackReader(open_metaimage(path))
    return np.stack([reader.read(number) for number in range(reader.stack.shape[0])])


def stack_of(dtype: str, shape: tuple[int, ...] = (2, 3, 5)) -> np.ndarray:
    values = np.random.default_rng(0).uniform(0, 200, shape) - (100 if dtype != "uint8" else 0)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"compress": True}, id="compressed"),
        pytest.param({"msb": True}, id="big-endian"),
        pytest.param({"local": False}, id="mhd"),
    ],
)
def test_hounsfield_units_come_back(tmp_path: Path, dtype: str, options: dict) -> None:
    stack = stack_of(dtype)
    back = read_metaimage(write_mha(tmp_path / "a.mha", stack, **options))
    assert back.dtype == (np.int16 if stack.dtype == np.int16 else np.float32)
    np.testing.assert_array_equal(back, stack.astype(np.float32))


@pytest.mark.parametrize("top", [1.0, 1 + 5e-7], ids=["one", "rounded"])
def test_floats_in_0_to_1_are_encoded(tmp_path: Path, top: float) -> None:
    stack = np.array([[[0, 0.5, top]]], np.float64)
    back = read_metaimage(write_mha(tmp_path / "a.mha", stack))
    np.testing.assert_allclose(back, [[[-1000, -300, 400]]], atol=1e-3)


def test_one_slice_is_a_stack_of_one(tmp_path: Path) -> None:
    stack = stack_of("int16", (4, 6))
    assert read_metaimage(write_mha(tmp_path / "a.mha", stack)).shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"ElementType": "MET_LONG_LONG"}, "240 and holds MET_LONG_LONG", id="wide"),
        pytest.param({"ElementType": "MET_STRING"}, "holds MET_STRING", id="type"),
        pytest.param({"ElementNumberOfChannels": "3"}, "MET_SHORT, 3 to a pixel", id="colour"),
        pytest.param({"DimSize": "5 3 two"}, "its DimSize is not two or three sizes", id="size"),
        pytest.param({"DimSize": "5 3 2 1"}, "write a stack of slices", id="4d"),
        pytest.param({"DimSize": "5 3 3"}, "60 bytes .* promises 90", id="cut"),
        pytest.param({"DimSize": "5 3 1", "compress": True}, "31 bytes .* or more", id="long"),
        pytest.param({"CompressedData": "True"}, "damaged", id="not-compressed"),
    ],
)
def test_refuses(tmp_path: Path, options: dict, message: str) -> None:
    path = write_mha(tmp_path / "a.mha", stack_of("int16"), **options)
    with pytest.raises(InputError, match=message) as refusal:
        read_metaimage(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"ObjectType = Image\n", b"\x00" * 99999], ids=len)
def test_refuses_what_is_no_metaimage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mha").write_bytes(content)
    with pytest.raises(InputError, match="not a MetaImage file"):
        read_metaimage(tmp_path / "a.mha")


def test_refuses_a_header_without_its_data(tmp_path: Path) -> None:
    path = write_mha(tmp_path / "a.mhd", stack_of("int16"), local=False)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(InputError, match="its data file a.raw is not beside it"):
        read_metaimage(path)


def test_the_slices_of_a_stack_are_found_in_order(tmp_path: Path) -> None:
    stack = stack_of("int16", (3, 512, 512))
    refs = find_slices([write_mha(tmp_path / "a.mha", stack, compress=True)])
    assert [ref.frame for ref in refs] == [0, 1, 2]
    for ref, image in zip(refs, stack, strict=True):
        np.testing.assert_array_equal(ref.load(), image)
    small = write_mha(tmp_path / "b.mha", stack[:, ::2])
    with pytest.raises(InputError, match="b.mha: 256x512 pixels"):
        find_slices([small])


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="the system does not list open files")
def test_a_stack_that_is_read_in_part_leaves_no_file_open(tmp_path: Path) -> None:
    stack = stack_of("int16", (3, 512, 512))
    before = len(list(OPEN_FILES.iterdir()))
    reader = StackReader(open_metaimage(write_mha(tmp_path / "a.mha", stack, compress=True)))
    np.testing.assert_array_equal(reader.read(1), stack[1])
    assert len(list(OPEN_FILES.iterdir())) == before
