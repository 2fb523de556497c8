"""The check of every candidate against the reference, on the kernels themselves."""

import importlib
import importlib.util
from dataclasses import replace

import pytest
import torch

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton"),
]


@pytest.mark.parametrize(
    ("keys", "candidate"),
    [
        pytest.param(
            ("sobel_stem", "float16", "16"),
            {"block_h": 2, "block_w": 8, "num_warps": 4},
            id="stem",
        ),
        pytest.param(
            ("window_attention", "float16", "32"), {"block_m": 16, "num_warps": 1}, id="attention"
        ),
        pytest.param(
            ("attention_block", "float16", "48"),
            {"num_warps": 2, "stages": 1},
            id="attention-block",
        ),
        pytest.param(
            ("mlp", "float16", "48"),
            {"block_m": 32, "block_hidden": 64, "num_warps": 4, "stages": 1},
            id="mlp",
        ),
        pytest.param(
            ("fused_linear", "float16", "plain", "small"),
            {"block_m": 64, "block_n": 32, "block_k": 64, "num_warps": 4, "stages": 1},
            id="fused-linear",
        ),
    ],
)
def test_candidates_launch_and_wrong_ones_are_dropped(
    monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...], candidate: dict[str, int]
) -> None:
    from clinreadnet.kernels import launch
    from clinreadnet.kernels.registry import OPS
    from clinreadnet.tuning import tunable as entries
    from clinreadnet.tuning import tune

    spec = OPS[keys[0]]
    entry = spec.tuning(*keys[1:])
    name, dtype, shape = next(timed for timed in entry.timed if timed[1] == "float16")
    # One window on each side, or 32 pixels.
    shape = replace(shape, side=32 if shape.window == 1 else shape.window)
    entry = replace(entry, timed=((name, dtype, shape),))
    (example,) = entries.examples_of(spec, entry, torch.device("cpu"), batch=1)
    expected = example.op([tensor.double() for tensor in example.tensors], "reference")
    used = []
    original = launch.launch_config

    def watched(*arguments: object) -> dict[str, object]:
        used.append(original(*arguments))
        return used[-1]

    for op in OPS:
        module = importlib.import_module(f"clinreadnet.kernels.ops.{op}.kernel")
        monkeypatch.setattr(module, "launch_config", watched)
    with launch.trial(candidate, *keys):
        assert tune.wrong(example, expected) is None
        assert used == [candidate]
        assert "wrong on" in str(tune.wrong(example, expected * 1.1))
