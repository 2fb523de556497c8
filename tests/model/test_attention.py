import torch
import torch.nn.functional as F

from clinreadnet.model.attention import (
    LayerNorm,
    MultiTemperatureAttention,
    relative_position_index,
)


def test_relative_position_index_depends_on_the_offset_alone() -> None:
    window = 3
    index = relative_position_index(window).reshape(window, window, window, window)
    # One step right: the same row of the table wherever the pair stands.
    assert len({int(index[y, x, y, x + 1]) for y in range(3) for x in range(2)}) == 1
    assert index[0, 1, 0, 0] != index[0, 0, 0, 1]
    assert index.unique().tolist() == list(range((2 * window - 1) ** 2))


def test_starts_as_a_mixture_around_ordinary_attention() -> None:
    layer = MultiTemperatureAttention(dim=8, heads=2, window=4, shift=0, octaves=3)
    torch.testing.assert_close(layer.log_inv_temperature.exp(), torch.full((2,), 0.5))
    torch.testing.assert_close(layer.gate_logits.softmax(-1), torch.full((2, 3), 1 / 3))


def test_one_octave_is_plain_window_attention() -> None:
    torch.manual_seed(0)
    layer = MultiTemperatureAttention(dim=8, heads=2, window=4, shift=0, octaves=1).double()
    x = torch.randn(2, 4, 4, 8, dtype=torch.float64)
    q, k, v = layer.qkv(x).reshape(2, 16, 3, 2, 4).permute(2, 0, 3, 1, 4)
    bias = layer.bias_table[layer.relative_index].permute(2, 0, 1)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    expected = layer.projection(expected.transpose(1, 2).reshape(2, 4, 4, 8))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-12)


def test_layer_norm_statistics_are_float32() -> None:
    """Values whose square overflows half precision."""
    x = torch.tensor([[300.0, -300.0, 600.0, -600.0]], dtype=torch.float16)
    out = LayerNorm(4).half()(x)
    torch.testing.assert_close(out.float(), F.layer_norm(x.float(), (4,)), rtol=1e-3, atol=0)
