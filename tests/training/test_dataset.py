import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.labelled_folder import make_labelled_folder

from clinreadnet.data.ldctiqa import LdctiqaFolder, write_labels
from clinreadnet.data.tif import write_tif
from clinreadnet.data.tiles import read_tiles, write_tiles
from clinreadnet.errors import InputError
from clinreadnet.simulator.simulate import simulate_anatomy
from clinreadnet.training.dataset import load_slices, split_by_anatomy
from clinreadnet.training.grouping import describe_groups, group_by_similarity, low_pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_labelled_folder(tmp_path_factory.mktemp("data") / "a")


def test_images_are_in_order_and_in_whole_hounsfield_units(folder: Path) -> None:
    slices = load_slices([folder])
    assert slices.hu.shape == (12, 512, 512) and slices.hu.dtype == np.int16
    np.testing.assert_array_equal(slices.scores, [4, 3, 2, 1] * 3)
    noise = slices.hu.std(axis=(1, 2))
    assert (np.argsort(noise[:4]) == np.arange(4)).all()


def test_no_anatomy_is_on_both_sides(folder: Path) -> None:
    training, held_out = split_by_anatomy(load_slices([folder]), 0.34, seed=0)
    assert len(training) == 8 and len(held_out) == 4
    assert not set(training.groups) & set(held_out.groups)


def test_thinning_keeps_every_anatomy(folder: Path) -> None:
    slices = load_slices([folder])
    few = slices.thinned(4)
    assert len(few) == 4 and set(few.groups) == set(slices.groups)
    assert len(slices.thinned(1000)) == len(slices)


def test_folders_keep_their_anatomies_apart(folder: Path, tmp_path: Path) -> None:
    other = make_labelled_folder(tmp_path / "b", seed=1)
    assert len(set(load_slices([folder, other]).groups)) == 6


def test_a_folder_named_twice_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="named twice"):
        load_slices([folder, folder / ".." / folder.name])


def test_phantoms_of_one_seed_are_refused(tmp_path: Path) -> None:
    folders = [make_labelled_folder(tmp_path / name, anatomies=1) for name in "abc"]
    for folder, seed in zip(folders, (7, 7, 8), strict=True):
        simulation = json.loads((folder / "simulation.json").read_text()) | {"seed": seed}
        if folder is folders[1]:
            simulation["breadth"] = "wide"
        (folder / "simulation.json").write_text(json.dumps(simulation))
    with pytest.raises(InputError, match=r"b: shows the anatomies of .*a, seed 7; simulate with"):
        load_slices(folders)
    slices = load_slices([folders[0], folders[2]])
    assert [source["seed"] for source in slices.sources] == [7, 8]
    # Scanned slices are told apart by their patients, not by the seed.
    simulation = json.loads((folders[1] / "simulation.json").read_text())
    for record in simulation["images"].values():
        record["slice"] = "IM1.dcm"
    (folders[1] / "simulation.json").write_text(json.dumps(simulation))
    assert len(load_slices(folders)) == 12


def test_every_folder_is_checked_before_the_first_image_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = make_labelled_folder(tmp_path / "bad", anatomies=1)
    (bad / "image" / "0002.tif").unlink()
    monkeypatch.setattr(LdctiqaFolder, "hu", lambda *a: pytest.fail("read"))
    with pytest.raises(InputError, match="1 labelled image is missing, first 0002.tif"):
        load_slices([folder, bad])


@pytest.mark.whole
def test_anatomies_are_found_from_the_images_of_a_simulated_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image").mkdir()
    truth, labels = [], {}
    for anatomy in range(2):
        for s in simulate_anatomy(3, anatomy, count=3).slices:
            name = f"{len(truth):04}.tif"
            write_tif(tmp_path / "image" / name, s.hu)
            labels[name] = 2.0
            truth.append(anatomy)
    write_labels(tmp_path, labels)
    assert load_slices([tmp_path]).groups.tolist() == truth
    assert "6 slices show 2 anatomies, of 3 to 3 slices (median 3)" in capsys.readouterr().err


def test_groups_are_numbered_by_their_first_slice() -> None:
    images = np.array([[50.0] * 4, [0.0] * 4, [55.0] * 4, [3.0] * 4, [100.0] * 4], np.float32)
    assert group_by_similarity(images, 10).tolist() == [0, 1, 0, 1, 2]
    assert group_by_similarity(images[:1]).tolist() == [0]
    assert group_by_similarity(np.array([[0.0] * 4, [9.0] * 4, [20.0] * 4])).tolist() == [0, 0, 1]
    assert describe_groups(np.array([0, 1, 0])) == "2 anatomies, of 1 to 2 slices (median 1.5)"


def test_low_pass_averages_and_clips() -> None:
    hu = np.full((512, 512), 40, np.int16)
    hu[:16, :16] = 1000
    hu[:16, 16:32:2] = 80
    blocks = low_pass(hu)
    assert blocks.shape == (1024,)
    assert blocks[:3].tolist() == [300, 60, 40]


def test_slices_without_tile_labels_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = make_labelled_folder(tmp_path / "some", tiles=True, anatomies=1)
    tiles = read_tiles(some, ["0000.tif", "0001.tif"])
    assert tiles is not None
    pairs = zip(tiles.quality, tiles.weight, strict=True)
    write_tiles(some, dict(zip(["0000.tif", "0001.tif"], pairs, strict=True)))
    slices = load_slices([folder, some])
    assert "2 of 4 slices have tile labels; the others" in " ".join(capsys.readouterr().err.split())
    labelled = slices.tiles_of(np.arange(16)).weight.any(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(labelled), [12, 13])
    load_slices([folder], quiet=True)


def test_views_of_a_patient_are_in_one_part_of_the_split(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "views", anatomies=4)
    path = folder / "simulation.json"
    content = json.loads(path.read_text())
    for record in content["images"].values():
        record["group"] = record["anatomy"] // 2
    path.write_text(json.dumps(content))
    assert len(set(load_slices([folder]).groups)) == 2


def test_denoised_copies_can_be_taken_more_often(folder: Path) -> None:
    slices = load_slices([folder])
    assert not slices.denoised.any()
    marked = replace(slices, denoised=np.arange(12) % 4 == 3)
    more = marked.with_denoised_repeated(3)
    assert len(more) == 9 + 3 * 3 and more.hu is slices.hu
    np.testing.assert_array_equal(more.rows[:6], [0, 1, 2, 3, 3, 3])
    assert more.with_denoised_repeated(1).rows.tolist() == more.rows.tolist()


def test_a_simulated_folder_says_which_slices_are_denoised(tmp_path: Path) -> None:
    folder = tmp_path / "simulated"
    (folder / "image").mkdir(parents=True)
    names = ("0000.tif", "0001.tif")
    for name in names:
        write_tif(folder / "image" / name, np.zeros((512, 512), np.float32))
    images = {
        name: {"anatomy": k, "denoiser": denoiser}
        for k, (name, denoiser) in enumerate(zip(names, (None, "nlm"), strict=True))
    }
    write_labels(folder, dict.fromkeys(names, 2.0), {"images": images})
    assert load_slices([folder]).denoised.tolist() == [False, True]
