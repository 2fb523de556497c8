"""The two operations the network spends its time in, each behind one function.

The mathematics stands once, in ``<op>_reference.py``; the functions check their arguments and
choose an implementation.
"""

from __future__ import annotations

if __name__ != "clinreadnet.kernels":
    raise ImportError(
        "import clinreadnet.kernels instead: the folder kernels/ is installed under that name"
    )

from clinreadnet.kernels.ops import Impl, sobel_stem, window_attention

__all__ = ["Impl", "sobel_stem", "window_attention"]
