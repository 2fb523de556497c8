"""GELU of float32 values in registers, without erf: one exponential and a few multiply-adds."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x, FULL: tl.constexpr):
    """Return x Phi(x) = max(x, 0) - |x| 2^p(|x|), with p a polynomial close to log2 Phi(-|x|).

    p is the minimax fit, of the error of GELU, of degree 8 (FULL) or 5. In exact arithmetic GELU
    errs by at most 7e-9 (FULL) or 4.4e-7 for every finite x; in float32 by at most 1e-7 max(1, |x|)
    or 6e-7 max(1, |x|). Highest coefficients are negative, so that 2^p vanishes for large |x|.

    Args:
        x: float32, any shape.
        FULL: for results that are kept in float32.
    """
    size = tl.abs(x)
    if FULL:
        p = tl.fma(size, -1.6904900398267932e-06, 2.5084433382486215e-05)
        p = tl.fma(size, p, -0.00011446852865615695)
        p = tl.fma(size, p, -0.00032332608519007003)
        p = tl.fma(size, p, 0.00733335895189769)
        p = tl.fma(size, p, -0.05271417587568877)
        p = tl.fma(size, p, -0.45911544892532546)
        p = tl.fma(size, p, -1.1511232596814431)
        p = tl.fma(size, p, -0.9999988742206734)
    else:
        p = tl.fma(size, -0.00047330928368959817, 0.007084554751393166)
        p = tl.fma(size, p, -0.05182737037879625)
        p = tl.fma(size, p, -0.45999246022893897)
        p = tl.fma(size, p, -1.1507878384801309)
        p = tl.fma(size, p, -1.0000376249375797)
    return tl.maximum(x, 0.0) - size * tl.exp2(p)
