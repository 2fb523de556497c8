import copy

import pytest
import torch

from clinreadnet.errors import InputError
from clinreadnet.model.network import PRESETS, ClinReadNet, ClinReadNetConfig
from clinreadnet.model.soqn import Prediction, encode


@pytest.fixture(scope="module")
def tiny() -> ClinReadNet:
    torch.manual_seed(0)
    model = ClinReadNet(PRESETS["tiny"]).eval()
    with torch.no_grad():  # spread the votes, so that outputs differ between slices
        model.head.vote.weight.mul_(20)
    return model


def slices(batch: int, size: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, size, size, generator=generator) * 300


@pytest.mark.parametrize("preset", list(PRESETS))
def test_shapes_and_ranges(preset: str) -> None:
    model = ClinReadNet(ClinReadNetConfig.from_preset(preset)).eval()
    with torch.inference_mode():
        out = model(slices(2))
    assert out.score.shape == (2,)
    assert out.probs.shape == (2, 21)
    assert out.quality_map.shape == (2, 8, 8)
    torch.testing.assert_close(out.probs.sum(-1), torch.ones(2))
    assert ((out.score >= 0) & (out.score <= 4)).all()
    assert ((out.quality_map >= 0) & (out.quality_map <= 4)).all()


def test_full_size_quality_map(tiny: ClinReadNet) -> None:
    with torch.inference_mode():
        assert tiny(slices(1, 512)).quality_map.shape == (1, 16, 16)


def test_presets_have_the_documented_size() -> None:
    millions = {
        name: round(sum(p.numel() for p in ClinReadNet(config).parameters()) / 1e6, 1)
        for name, config in PRESETS.items()
    }
    assert millions == {"tiny": 1.5, "small": 7.0, "base": 27.7}


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="known: tiny, small, base"):
        ClinReadNetConfig.from_preset("huge")


def test_encode_clips_and_scales() -> None:
    hu = torch.tensor([-3024.0, -1000.0, -300.0, 400.0, 3000.0])
    torch.testing.assert_close(encode(hu), torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))
    assert encode(hu.half()).dtype == torch.float32


def test_slices_do_not_influence_each_other(tiny: ClinReadNet) -> None:
    hu = slices(3).double()
    model = copy.deepcopy(tiny).double()
    with torch.inference_mode():
        together = model(hu)
        alone = model(hu[1:2])
    torch.testing.assert_close(together.probs[1:2], alone.probs, rtol=1e-12, atol=1e-12)
    assert (together.score - together.score[0]).abs()[1:].min() > 1e-6


def test_gradients_are_finite_on_a_constant_image() -> None:
    model = ClinReadNet(PRESETS["tiny"])
    model(torch.zeros(1, 1, 256, 256)).score.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("dtype", "budget"),
    [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 3e-2)],
    ids=["float32", "float16", "bfloat16"],
)
def test_precisions_against_float64(tiny: ClinReadNet, dtype: torch.dtype, budget: float) -> None:
    """The budgets are those an exported artifact must keep."""
    model = copy.deepcopy(tiny).to(dtype)
    oracle = copy.deepcopy(model).double()  # the same rounded weights
    with torch.inference_mode():
        out, reference = model(slices(2)), oracle(slices(2))
    for name, a, b in zip(Prediction._fields, out, reference, strict=True):
        assert a.dtype == torch.float32, name
        assert ((a - b).norm() / b.norm()).item() < budget, name


def test_compiles_without_graph_breaks(tiny: ClinReadNet) -> None:
    # Static shapes: the shapes of other tests in this process would make them symbolic, and slow.
    compiled = torch.compile(tiny, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(slices(1)).probs, tiny(slices(1)).probs)


def test_exports_with_dynamic_batch(tiny: ClinReadNet) -> None:
    program = torch.export.export(
        tiny, (slices(2),), dynamic_shapes={"hu": {0: torch.export.Dim("batch", min=1, max=64)}}
    )
    for batch in (1, 3):
        with torch.no_grad():
            exported = program.module()(slices(batch))
            torch.testing.assert_close(exported.probs, tiny(slices(batch)).probs)
