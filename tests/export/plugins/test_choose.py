"""`--plugins auto`: the decision on measured engines, which are made up here."""

from __future__ import annotations

import pytest

from clinreadnet.export.plugins.choose import GAIN, Choice, Trial, choose

OPS = ("sobel_stem", "mlp", "attention_block")


def decided(times: dict[str, float], failing: tuple[str, ...] = ()) -> tuple[Choice, list[str]]:
    """Choose among engines that take `times` milliseconds, by their ops joined with +."""
    asked = []

    def trial(ops: tuple[str, ...]) -> Trial:
        name = "+".join(ops) or "none"
        asked.append(name)
        passed = name not in failing
        return Trial(ops, times[name], passed, {"score": 1e-3}, None if passed else "off by 1")

    return choose(OPS, trial), asked


@pytest.mark.parametrize(
    ("times", "failing", "kept"),
    [
        pytest.param({}, (), (), id="none-is-faster"),
        pytest.param({"mlp": 10 * (1 - GAIN)}, (), (), id="within-the-noise"),
        pytest.param({"mlp": 9.7}, (), ("mlp",), id="one"),
        pytest.param({"mlp": 5.0}, ("mlp",), (), id="faster-and-wrong"),
        pytest.param(
            {"mlp": 9.0, "sobel_stem": 8.0, "sobel_stem+mlp": 7.0},
            (),
            ("sobel_stem", "mlp"),
            id="together",
        ),
        pytest.param(
            {"mlp": 9.0, "sobel_stem": 8.0, "sobel_stem+mlp": 8.5},
            (),
            ("sobel_stem",),
            id="slower-together",
        ),
        pytest.param(
            {"mlp": 9.0, "sobel_stem": 8.0, "sobel_stem+mlp": 7.0},
            ("sobel_stem+mlp",),
            ("sobel_stem",),
            id="wrong-together",
        ),
    ],
)
def test_choice(times: dict[str, float], failing: tuple[str, ...], kept: tuple[str, ...]) -> None:
    slow = dict.fromkeys(("none", *OPS), 10.0)
    choice, asked = decided(slow | times, failing)
    assert choice.ops == kept
    assert asked[:4] == ["none", *OPS] and len(asked) <= 5
    written = choice.to_dict()
    assert written["kept"] == list(kept) and len(written["trials"]) == len(asked)
    assert written["trials"][0]["relative_error"] == {"score": 1e-3}
    line = choice.line()
    assert "none 10.00 ms" in line and line.count("misses the budget") == len(failing)
