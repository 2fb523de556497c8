import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from clinreadnet.training.augment import (
    MAX_DEGREES,
    ROTATED_SHARE,
    Draws,
    augment,
    augment_tiles,
    rotate,
)


def unlabelled(n: int) -> np.ndarray:
    return np.zeros((n, 16, 16), np.float32)


def turns(degrees: list[float], crop: int = 512, seed: int = 0) -> Draws:
    """Draw crops and flips, but turn each slice by so many degrees."""
    drawn = Draws.draw(np.random.default_rng(seed), unlabelled(len(degrees)), 512, crop)
    angles = torch.deg2rad(torch.tensor(degrees))
    return replace(drawn, turned=angles.nonzero()[:, 0], radians=angles[angles != 0])


def test_crops_and_flips_keep_every_pixel_value_and_its_neighbours() -> None:
    hu = torch.arange(512 * 512, dtype=torch.int32).reshape(1, 512, 512).repeat(50, 1, 1)
    jumps = set()
    for (crop,) in augment(hu, turns([0.0] * 50, crop=256)):
        jumps.add((int(crop[0, 1] - crop[0, 0]), int(crop[1, 0] - crop[0, 0])))
        assert crop.shape == (256, 256)
        assert crop.max() - crop.min() == 255 * 512 + 255
    assert jumps == {(1, 512), (-1, 512), (1, -512), (-1, -512)}


@pytest.mark.parametrize("labelled", [False, True])
def test_a_part_is_drawn_as_with_the_whole(labelled: bool) -> None:
    weight = unlabelled(8) + labelled
    whole, part = (
        Draws.draw(np.random.default_rng(0), weight, 512, 256, where)
        for where in (slice(None), slice(4, 8))
    )
    assert torch.equal(part.rows, whole.rows[4:]) and torch.equal(part.columns, whole.columns[4:])
    late = whole.turned >= 4
    assert torch.equal(part.turned, whole.turned[late] - 4)
    assert torch.equal(part.radians, whole.radians[late])


def test_a_share_of_the_slices_is_turned_a_little_either_way() -> None:
    drawn = Draws.draw(np.random.default_rng(0), unlabelled(2000), 512, 256)
    assert abs(len(drawn.turned) / 2000 - ROTATED_SHARE) < 0.05
    degrees = torch.rad2deg(drawn.radians)
    assert -MAX_DEGREES <= degrees.min() < -0.9 * MAX_DEGREES
    assert 0.9 * MAX_DEGREES < degrees.max() <= MAX_DEGREES


def test_a_turn_goes_where_it_should() -> None:
    y, x = torch.meshgrid(torch.arange(256.0) - 127.5, torch.arange(256.0) - 127.5, indexing="ij")
    angle = math.radians(5)

    def spot(row: float, column: float) -> torch.Tensor:
        return torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 18)

    turned = rotate(spot(20, 60)[None], torch.tensor([angle]))[0]
    row = math.sin(angle) * 60 + math.cos(angle) * 20
    column = math.cos(angle) * 60 - math.sin(angle) * 20
    assert (turned - spot(row, column)).abs().max() < 0.01


@pytest.mark.parametrize("degrees", [0.7, -5.0])
def test_a_turn_keeps_the_noise(degrees: float) -> None:
    # As fine as noise can be: interpolation would take most of it away.
    noise = 30 * torch.randn(1, 512, 512, generator=torch.Generator().manual_seed(0))
    turned = rotate(noise, torch.tensor([math.radians(degrees)]))
    assert float(turned.std() / noise.std()) == pytest.approx(1, abs=0.005)
    step = (turned[..., 1:] - turned[..., :-1]).std() / (noise[..., 1:] - noise[..., :-1]).std()
    assert float(step) == pytest.approx(1, abs=0.02)


def test_only_the_turned_slices_change() -> None:
    hu = torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(0))
    flipped = augment(hu, turns([0.0, 0.0, 0.0]))[:, 0]
    out = augment(hu, turns([0.0, 3.0, 0.0]))[:, 0]
    assert torch.equal(out[0], flipped[0]) and torch.equal(out[2], flipped[2])
    turned = hu.clone()
    turned[1] = rotate(hu[1:2], torch.tensor([math.radians(3)]))[0]
    torch.testing.assert_close(out, augment(turned, turns([0.0, 0.0, 0.0]))[:, 0])
    assert not torch.allclose(out[1], flipped[1])


@pytest.mark.parametrize("crop", [256, 512])
def test_tiles_go_with_their_pixels(crop: int) -> None:
    """An image whose pixels name their tile, after any crop, flip and transposition."""
    number = torch.arange(256.0).reshape(1, 16, 16).repeat(40, 1, 1)
    image = number.repeat_interleave(32, 1).repeat_interleave(32, 2)
    drawn = Draws.draw(np.random.default_rng(1), np.ones((40, 16, 16), np.float32), 512, crop)
    assert not len(drawn.turned) and drawn.transposed.any() and not drawn.transposed.all()
    pixels = augment(image, drawn)[:, 0]
    tiles = augment_tiles(number, drawn)
    assert tiles.shape == (40, crop // 32, crop // 32)
    assert torch.equal(pixels, tiles.repeat_interleave(32, 1).repeat_interleave(32, 2))


def test_crops_show_some_body() -> None:
    weight = np.zeros((60, 16, 16), np.float32)
    weight[:, 8:, 8:] = 1
    drawn = Draws.draw(np.random.default_rng(2), weight, 512, 256)
    tiles = augment_tiles(torch.from_numpy(weight), drawn)
    assert (tiles.mean(dim=(1, 2)) >= 0.15).float().mean() > 0.9
