"""GELU without erf against its definition in float64, in the interpreter."""

import importlib.util
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow"),  # 2^-inf is 0
    pytest.mark.interpret,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton"),
]


def kernel_on(x: torch.Tensor, full: bool) -> torch.Tensor:
    import triton
    import triton.language as tl

    from clinreadnet.kernels.ops.gelu.kernel import gelu

    def _fwd(x_ptr: Any, out_ptr: Any, SIZE: tl.constexpr, FULL: tl.constexpr) -> None:
        place = tl.arange(0, SIZE)
        tl.store(out_ptr + place, gelu(tl.load(x_ptr + place), FULL))

    _fwd.__globals__.update(tl=tl, gelu=gelu)  # where the interpreter looks names up
    out = torch.full_like(x, torch.nan)
    triton.jit(_fwd)[(1,)](x, out, SIZE=x.numel(), FULL=full)
    return out


@pytest.mark.parametrize(
    ("full", "bound"), [pytest.param(True, 1e-7, id="float32"), pytest.param(False, 6e-7, id="16")]
)
def test_error_is_within_the_docstrings_bound(full: bool, bound: float) -> None:
    x = torch.cat([torch.linspace(-12, 12, 2**16), torch.logspace(-20, 30, 2**15), torch.zeros(2)])
    x = torch.cat([x, -x])
    x = torch.nn.functional.pad(x, (0, 2**18 - x.numel()))
    wide = x.double()
    expected = wide * torch.special.ndtr(wide)
    error = (kernel_on(x, full).double() - expected).abs() / wide.abs().clamp(min=1)
    assert error.max() <= bound
    assert error.max() > bound / 20  # the bound is not a loose one
