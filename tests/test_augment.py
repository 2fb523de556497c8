import math

import numpy as np
import pytest
import torch

from clinreadnet.augment import MAX_DEGREES, ROTATED_SHARE, Draws, augment, rotate


def unturned(n: int, rng: np.random.Generator, crop: int) -> Draws:
    draws = Draws.draw(rng, n, 512, crop)
    return Draws(np.zeros(n, np.float32), draws.flips, draws.corners)


def test_crops_and_flips_keep_every_pixel_value_and_its_neighbours() -> None:
    hu = torch.arange(512 * 512, dtype=torch.int32).reshape(1, 512, 512).repeat(50, 1, 1)
    seen = set()
    for (crop,) in augment(hu, unturned(50, np.random.default_rng(0), 256), 256):
        seen.add((int(crop[0, 1] - crop[0, 0]), int(crop[1, 0] - crop[0, 0])))
        assert crop.shape == (256, 256)
        assert crop.max() - crop.min() == 255 * 512 + 255
    assert seen == {(1, 512), (-1, 512), (1, -512), (-1, -512)}


def test_whole_slices_are_only_flipped_and_turned() -> None:
    draws = Draws(np.zeros(2, np.float32), np.array([[0, 0], [1, 0]], bool), np.zeros((2, 2), int))
    hu = torch.randn(2, 512, 512)
    out = augment(hu, draws, 512)
    assert torch.equal(out[0, 0], hu[0]) and torch.equal(out[1, 0], hu[1].flip(0))


def test_a_share_of_the_slices_is_turned_a_little_either_way() -> None:
    degrees = Draws.draw(np.random.default_rng(0), 2000, 512, 256).degrees
    assert abs(np.mean(degrees != 0) - ROTATED_SHARE) < 0.05
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
    hu = torch.randn(3, 512, 512)
    flips, corners = np.zeros((3, 2), bool), np.zeros((3, 2), int)
    out = augment(hu, Draws(np.array([0, 3, 0], np.float32), flips, corners), 512)[:, 0]
    assert torch.equal(out[0], hu[0]) and torch.equal(out[2], hu[2])
    assert not torch.allclose(out[1], hu[1])
    torch.testing.assert_close(out[1], rotate(hu[1:2], torch.tensor([math.radians(3)]))[0])
