import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from clinreadnet import limits
from clinreadnet.data.ldctiqa import check_images, read_ldctiqa, write_labels
from clinreadnet.data.tif import decode, encode, read_tif, write_tif
from clinreadnet.errors import InputError


def image(value=0.5, dtype=np.float32, shape=(512, 512)):
    return np.full(shape, value, dtype)


def spoiled(**values):
    x = image()
    x[100, 200] = values["at"]
    return x


def make_folder(folder, labels, simulation=None):
    (folder / "image").mkdir(parents=True)
    for k, name in enumerate(sorted(labels)):
        write_tif(folder / "image" / name, np.full((512, 512), 10.0 * k, np.float32))
    write_labels(folder, labels, simulation)
    return folder


LABELS = {"0001.tif": 0.0, "0000.tif": 2.8, "0002.tif": 4}


def test_encoding_is_the_challenges():
    hu = np.array([-2000, -1000, -300, 400, 3000], np.float32)
    np.testing.assert_allclose(encode(hu), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(decode(np.array([0, 0.5, 1], np.float32)), [-1000, -300, 400])


def test_round_trip(tmp_path):
    hu = np.random.default_rng(0).uniform(-1000, 400, (512, 512)).astype(np.float32)
    write_tif(tmp_path / "a.tif", hu)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        (page,) = tif.pages
        assert page.dtype == np.float32 and page.shape == (512, 512)
    back = read_tif(tmp_path / "a.tif")
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, hu, atol=2e-4)


def test_same_image_same_bytes(tmp_path):
    for name in ("a.tif", "b.tif"):
        write_tif(tmp_path / name, image(40))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("outside", [-5e-7, 1 + 5e-7], ids=["below", "above"])
def test_a_rounding_step_outside_is_let_in(tmp_path, outside):
    tifffile.imwrite(tmp_path / "a.tif", spoiled(at=outside))
    hu = read_tif(tmp_path / "a.tif")
    assert hu.min() >= -1000 and hu.max() <= 400


@pytest.mark.parametrize(
    "pixels, words",
    [
        pytest.param(spoiled(at=1.01), r"outside \[0, 1\]", id="above-1"),
        pytest.param(spoiled(at=-0.01), r"outside \[0, 1\]", id="below-0"),
        pytest.param(spoiled(at=np.nan), "not numbers", id="nan"),
        pytest.param(spoiled(at=np.inf), "not numbers", id="inf"),
        pytest.param(image(shape=(512, 256)), "512x256", id="narrow"),
        pytest.param(image(shape=(3, 512, 512)), "3x512x512", id="stack"),
        pytest.param(image(1, np.uint16), "uint16", id="integers"),
    ],
)
def test_refuses_pixels(tmp_path, pixels, words):
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack")
    with pytest.raises(InputError, match=words) as refusal:
        read_tif(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"not an image", b"II*\0\x08\0\0\0"], ids=repr)
def test_refuses_what_is_no_tiff(tmp_path, content, caplog):
    path = tmp_path / "bad.tif"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a readable TIFF") as refusal:
        read_tif(path)
    assert "\n" not in str(refusal.value) and not caplog.records


def test_refuses_a_truncated_image(tmp_path):
    path = tmp_path / "cut.tif"
    write_tif(path, image(40))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="cut.tif"):
        read_tif(path)


def test_refuses_a_missing_image(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_tif(tmp_path / "none.tif")


@pytest.mark.parametrize("inside", ["", "LDCTIQAG2023_train"], ids=["folder", "challenge-parent"])
def test_reads_a_folder(tmp_path, inside):
    make_folder(tmp_path / inside if inside else tmp_path / "data", LABELS)
    opened = read_ldctiqa(tmp_path if inside else tmp_path / "data")
    assert opened.names == ["0000.tif", "0001.tif", "0002.tif"] and len(opened) == 3
    assert opened.scores.dtype == np.float32
    np.testing.assert_allclose(opened.scores, [2.8, 0, 4], atol=1e-6)
    assert opened.groups is None
    np.testing.assert_allclose(opened.hu(2), 20, atol=1e-3)


def test_groups_are_the_anatomies(tmp_path):
    images = {name: {"anatomy": k} for name, k in zip(sorted(LABELS), (4, 4, 7), strict=True)}
    opened = read_ldctiqa(make_folder(tmp_path / "d", LABELS, {"images": images}))
    assert opened.groups is not None and opened.groups.tolist() == [4, 4, 7]


@pytest.mark.parametrize(
    "simulation",
    [
        {},
        {"images": {}},
        {"images": []},
        {"images": {"0000.tif": {"anatomy": "a"}}},
        {"images": {"0000.tif": 3}},
        {"images": {"0000.tif": {"anatomy": True}}},
        {"images": {"0000.tif": {"anatomy": -1}}},
        {"images": {"0000.tif": {"anatomy": 2**31}}},
    ],
    ids=str,
)
def test_refuses_a_sidecar_that_does_not_fit(tmp_path, simulation):
    folder = make_folder(tmp_path / "d", {"0000.tif": 1.0}, simulation)
    with pytest.raises(InputError, match="does not give the anatomy of 0000.tif"):
        read_ldctiqa(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("group", "a"),
        ("group", 2**64),
        ("quality", 10**400),
        ("quality", float("nan")),
        ("noise_level", None),
        ("views", [720]),
        ("variant", -1),
        ("denoiser", 3),
        ("slice", {}),
    ],
    ids=lambda value: str(value)[:12],
)
def test_refuses_a_record_of_another_kind(tmp_path, key, value):
    record = {"anatomy": 0, "quality": None, "denoiser": None}
    simulation = {"images": {"0000.tif": record | {key: value}}}
    folder = make_folder(tmp_path / "d", {"0000.tif": 1.0}, simulation)
    with pytest.raises(InputError, match=f"simulation.json: `{key}` of 0000.tif is not"):
        read_ldctiqa(folder)


@pytest.mark.parametrize(("key", "value"), [("breadth", 3), ("seed", "one")])
def test_refuses_a_simulation_of_another_kind(tmp_path, key, value):
    simulation = {"images": {"0000.tif": {"anatomy": 0}}, key: value}
    folder = make_folder(tmp_path / "d", {"0000.tif": 1.0}, simulation)
    with pytest.raises(InputError, match=f"simulation.json: `{key}` is not"):
        read_ldctiqa(folder)


def test_a_folder_names_its_seed_and_breadth(tmp_path):
    images = {"0000.tif": {"anatomy": 0}}
    simulation = {"images": images, "seed": 2**40, "breadth": "wide"}
    wide = read_ldctiqa(make_folder(tmp_path / "wide", {"0000.tif": 1.0}, simulation))
    assert wide.source == {"name": "wide", "slices": 1, "seed": 2**40, "breadth": "wide"}
    real = read_ldctiqa(make_folder(tmp_path / "real", {"0000.tif": 1.0}))
    assert real.source == {"name": "real", "slices": 1, "seed": None, "breadth": None}


@pytest.mark.parametrize(
    "labels, words",
    [
        pytest.param("{", "is not JSON", id="broken"),
        pytest.param("[1]", "not a JSON object", id="list"),
        pytest.param("{}", "names no image", id="empty"),
        pytest.param('{"0000.tif": 4.2}', "4.2", id="too-high"),
        pytest.param('{"0000.tif": -1}', "-1", id="negative"),
        pytest.param('{"0000.tif": NaN}', "nan", id="nan"),
        pytest.param('{"0000.tif": "good"}', "good", id="word"),
        pytest.param('{"0000.tif": true}', "True", id="bool"),
        pytest.param(
            '{"0000.tif": 1, "0008.tif": 1, "0009.tif": 1}',
            "image: 2 labelled images are missing, first 0008.tif",
            id="missing-images",
        ),
        pytest.param('{"0000.tif": 1, "../0000.tif": 1}', "not the name of a file", id="path"),
        pytest.param(
            '{"0000.tif": 5, "0001.tif": -1}', "2 scores are .* first 0000.tif: 5", id="two"
        ),
        pytest.param('{"0000.tif": 1, "0000.tif": 2}', "1 name is .* first 0000.tif", id="twice"),
    ],
)
def test_refuses_labels(tmp_path, labels, words):
    folder = make_folder(tmp_path / "d", {"0000.tif": 1.0})
    (folder / "train.json").write_text(labels)
    with pytest.raises(InputError, match=words) as refusal:
        read_ldctiqa(folder)
    for line in str(refusal.value).splitlines():
        assert line.startswith(str(folder))


def test_every_kind_of_problem_is_named(tmp_path):
    folder = make_folder(tmp_path / "d", {f"{k:04}.tif": 1.0 for k in range(3)})
    (folder / "train.json").write_text('{"0000.tif": 9, "0009.tif": 1}')
    with pytest.raises(InputError) as refusal:
        read_ldctiqa(folder)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) <= limits.MESSAGE
    message = refusal.value.full
    assert "train.json: 1 score is not a number 0...4, first 0000.tif: 9" in message
    assert "1 labelled image is missing, first 0009.tif" in message
    assert "2 images are without a label, first 0001.tif" in message


def test_images_are_checked_by_their_headers(tmp_path):
    folder = make_folder(tmp_path / "d", LABELS)
    check_images(read_ldctiqa(folder))
    tifffile.imwrite(folder / "image" / "0001.tif", image(shape=(256, 512)))
    (folder / "image" / "0002.tif").write_bytes(b"II*")
    with pytest.raises(InputError, match="2 of 3 images are not 512x512, first 0001.tif.*256x512"):
        check_images(read_ldctiqa(folder))


def test_test_labels_and_labels_of_any_name_are_read(tmp_path):
    folder = make_folder(tmp_path / "LDCTIQAG2023_test", LABELS)
    (folder / "train.json").rename(folder / "test.json")
    assert len(read_ldctiqa(tmp_path)) == 3
    (folder / "test.json").rename(folder / "ground-truth.json")
    assert len(read_ldctiqa(folder)) == 3
    (folder / "other.json").write_text("{}")
    with pytest.raises(InputError, match="has no train.json or test.json"):
        read_ldctiqa(folder)


def test_two_challenge_folders_in_one_are_ambiguous(tmp_path):
    for name in ("LDCTIQAG2023_train", "LDCTIQAG2023_test"):
        make_folder(tmp_path / name, LABELS)
    with pytest.raises(InputError, match="holds LDCTIQAG2023_test and LDCTIQAG2023_train"):
        read_ldctiqa(tmp_path)


def test_refuses_folders_without_labels(tmp_path):
    with pytest.raises(InputError, match=r"has no train\.json"):
        read_ldctiqa(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_ldctiqa(tmp_path / "none")
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(InputError, match=r"train\.json: is a file; name a folder"):
        read_ldctiqa(tmp_path / "train.json")


def test_labels_are_written_as_the_challenge_does(tmp_path):
    folder = make_folder(tmp_path / "d", {"0000.tif": 2.8})
    assert json.loads((folder / "train.json").read_text()) == {"0000.tif": 2.8}


def test_reading_needs_neither_torch_nor_the_simulator():
    code = (
        "import sys; import clinreadnet.data.ldctiqa, clinreadnet.simulator.simulate; "
        "print(sorted({'torch', 'numba', 'scipy', 'skimage'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
