"""Wide data: what it draws, with which shares, and that standard data stays what it is."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.errors import InputError
from clinreadnet.simulator import breadth
from clinreadnet.simulator.breadth import VIEW_SETS, another_field, draw_wide, thick_phantom
from clinreadnet.simulator.denoise import DENOISERS
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.scan import VIEWS, Protocol, draw_protocol
from clinreadnet.simulator.simulate import WIDE, simulate_anatomy, simulate_folder

SEED, COUNT = 21, 16


@pytest.fixture(scope="module")
def phantom():
    return draw_phantom(3, 2, 0.4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("wide") / "data"
    simulate_folder(path, COUNT, SEED, breadth=WIDE)
    return path


@pytest.fixture(scope="module")
def records(folder):
    return json.loads((folder / "simulation.json").read_text())["images"]


REDRAWN = {
    "noise_hu": {"rtol": 0.11},
    "streak_hu": {"atol": 0.17},
    "edge_loss": {"atol": 0.018},
    "detail_loss": {"atol": 0.081},
}
"""Largest differences of the measurements when all photon counts of the anatomy are drawn anew
(expected counts that were 1e-6, 1e-5 and 1e-4 larger)."""


def test_standard_images_are_those_that_were_recorded():
    """On another kind of processor the projections round otherwise. Where a count is therefore
    drawn otherwise, the counts of the image after it are others too: with AVX2, in 4 of these 16.
    """
    path = Path(__file__).with_name("simulated_measurements.json")
    recorded = json.loads(path.read_text())
    made = [part.made for part in simulate_anatomy(1, 0).slices]
    for key in ("noise_hu", "streak_hu", "edge_loss", "detail_loss"):
        measured = [getattr(degradation, key) for degradation in made]
        expected = recorded[key][: len(made)]
        same = np.isclose(measured, expected, rtol=0, atol=0.006)
        assert same.mean() > 0.5, f"{key}: {measured}"
        np.testing.assert_allclose(measured, expected, err_msg=key, **{"rtol": 0, **REDRAWN[key]})
    assert [degradation.source for degradation in made] == recorded["denoised_from"][: len(made)]


def test_standard_draws_are_those_of_before():
    protocol = draw_protocol(np.random.default_rng(7))
    noise = (8.960413539347845, 27.5412327609792, 40.80370392584976, 59.137023933338824)
    assert protocol.noise_hu == pytest.approx(noise, rel=1e-12)
    kernel = (0.649923622572223, 1.8308228282942323, 0.18009977094673527)
    drawn = (protocol.kernel.cutoff, protocol.kernel.power, protocol.kernel.boost)
    assert drawn == pytest.approx(kernel, rel=1e-12)
    assert protocol.views == VIEWS == (720, 240, 120)
    assert protocol.denoisers == ("nlm", "bilateral") * 2


def test_a_folder_says_that_it_is_wide(folder, records, tmp_path):
    opened = read_ldctiqa(folder)
    assert opened.breadth == "wide" and len(opened) == COUNT
    keys = {"kernel", "metal", "thickness_mm"}
    assert all(keys <= record.keys() for record in records.values())
    simulate_folder(tmp_path / "standard", 1, SEED)
    plain = json.loads((tmp_path / "standard" / "simulation.json").read_text())
    assert "breadth" not in plain and not keys & plain["images"]["0000.tif"].keys()
    assert read_ldctiqa(tmp_path / "standard").breadth == "standard"
    # The patient is the same.
    for key in ("anatomy", "phase", "level"):
        assert plain["images"]["0000.tif"][key] == records["0000.tif"][key]


@pytest.mark.whole
def test_an_image_depends_on_neither_the_count_nor_the_others(folder, records, tmp_path):
    simulate_folder(tmp_path / "fewer", 2, SEED, breadth=WIDE)
    for name in ("0000.tif", "0001.tif"):
        ours = (tmp_path / "fewer" / "image" / name).read_bytes()
        assert ours == (folder / "image" / name).read_bytes()


def test_a_wide_copy_is_never_better_than_its_source(folder, records):
    copies = [record for record in records.values() if record["denoiser"]]
    assert len({copy["denoiser"] for copy in copies}) == 4
    for copy in copies:
        source = records[copy["denoised_from"]]
        assert copy["quality"] <= source["quality"] and copy["noise_hu"] < source["noise_hu"]
    tiles = np.load(folder / "tiles.npz")
    quality = dict(zip(tiles["names"], tiles["quality"], strict=True))
    for name, record in records.items():
        if record["denoiser"]:
            assert (quality[name] <= quality[record["denoised_from"]]).all()


def test_shares(phantom, monkeypatch):
    monkeypatch.setattr(breadth, "draw_metal", lambda kind, *arguments: kind)
    monkeypatch.setattr(breadth, "draw_phantom", lambda *arguments: phantom)
    monkeypatch.setattr(breadth, "thick_phantom", lambda phantom, *arguments: phantom)
    fields = []
    monkeypatch.setattr(breadth, "another_field", lambda p, rng: fields.append(1) or p)
    count = 2000
    draws = [draw_wide(None, Protocol(), 0, k, np.random.default_rng((5, k))) for k in range(count)]
    # Three standard deviations of a share of 2000 draws are at most 0.034.
    near = {"abs": 0.035}
    shares = Counter(draw.metal for draw in draws)
    assert shares["clips"] / count == pytest.approx(1 / 8, **near)
    assert shares["screws"] / count == pytest.approx(1 / 12, **near)
    views = Counter(draw.protocol.views for draw in draws)
    assert {key: views[key] / count for key in VIEW_SETS} == pytest.approx(
        dict.fromkeys(VIEW_SETS, 1 / 3), **near
    )
    denoisers = Counter(name for draw in draws for name in draw.protocol.denoisers)
    assert denoisers.keys() == DENOISERS.keys()
    assert all(n / count == pytest.approx(0.8, **near) for n in denoisers.values())
    cutoffs = np.array([draw.protocol.kernel.cutoff for draw in draws])
    assert np.mean(cutoffs < 0.34) == pytest.approx(1 / 3, **near)
    assert np.mean(cutoffs > 0.70) == pytest.approx(1 / 3, **near)
    thick = [draw.thickness_mm for draw in draws if draw.thickness_mm is not None]
    assert len(thick) / count == pytest.approx(0.5, **near)
    assert 5 <= min(thick) < 5.2 and 9.8 < max(thick) <= 10
    assert len(fields) / count == pytest.approx(0.5, **near)
    assert all(draw.protocol.noise_hu == Protocol().noise_hu for draw in draws)


def test_a_scanned_slice_keeps_its_pixels(phantom):
    for seed in range(4):
        drawn = draw_wide(phantom, Protocol(), 0, 0, np.random.default_rng(seed))
        assert drawn.clean is phantom and drawn.thickness_mm is None


@pytest.mark.whole
def test_a_slice_without_a_scan_gets_no_metal(phantom, monkeypatch):
    monkeypatch.setattr(breadth, "_METAL_SHARES", {"clips": 1.0})
    scanned, original = (
        simulate_anatomy(5, 1, 1, clean=phantom, original=original, breadth=WIDE)
        for original in (False, True)
    )
    assert scanned.wide["metal"] == "clips" and scanned.slices[0].made.streak_hu > 0
    assert original.wide["metal"] is None and original.slices[0].hu is phantom.hu
    assert original.slices[0].made.streak_hu == 0


@pytest.mark.whole
def test_a_thick_phantom_is_the_mean_of_thin_ones(phantom):
    thick = thick_phantom(phantom, 3, 2, 5.0)
    around = [draw_phantom(3, 2, 0.4 + offset / 360) for offset in (-2.5, 0.0, 2.5)]
    expected = np.mean([plane.hu for plane in around], axis=0)
    np.testing.assert_allclose(thick.hu, expected, atol=1e-2)
    assert (thick.body == phantom.body).mean() > 0.99 and thick.tissue.any()
    # Steep borders of what moves between the planes become shallow.
    steps = [
        np.abs(np.diff(slice_.hu[thick.body.any(axis=1)], axis=1)) for slice_ in (phantom, thick)
    ]
    assert np.quantile(steps[1], 0.99) < np.quantile(steps[0], 0.99)


def test_another_field_keeps_the_millimetres(phantom):
    area = phantom.body.sum() * phantom.pixel_mm**2
    fields = []
    for seed in range(6):
        seen = another_field(phantom, np.random.default_rng(seed))
        fields.append(512 * seen.pixel_mm)
        assert seen.hu.dtype == np.float32 and seen.structure is seen.hu
        assert not (seen.body & (seen.hu < -500)).sum() > 0.1 * seen.body.sum()
        if fields[-1] > 1.15 * np.ptp(np.nonzero(phantom.body.any(axis=0))[0]) * phantom.pixel_mm:
            assert seen.body.sum() * seen.pixel_mm**2 == pytest.approx(area, rel=0.08)
    assert 200 <= min(fields) < max(fields) <= 650 and max(fields) > 1.3 * min(fields)


def test_a_field_that_cuts_the_body_becomes_no_wider(phantom):
    close = another_field(phantom, np.random.default_rng(0))
    body_mm = np.ptp(np.nonzero(phantom.body.any(axis=0))[0]) * phantom.pixel_mm
    cut = breadth.draw_view(phantom.pixel_mm, body_mm, np.random.default_rng(0), (200, 205), 0.6)
    body = cut.of(phantom.body.astype(np.float32), outside=0.0) > 0.5
    small = breadth.replace(close, pixel_mm=cut.pixel_mm, body=body & ~breadth.outside_circle())
    for seed in range(5):
        seen = another_field(small, np.random.default_rng(seed))
        assert seen.pixel_mm <= small.pixel_mm * 1.0001


def test_refuses_another_breadth(tmp_path):
    with pytest.raises(InputError, match="breadth=narrow: choose standard or wide"):
        simulate_folder(tmp_path / "x", 1, 1, breadth="narrow")
    assert not list(tmp_path.iterdir())
