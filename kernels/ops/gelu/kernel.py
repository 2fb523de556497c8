"""GELU of float32 values with an exponential and a few multiply-adds, without erf."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def gelu(x, FULL: tl.constexpr):
    """Return x Phi(x) = max(x, 0) - |x| 2^p(|x|), with p a polynomial close to log2 Phi(-|x|).

    p has degree 8 (FULL) or 5 and minimises the largest error of GELU. In exact arithmetic the
    error is at most 7e-9 (FULL) or 4.4e-7 for every finite x; in float32 at most 1e-7 max(1, |x|)
    (FULL) or 6e-7 max(1, |x|). The leading coefficient is negative, so 2^p vanishes for large |x|.

    Args:
        x: float32, any shape.
        FULL: use the degree for float32 results.
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
