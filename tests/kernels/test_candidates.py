"""The check of every candidate against the reference, on the kernels themselves."""

import importlib.util

import pytest
import torch

pytestmark = [
    pytest.mark.interpret,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton"),
]


@pytest.mark.parametrize(
    ("keys", "candidate"),
    [
        pytest.param(("sobel_stem", "16"), {"block_h": 2, "block_w": 8, "num_warps": 4}, id="stem"),
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
    ],
)
def test_candidates_launch_and_wrong_ones_are_dropped(
    monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...], candidate: dict[str, int]
) -> None:
    from clinreadnet.kernels import launch
    from clinreadnet.kernels.ops.attention_block import kernel as attention_block_triton
    from clinreadnet.kernels.ops.mlp import kernel as mlp_triton
    from clinreadnet.kernels.ops.sobel_stem import kernel as sobel_stem_triton
    from clinreadnet.kernels.ops.window_attention import kernel as window_attention_triton
    from clinreadnet.tuning import tunable as entries
    from clinreadnet.tuning import tune

    monkeypatch.setattr(entries, "SIZE", 32)
    monkeypatch.setattr(entries, "BATCH", 1)
    monkeypatch.setattr(entries, "STAGES", 1)
    monkeypatch.setattr(entries, "DTYPES", {"float16": "fp16"})
    tunable = entries.TUNABLE[keys[0]](*keys[1:])
    (example,) = tunable.examples(torch.device("cpu"))
    expected = example.op([tensor.double() for tensor in example.tensors], "reference")
    used = []
    original = launch.launch_config

    def watched(*arguments: object) -> dict[str, object]:
        used.append(original(*arguments))
        return used[-1]

    for module in (
        attention_block_triton,
        mlp_triton,
        sobel_stem_triton,
        window_attention_triton,
    ):
        monkeypatch.setattr(module, "launch_config", watched)
    with launch.trial(candidate, *keys):
        assert tune.wrong(example, expected) is None
        assert used == [candidate]
        assert "wrong on" in str(tune.wrong(example, expected * 1.1))
