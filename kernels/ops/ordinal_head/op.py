"""Public function of the ordinal head.

The mathematics is in ``reference.py``, the limits in ``spec.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clinreadnet.kernels.dispatch import Impl, device_obstacle, require, use_triton
from clinreadnet.kernels.ops.ordinal_head.reference import ordinal_head_reference
from clinreadnet.kernels.ops.ordinal_head.spec import LIMITS


def ordinal_head_obstacle(x: Tensor, parameters: Sequence[Tensor]) -> str | None:
    """Return why the kernel does not support x [B, N, F + D] and ``parameters``, or None."""
    count, width = parameters[0].shape
    if reason := LIMITS.obstacle_of("x", x, channels=width):
        return reason
    if x.shape[2] - width < (padded := 1 << (count - 1).bit_length()):
        return f"needs {padded} values or more before the features, not {x.shape[2] - width}"
    if any(parameter.dtype != torch.float32 for parameter in parameters):
        return f"needs parameters in float32, not {sorted({str(p.dtype) for p in parameters})}"
    if not x.is_contiguous():
        return f"needs a contiguous x, not strides {list(x.stride())}"
    return device_obstacle(x, *parameters)


def ordinal_head(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, grades: Tensor, *, impl: Impl = "auto"
) -> Tensor:
    """Join the votes of tokens to score, distribution and quality map of their image.

    Args:
        x: [B, N, F + D], for each token G logits of its vote, the logit of its weight, unused
            values up to F, and D features.
        weight: [G, D], layer of the image's features; the other parameters have its dtype.
        bias: [G].
        gain: [], factor of the mixture's logarithm.
        grades: [G], value of each grade.
        impl: "auto" (Triton on CUDA tensors within its limits, else the reference), "triton" or
            "reference"; an explicit choice never falls back. Triton takes a contiguous ``x`` in
            float16 or bfloat16, parameters in float32, 128 features, and F of at least G rounded
            up to a power of two.

    Returns:
        [B, 1 + G + N], float32 or wider: expectation and probabilities of the grades of the image,
        and expectation of each token's vote.

    Raises:
        ValueError: shapes are invalid, or "triton" outside its limits.
    """
    require(
        x.ndim == 3 and weight.ndim == 2 and x.shape[2] > sum(weight.shape) and x.shape[1] > 0,
        f"ordinal_head: x {list(x.shape)}, weight {list(weight.shape)} are not [B, N, F + D], "
        "[G, D] with N > 0 and F > G",
    )
    count = weight.shape[0]
    given = [list(tensor.shape) for tensor in (bias, gain, grades)]
    wanted = [[count], [], [count]]
    require(given == wanted, f"ordinal_head: bias, gain and grades {given} are not {wanted}")
    parameters = weight, bias, gain, grades
    if use_triton("ordinal_head", impl, x, lambda: ordinal_head_obstacle(x, parameters)):
        from clinreadnet.kernels.ops.ordinal_head.kernel import ordinal_head_op

        out: Tensor = ordinal_head_op(x, *parameters)
        return out
    return ordinal_head_reference(x, *parameters)
