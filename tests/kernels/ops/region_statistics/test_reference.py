"""The reference against the float64 oracle, and what the public function refuses."""

from typing import Any

import pytest
import torch
from support.oracles import region_statistics_oracle

from clinreadnet.kernels import region_statistics
from clinreadnet.kernels.ptx.inputs import region_statistics_inputs


@pytest.mark.parametrize("log", [False, True], ids=["root", "log"])
@pytest.mark.parametrize(
    ("shape", "region"),
    [
        pytest.param((1, 1, 1, 3), (1, 1), id="one-token"),
        pytest.param((3, 4, 6, 5), (2, 3), id="odd-batch-h-not-w"),
        pytest.param((2, 5, 3, 4), (5, 3), id="whole-map"),
    ],
)
def test_equals_the_oracle(
    shape: tuple[int, int, int, int], region: tuple[int, int], log: bool
) -> None:
    args = region_statistics_inputs(*shape)
    where: dict[str, Any] = {"region_h": region[0], "region_w": region[1], "log": log}
    expected = region_statistics_oracle(*args, **where)
    torch.testing.assert_close(region_statistics(*args, **where), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "shift", "region", "message"),
    [
        pytest.param((4, 4, 8), (16,), (2, 2), r"x \[4, 4, 8\] is not", id="three-sides"),
        pytest.param((1, 4, 4, 8), (16,), (3, 2), "3 x 2 do not divide 4 x 4", id="height"),
        pytest.param((1, 4, 4, 8), (16,), (2, 0), "2 x 0 do not divide 4 x 4", id="none"),
        pytest.param((1, 4, 4, 8), (8,), (2, 2), r"\[\[8\], \[16\]\] are not \[16\]", id="shift"),
    ],
)
def test_bad_arguments(
    x: tuple[int, ...], shift: tuple[int, ...], region: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match="region_statistics: .*" + message):
        region_statistics(
            torch.zeros(x),
            torch.zeros(shift),
            torch.zeros(16),
            region_h=region[0],
            region_w=region[1],
            log=True,
        )
