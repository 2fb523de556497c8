"""The stem's statistics, the novelty and the head, against NumPy."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from clinreadnet.model.network import PRESETS, ClinReadNet
from clinreadnet.model.soqn import (
    MIXTURE_EPS,
    Novelty,
    OrdinalHead,
    SobelStem,
    TileStatistics,
    encode,
)


def slices(batch: int) -> torch.Tensor:
    return torch.randn(batch, 1, 256, 256, generator=torch.Generator().manual_seed(0)) * 300


def test_calibration_standardises_the_statistics() -> None:
    torch.manual_seed(0)
    model = ClinReadNet(PRESETS["tiny"]).double()
    # Slices that differ in noise, so that every statistic differs.
    hu = slices(6).double() * torch.arange(1, 7)[:, None, None, None] / 6
    model.calibrate(hu)
    with torch.no_grad():
        statistics = model.statistics(model.stem(encode(hu)))
    assert statistics.shape == (6, 8, 8, 2 * model.config.embed_dim)
    flat = statistics.flatten(0, 2)
    torch.testing.assert_close(flat.mean(0), torch.zeros_like(flat[0]))
    deviation = flat.std(0, correction=0)
    assert ((deviation > 0.5) & (deviation <= 1)).all(), "the least deviation shrinks it a little"


def test_tile_statistics_are_means_and_deviations() -> None:
    tokens = torch.randn(2, 16, 24, 3, dtype=torch.float64)
    raw = TileStatistics(3).raw(tokens).numpy()
    assert raw.shape == (2, 2, 3, 6)
    for b in range(2):
        for i in range(2):
            for j in range(3):
                tile = tokens[b, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].reshape(64, 3).numpy()
                np.testing.assert_allclose(raw[b, i, j, :3], tile.mean(0), rtol=1e-12, atol=1e-12)
                deviation = np.log(tile.var(0) + 1e-4) / 2
                np.testing.assert_allclose(raw[b, i, j, 3:], deviation, rtol=1e-12, atol=1e-12)


def test_tile_statistics_keep_their_digits_in_float32() -> None:
    torch.manual_seed(0)
    statistics = TileStatistics(48)
    tokens = torch.randn(2, 64, 64, 48)
    tokens[:, :57] = tokens[:, :1, :1]  # air: equal summands round to the same side
    error = (statistics.raw(tokens) - copy.deepcopy(statistics).double().raw(tokens.double())).abs()
    # A variance of 0 comes out as the square of a rounding; its logarithm is that of the epsilon.
    assert error.max() < 64 * torch.finfo(torch.float32).eps


def test_novelty_is_a_mahalanobis_distance() -> None:
    torch.manual_seed(0)
    novelty = Novelty(3).double()
    usual = torch.randn(4000, 4, 5, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    summaries = novelty.summary(usual)
    novelty.fit(summaries, shrinkage=0.0)
    distances = novelty(usual[:50]).numpy()
    mean, inverse = summaries.mean(0).numpy(), np.linalg.inv(np.cov(summaries.T, bias=True))
    for summary, distance in zip(summaries[:50].numpy(), distances, strict=True):
        expected = np.sqrt((summary - mean) @ inverse @ (summary - mean) / 6)
        assert distance == pytest.approx(expected, rel=1e-6)
    assert novelty(usual).square().mean().item() == pytest.approx(1, rel=1e-6)
    assert novelty(usual[:1] * 3 + 5) > 3


def test_an_unfitted_novelty_marks_nothing() -> None:
    assert Novelty(2).threshold == float("inf")


def test_the_image_starts_as_the_mixture_of_its_tiles() -> None:
    torch.manual_seed(0)
    model = ClinReadNet(PRESETS["tiny"]).double().eval()
    with torch.no_grad():
        prediction, tiles = model.predict(slices(2).double())
    mixture = (tiles.weights[..., None] * tiles.votes).sum(1) + MIXTURE_EPS
    torch.testing.assert_close(prediction.probs, mixture / mixture.sum(-1, keepdim=True))
    torch.testing.assert_close(tiles.weights.sum(-1), torch.ones(2, dtype=torch.float64))
    grades = torch.arange(21, dtype=torch.float64) * 0.2
    torch.testing.assert_close(prediction.quality_map, (tiles.votes @ grades).reshape(2, 8, 8))
    torch.testing.assert_close(prediction.score, prediction.probs @ grades)


def test_nothing_reaches_the_score_but_through_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = ClinReadNet(PRESETS["tiny"]).eval()
    for parameter in model.head.image.parameters():
        torch.nn.init.normal_(parameter)
    monkeypatch.setattr(model, "attend", lambda x: torch.zeros(len(x), 8, 8, 256))
    with torch.no_grad():
        prediction = model(slices(3))
    assert prediction.score.std() < 1e-6 and prediction.quality_map.std() < 1e-6


def test_a_temperature_widens_the_distribution_and_not_the_map() -> None:
    torch.manual_seed(0)
    head, x = OrdinalHead(16).eval(), torch.randn(2, 4, 4, 16)
    with torch.no_grad():
        _, sharp, map_, _ = head(x)
        head.temperature.fill_(3.0)
        _, wide, same, _ = head(x)
    assert (wide.max(-1).values < sharp.max(-1).values).all() and torch.equal(map_, same)


def test_the_tokens_features_move_the_image_once_the_mlp_is_trained() -> None:
    torch.manual_seed(0)
    head, x = OrdinalHead(16).eval(), torch.randn(2, 4, 4, 16)
    torch.nn.init.normal_(head.image[-1].weight)
    with torch.no_grad():
        _, probs, _, tiles = head(x)
    mixture = (tiles.weights[..., None] * tiles.votes).sum(1)
    assert not torch.allclose(probs, mixture, atol=1e-2)


def test_without_sobel_the_stem_sees_the_image_alone() -> None:
    torch.manual_seed(0)
    full, plain = (SobelStem(16, "reference", use_sobel=sobel) for sobel in (True, False))
    assert plain.conv1.weight.shape == (8, 1, 3, 3)
    x = torch.rand(1, 1, 64, 96)
    assert plain(x).shape == full(x).shape
    # A flat image passes with the gain of any convolution, differences with that of edges.
    weight = plain.conv1.weight.detach()
    assert weight.mean(dim=(2, 3)).abs().max() < 1 / 3 < weight.abs().max()


def test_without_attention_the_blocks_mlps_are_left() -> None:
    tiny = PRESETS["tiny"]
    full, plain = (ClinReadNet(replace(tiny, use_attention=a)) for a in (True, False))
    names = {name for name, _ in plain.named_parameters()}
    assert names < {name for name, _ in full.named_parameters()}
    assert not any("attention" in name or "norm1" in name for name in names)
    with torch.no_grad():
        assert plain(slices(1)).quality_map.shape == (1, 8, 8)


def test_linear_layers_start_with_the_root_of_their_inputs() -> None:
    torch.manual_seed(0)
    mlp = ClinReadNet(PRESETS["small"]).get_submodule("stages.0.0.mlp")
    first, last = (mlp.get_submodule(name).get_parameter("weight") for name in ("0", "2"))
    assert first.std().item() == pytest.approx(48**-0.5, rel=0.15)
    assert last.std().item() == pytest.approx(192**-0.5 / 2, rel=0.15)
