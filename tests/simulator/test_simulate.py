import json
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from scipy.stats import spearmanr
from support.whole import WHOLE

from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError
from clinreadnet.simulator import simulate as simulator
from clinreadnet.simulator.dicom_writer import write_ct_slice
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.preview import write_preview
from clinreadnet.simulator.simulate import (
    check_scanned,
    simulate_anatomy,
    simulate_folder,
    simulate_series,
)

SEED = 20
COUNT = 64 if WHOLE else 32
FEWER = 18 if WHOLE else 2


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "data"
    simulate_folder(folder, COUNT, SEED, jobs=2)
    return folder


@pytest.fixture(scope="module")
def records(simulated):
    return json.loads((simulated / "simulation.json").read_text())["images"]


def test_is_an_ldctiqa_folder(simulated):
    opened = read_ldctiqa(simulated)
    assert opened.names == [f"{k:04d}.tif" for k in range(COUNT)]
    assert opened.groups is not None
    assert opened.groups.tolist() == [k // 16 for k in range(COUNT)]
    assert sorted(p.name for p in (simulated / "image").iterdir()) == opened.names
    steps = opened.scores * 5
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)
    hu = opened.hu(17)
    assert hu.min() == -1000 and 0 < np.median(hu[200:300, 200:300]) < 250


def test_noise_spans_that_of_the_challenge(records):
    scans = [record["noise_hu"] for record in records.values() if not record["denoiser"]]
    low, high = np.percentile(scans, [2, 98])
    assert low < 20 and high > 90


def test_worse_slices_get_lower_labels(records):
    quality = [record["quality"] for record in records.values()]
    score = [record["score"] for record in records.values()]
    assert spearmanr(quality, score).statistic > 0.95


def test_noise_alone_does_not_explain_the_labels(records):
    noise = [record["noise_hu"] for record in records.values()]
    score = [record["score"] for record in records.values()]
    assert -0.85 < spearmanr(noise, score).statistic < -0.3


def test_a_denoised_copy_is_never_better_than_its_source(records):
    copies = [record for record in records.values() if record["denoiser"]]
    assert len(copies) == 4 * COUNT // 16
    assert {copy["denoiser"] for copy in copies} == {"nlm", "bilateral"}
    for copy in copies:
        source = records[copy["denoised_from"]]
        assert source["denoiser"] is None and source["anatomy"] == copy["anatomy"]
        assert (copy["views"], copy["noise_level"]) == (source["views"], source["noise_level"])
        assert copy["noise_hu"] < source["noise_hu"] and copy["quality"] <= source["quality"]
    # Some lose more than the noise was worth.
    assert any(c["quality"] < records[c["denoised_from"]]["quality"] - 0.3 for c in copies)


def test_neither_count_nor_jobs_change_an_image(simulated, tmp_path):
    simulate_folder(tmp_path / "fewer", FEWER, SEED, jobs=1)
    labels = json.loads((tmp_path / "fewer" / "train.json").read_text())
    expected = json.loads((simulated / "train.json").read_text())
    assert list(labels) == [f"{k:04d}.tif" for k in range(FEWER)]
    for name, score in labels.items():
        assert score == expected[name]
        ours = (tmp_path / "fewer" / "image" / name).read_bytes()
        assert ours == (simulated / "image" / name).read_bytes()


def test_simulate_anatomy_is_what_the_folder_holds(simulated, records):
    made = simulate_anatomy(SEED, 1, count=2)
    assert made.clean.hu.shape == (512, 512) and made.clean.hu.dtype == np.float32
    opened = read_ldctiqa(simulated)
    for k, part in enumerate(made.slices):
        assert part.hu.dtype == np.float32
        np.testing.assert_allclose(opened.hu(16 + k), np.clip(part.hu, -1000, 400), atol=2e-4)
        record = records[f"{16 + k:04d}.tif"]
        assert record.items() >= part.record().items()


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Return a folder of one DICOM slice with noise."""
    folder = tmp_path_factory.mktemp("scanned")
    phantom = draw_phantom(5, 1, 0.3)
    noise = np.random.default_rng(0).normal(0, 10, phantom.hu.shape).astype(np.float32)
    write_ct_slice(
        folder / "mine.dcm", phantom.hu + noise, series="x", patient_id="x", index=0,
        pixel_mm=phantom.pixel_mm, spacing_mm=5,
    )  # fmt: skip
    return folder


@pytest.mark.whole
def test_own_anatomies_are_degraded(scanned, tmp_path):
    (ref,) = find_slices([scanned])
    scores = simulate_folder(tmp_path / "own", None, 1, scanned=[ref])
    assert len(scores) == 16
    records = json.loads((tmp_path / "own" / "simulation.json").read_text())["images"]
    assert {record["slice"] for record in records.values()} == {"mine.dcm"}
    assert {record["anatomy"] for record in records.values()} == {0}
    assert records["0000.tif"]["pixel_mm"] == pytest.approx(ref.pixel_mm, abs=1e-4)
    noise = [record["noise_hu"] for record in records.values()]
    assert noise[0] < 25 and noise[11] > 60
    # Its own noise is neither measured as noise nor lost as detail.
    assert records["0000.tif"]["quality"] > 3 and records["0011.tif"]["quality"] < 1.5
    opened = read_ldctiqa(tmp_path / "own")
    inside = slice(150, 350)
    difference = opened.hu(0)[inside, inside] - ref.load()[inside, inside]
    assert abs(np.median(difference)) < 3


def test_own_anatomies_must_state_their_pixels(tmp_path):
    np.save(tmp_path / "a.npy", np.tile(np.arange(512, dtype=np.float32), (512, 1)))
    with pytest.raises(InputError, match="pixel spacing; give DICOM"):
        simulate_folder(tmp_path / "x", None, 1, scanned=find_slices([tmp_path / "a.npy"]))
    assert not (tmp_path / "x").exists()


def test_own_anatomies_show_an_abdomen(scanned, tmp_path, monkeypatch):
    """The header marks a map, the size a neck. Neither is degraded."""
    monkeypatch.setattr(simulator, "_write_anatomy", lambda *given: pytest.fail("degraded"))
    perfusion = pydicom.dcmread(scanned / "mine.dcm")
    perfusion.ImageType = ["DERIVED", "PRIMARY", "PERFUSION", "CBF"]
    perfusion.SOPInstanceUID += ".1"
    perfusion.save_as(tmp_path / "map.dcm")
    neck = pydicom.dcmread(scanned / "mine.dcm")
    neck.PixelSpacing = [0.2, 0.2]
    neck.SOPInstanceUID += ".2"
    neck.save_as(tmp_path / "neck.dcm")
    for name, why in (("map", "a cbf map by its header"), ("neck", r"\d+ cm2")):
        refs = find_slices([tmp_path / f"{name}.dcm"])
        with pytest.raises(InputError, match=rf"{name}.dcm: shows no abdomen \(.*{why}.*any_part"):
            simulate_folder(tmp_path / "x", None, 1, scanned=refs)
        check_scanned(refs, any_part=True)
    several = find_slices([tmp_path / "map.dcm", tmp_path / "neck.dcm", scanned / "mine.dcm"])
    with pytest.raises(InputError, match=r"\), like 1 more of 3 slices; leave them out"):
        simulate_folder(tmp_path / "x", None, 1, scanned=several)
    assert not (tmp_path / "x").exists()


def test_own_anatomies_give_so_many_images(scanned, tmp_path):
    with pytest.raises(InputError, match="1 slices give 16 images"):
        simulate_folder(tmp_path / "x", 17, 1, scanned=find_slices([scanned]))


def test_count_is_needed_without_own_anatomies(tmp_path):
    with pytest.raises(InputError, match="give `count`"):
        simulate_folder(tmp_path / "x", None, 1)


def test_preview_is_a_picture(simulated, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    write_preview(simulated, tmp_path / "sheet.png")
    pixels = image.imread(tmp_path / "sheet.png")
    # Four rows of sixteen slices, wider than high, and not blank.
    assert pixels.shape[1] > 1.5 * pixels.shape[0] and pixels[..., :3].std() > 0.1
    with pytest.raises(InputError, match="cannot draw that format"):
        write_preview(simulated, tmp_path / "sheet.txt")


@pytest.mark.whole
def test_preview_of_one_slice_shows_its_whole_title(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    simulate_folder(tmp_path / "data", 1, SEED, jobs=1)
    write_preview(tmp_path / "data", tmp_path / "sheet.png")
    pixels = image.imread(tmp_path / "sheet.png")[..., :3]
    assert pixels[:, :4].min() == pixels[:, -4:].min() == 1  # no letter is cut at an edge


@pytest.mark.parametrize(
    "device, words", [("tpu", "choose cpu, cuda or auto"), ("cuda", "finds no CUDA device")]
)
def test_refuses_a_device_that_is_not_there(tmp_path, monkeypatch, device, words):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=words):
        simulate_folder(tmp_path / "x", 1, 1, device=device)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "ct"
    simulate_series(folder, 2, seed=7, jobs=2)
    return folder


def test_series_headers(series):
    paths = sorted(series.iterdir())
    assert [path.name for path in paths] == ["IM0000.dcm", "IM0001.dcm"]
    slices = [pydicom.dcmread(path) for path in paths]
    for ds in slices:
        assert ds.SOPClassUID == pydicom.uid.CTImageStorage
        assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.Modality == "CT" and (ds.Rows, ds.Columns) == (512, 512)
        assert ds.pixel_array.dtype == np.int16 and ds.RescaleSlope == 1
        assert list(ds.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
        assert ds.PixelSpacing[0] == ds.PixelSpacing[1] == slices[0].PixelSpacing[0]
        assert ds.SOPInstanceUID.is_valid and ds.SeriesInstanceUID.is_valid
    assert len({ds.SOPInstanceUID for ds in slices}) == 2
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    assert [float(ds.ImagePositionPatient[2]) for ds in slices] == [0, -5]
    assert [ds.InstanceNumber for ds in slices] == [1, 2]


def test_series_is_one_patient_in_hounsfield_units(series):
    slices = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    hu = np.array([ds.pixel_array * float(ds.RescaleSlope) + ds.RescaleIntercept for ds in slices])
    assert np.median(hu[:, 0, 0]) == -1000
    assert 0 < np.median(hu[:, 200:300, 200:300]) < 250
    # Neighbouring outlines overlap nearly everywhere.
    body = hu > -300
    assert np.mean(body[0] ^ body[1]) < 0.1 * np.mean(body[0])


def test_series_repeats_whatever_the_count_and_jobs(series, tmp_path):
    simulate_series(tmp_path / "again", 1, seed=7, jobs=1)
    for path in sorted((tmp_path / "again").iterdir()):
        assert path.read_bytes() == (series / path.name).read_bytes()


@pytest.mark.parametrize(
    "count, seed, jobs, words",
    [(0, 1, 1, "count=0"), (1, -1, 1, "seed=-1"), (1, 1, 0, "jobs=0")],
    ids=["count", "seed", "jobs"],
)
def test_refuses_numbers_out_of_range(tmp_path, count, seed, jobs, words):
    with pytest.raises(InputError, match=words):
        simulate_folder(tmp_path / "x", count, seed, jobs=jobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [simulate_folder, simulate_series], ids=["folder", "series"])
def test_an_existing_folder_is_kept(tmp_path, write):
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="already exists; give force=True"):
        write(tmp_path, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(simulator.tif, "write_tif", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_folder(tmp_path / "x", 1, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["numba", "scipy", "skimage"])
def test_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"needs \S+, .*pip install \"clinreadnet\[simulate\]\""):
        simulate_folder(tmp_path / "x", 1, 1)


@pytest.mark.whole
def test_command_line(tmp_path):
    command = [sys.executable, "-m", "clinreadnet.cli", "simulate", "--out", str(tmp_path / "d")]
    command += ["--count", "1", "--seed", "3"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0 and first.stderr == "", first.stderr
    assert (tmp_path / "d" / "image" / "0000.tif").is_file()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert "--force" in second.stderr
    clash = subprocess.run(
        [*command, "--force", "--dicom", "--preview", "a.png"], capture_output=True, text=True
    )
    assert clash.returncode == 2 and "--preview" in clash.stderr
    assert (tmp_path / "d" / "image" / "0000.tif").is_file()
    third = subprocess.run([*command, "--force", "--dicom"], capture_output=True, text=True)
    assert third.returncode == 0
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["IM0000.dcm"]
