import json
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from scipy.stats import spearmanr

from clinreadnet.data import simulate as simulator
from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.data.readers import CHALLENGE_LABELS
from clinreadnet.data.simulate import simulate_anatomy, simulate_folder, simulate_series
from clinreadnet.errors import InputError

SEED = 20
COUNT = 144


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


def test_labels_are_distributed_like_the_challenges(simulated):
    steps = np.rint(read_ldctiqa(simulated).scores * 5).astype(int)
    ours = np.cumsum(np.bincount(steps, minlength=21)) / len(steps)
    real = np.cumsum(CHALLENGE_LABELS) / 1000
    # Few anatomies; test_readers holds a thousand slices to 0.1.
    assert np.abs(ours - real).max() <= 0.2


def test_readers_agree_like_radiologists(records):
    votes = np.array([record["votes"] for record in records.values()])
    for reader in range(5):
        others = np.delete(votes, reader, axis=1).mean(axis=1)
        assert 0.88 < spearmanr(votes[:, reader], others).statistic < 0.96


def test_noise_spans_that_of_the_challenge(records):
    noise = np.array([record["noise_hu"] for record in records.values()])
    low, high = np.percentile(noise, [2, 98])
    assert 8 < low < 18 and 95 < high < 150


def test_worse_slices_get_lower_labels(records):
    quality = [record["quality"] for record in records.values()]
    noise = [record["noise_hu"] for record in records.values()]
    score = [record["score"] for record in records.values()]
    assert spearmanr(quality, score).statistic > 0.95
    assert spearmanr(noise, score).statistic < -0.85


def test_neither_count_nor_jobs_change_an_image(simulated, tmp_path):
    simulate_folder(tmp_path / "fewer", 14, SEED, jobs=1)
    labels = json.loads((tmp_path / "fewer" / "train.json").read_text())
    expected = json.loads((simulated / "train.json").read_text())
    assert list(labels) == [f"{k:04d}.tif" for k in range(14)]
    for name, score in labels.items():
        assert score == expected[name]
        ours = (tmp_path / "fewer" / "image" / name).read_bytes()
        assert ours == (simulated / "image" / name).read_bytes()


def test_simulate_anatomy_is_what_the_folder_holds(simulated, records):
    made = simulate_anatomy(SEED, 1, count=2)
    assert made.clean.shape == (512, 512) and made.clean.dtype == np.float32
    opened = read_ldctiqa(simulated)
    for k, part in enumerate(made.slices):
        assert part.hu.dtype == np.float32
        np.testing.assert_allclose(opened.hu(12 + k), np.clip(part.hu, -1000, 400), atol=2e-4)
        record = records[f"{12 + k:04d}.tif"]
        assert record.items() >= part.record().items()


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series") / "ct"
    simulate_series(folder, 3, seed=7, jobs=2)
    return folder


def test_series_headers(series):
    paths = sorted(series.iterdir())
    assert [path.name for path in paths] == ["IM0000.dcm", "IM0001.dcm", "IM0002.dcm"]
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
    assert len({ds.SOPInstanceUID for ds in slices}) == 3
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    assert [float(ds.ImagePositionPatient[2]) for ds in slices] == [0, -5, -10]
    assert [ds.InstanceNumber for ds in slices] == [1, 2, 3]


def test_series_is_one_patient_in_hounsfield_units(series):
    slices = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    hu = np.array([ds.pixel_array * float(ds.RescaleSlope) + ds.RescaleIntercept for ds in slices])
    assert np.median(hu[:, 0, 0]) == -1000
    assert 0 < np.median(hu[:, 200:300, 200:300]) < 250
    # Neighbouring outlines overlap nearly everywhere.
    body = hu > -300
    assert np.mean(body[0] ^ body[1]) < 0.1 * np.mean(body[0])


def test_series_repeats_whatever_the_count_and_jobs(series, tmp_path):
    simulate_series(tmp_path / "again", 2, seed=7, jobs=1)
    for path in sorted((tmp_path / "again").iterdir()):
        assert path.read_bytes() == (series / path.name).read_bytes()


@pytest.mark.parametrize(
    "count, seed, jobs, words",
    [(0, 1, 1, "--count 0"), (1, -1, 1, "--seed -1"), (1, 1, 0, "--jobs 0")],
    ids=["count", "seed", "jobs"],
)
def test_refuses_numbers_out_of_range(tmp_path, count, seed, jobs, words):
    with pytest.raises(InputError, match=words):
        simulate_folder(tmp_path / "x", count, seed, jobs=jobs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [simulate_folder, simulate_series], ids=["folder", "series"])
def test_an_existing_folder_is_kept(tmp_path, write):
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="already exists; use --force"):
        write(tmp_path, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(simulator.ldctiqa, "write_tif", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_folder(tmp_path / "x", 1, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["numba", "scipy"])
def test_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"{missing}.*pip install \"clinreadnet\[simulate\]\""):
        simulate_folder(tmp_path / "x", 1, 1)


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "clinreadnet.cli", "simulate", "--out", str(tmp_path / "d")]
    command += ["--count", "1", "--seed", "3"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0 and first.stdout == "", first.stderr
    assert (tmp_path / "d" / "image" / "0000.tif").is_file()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert "--force" in second.stderr
    third = subprocess.run([*command, "--force", "--dicom"], capture_output=True, text=True)
    assert third.returncode == 0
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["IM0000.dcm"]
