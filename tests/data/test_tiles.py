from pathlib import Path

import numpy as np
import pytest

from clinreadnet.data.tiles import read_tiles, write_tiles
from clinreadnet.errors import InputError


def tiles(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 4 * rng.random((16, 16), np.float32), rng.random((16, 16), np.float32)


def test_written_and_read_in_the_order_asked_for(tmp_path: Path) -> None:
    write_tiles(tmp_path, {"a.tif": tiles(0), "b.tif": tiles(1)})
    read = read_tiles(tmp_path, ["b.tif", "c.tif", "a.tif"])
    assert read is not None and read.labelled == 2
    for place, seed in ((0, 1), (2, 0)):
        np.testing.assert_array_equal(read.quality[place], tiles(seed)[0])
        np.testing.assert_array_equal(read.weight[place], tiles(seed)[1])
    assert not read.weight[1].any()


def test_the_same_tiles_are_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_tiles(tmp_path / name, {"a.tif": tiles(0)})
        written.append((tmp_path / name / "tiles.npz").read_bytes())
    assert written[0] == written[1]


def test_no_file_no_labels(tmp_path: Path) -> None:
    assert read_tiles(tmp_path, ["a.tif"]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"quality": np.zeros((1, 8, 8), "f4")},
            r"shape \[1, 8, 8\], expected \[.any., 16, 16\]",
            id="grid",
        ),
        pytest.param(
            {"weight": np.zeros((2, 16, 16), "f4")},
            "the numbers of tiles and names differ",
            id="count",
        ),
        pytest.param({"quality": np.full((1, 16, 16), 4.5, "f4")}, "above 4", id="range"),
        pytest.param({"quality": np.full((1, 16, 16), np.nan, "f4")}, "not tile labels", id="nan"),
        pytest.param({"weight": np.full((1, 16, 16), -1, "f4")}, "not tile labels", id="negative"),
        pytest.param({"quality": np.zeros((1, 16, 16), "i4")}, "no plain numbers", id="integers"),
    ],
)
def test_labels_that_cannot_be_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray], message: str
) -> None:
    quality, weight = (part[None] for part in tiles(0))
    fields = {"names": np.array(["a.tif"]), "quality": quality, "weight": weight} | change
    np.savez(tmp_path / "tiles.npz", **fields)
    with pytest.raises(InputError, match=message):
        read_tiles(tmp_path, ["a.tif"])


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiles.npz").write_bytes(b"PK not a zip")
    with pytest.raises(InputError, match="tiles.npz: not a file of tile labels"):
        read_tiles(tmp_path, ["a.tif"])
