"""The operations of the network against PyTorch's counter and against numbers by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import roofline
from bench.measure.roofline import limit
from bench.report.tables import share_of_limit
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import LayerShape, Work
from clinreadnet.model.network import PRESETS, ClinReadNet, ClinReadNetConfig


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_operations_are_those_of_the_reference(preset: str) -> None:
    model = ClinReadNet(PRESETS[preset]).eval().to("meta")  # counts without computing
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(2, 1, 256, 256, device="meta"))
    # The reference makes its edges with a convolution: two 3x3 filters on every pixel.
    edges = 2 * 2 * 9 * 2 * 256**2
    work = roofline.network(PRESETS[preset], 2, "fp32", 0, side=256)
    assert work.flops == counter.get_total_flops() - edges


def test_one_window_by_hand() -> None:
    # 2x2 tokens, one head of two channels: 16 scores of 2 products each, then 4 x 2 sums of 4.
    work = OPS["window_attention"].work(LayerShape("", 2, 2, window=2, octaves=3), 1, 2)
    assert work.flops == 2 * (16 * 2 + 8 * 4)
    # qkv 4x6 and output 4x2 in float16; bias 4x4, one temperature, three gates in float32.
    assert work.bytes == 2 * (24 + 8) + 4 * (16 + 1 + 3)
    assert roofline.product(3, 5, 7, 4) == Work(210, 4 * (15 + 35 + 7 + 21))
    stem = OPS["sobel_stem"].work(LayerShape("", 4, 8), 1, 2)
    assert stem == Work(2 * 4 * 36 * 8, 4 * 16 + 2 * (4 * 8 + 36 * 8 + 8))


def test_weights_of_the_ops_are_the_networks() -> None:
    """A batch of none moves only parameters, all but the LayerNorms', and the novelty's whitening;
    attention's in float32."""
    config = ClinReadNetConfig()
    ops = roofline.ops(config, 0, "fp32")
    counted = sum(work.bytes for work in ops.values()) / 4
    model = ClinReadNet(config)
    parameters = sum(p.numel() for name, p in model.named_parameters() if "norm" not in name)
    tables = sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias_table"))
    gathered = sum(d * h * 64 * 64 for d, h in zip(config.depths, config.heads, strict=True))
    assert counted == parameters - tables + gathered + model.novelty.whitening.numel()


def test_the_limit_is_the_slower_of_both() -> None:
    work = Work(1e9, 1e6)
    assert limit(work, {"copy": 1e9, "fp32": 1e10}, "fp32") == pytest.approx(0.1)
    assert limit(work, {"copy": 1e6, "fp32": 1e12}, "fp32") == pytest.approx(1.0)
    # Where half precision is emulated a machine may compute in float32 instead.
    assert limit(work, {"copy": 1e9, "fp32": 1e10, "bf16": 1e9}, "bf16") == pytest.approx(0.1)
    assert limit(work, {"copy": 1e9, "fp32": 1e9, "bf16": 1e10}, "fp32") == pytest.approx(1.0)


def test_every_op_of_the_roofline_can_be_timed() -> None:
    pytest.importorskip("torch", reason="needs PyTorch")
    from bench.sweeps import ops

    with ops.torch.inference_mode():
        for name in ops.NAMES:
            ops.runner(name)()


def test_a_share_above_the_limit_is_not_printed() -> None:
    """The rate of a wider precision is no limit for 8-bit products."""
    assert [share_of_limit(percent) for percent in (37.6, 100.0, 138.2)] == ["38", "100", ""]
