"""Public function of the fused MLP half of a block.

The mathematics is in ``reference.py``, the limits in ``spec.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clinreadnet.kernels.dispatch import Impl, parameters_obstacle, require, use_triton
from clinreadnet.kernels.ops.mlp.reference import mlp_reference
from clinreadnet.kernels.ops.mlp.spec import LIMITS
from clinreadnet.kernels.spec import LAYER_NORM_EPS


def mlp_obstacle(x: Tensor, parameters: Sequence[Tensor]) -> str | None:
    """Return why the kernel does not support x [..., C] and ``parameters``, or None."""
    return LIMITS.obstacle_of("x", x, channels=x.shape[-1]) or parameters_obstacle(x, parameters)


def mlp(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    *,
    eps: float = LAYER_NORM_EPS,
    impl: Impl = "auto",
) -> Tensor:
    """Compute LayerNorm, linear layer, exact GELU, linear layer and residual.

    Args:
        x: [..., C].
        norm_weight: [C].
        norm_bias: [C].
        fc1_weight: [hidden, C].
        fc1_bias: [hidden].
        fc2_weight: [C, hidden].
        fc2_bias: [C].
        eps: epsilon of the LayerNorm.
        impl: "auto" (Triton on CUDA tensors within its limits, else the reference), "triton" or
            "reference"; an explicit choice never falls back. Triton takes a contiguous ``x`` of 48
            or 96 channels in float32, float16 or bfloat16, the other tensors in that dtype, and
            compute capability 8.0 or later. Its float32 products follow
            ``torch.set_float32_matmul_precision``: TF32 unless "highest".

    Returns:
        [..., C], dtype of ``x``.

    Raises:
        ValueError: shapes are invalid, or "triton" outside its limits.
    """
    require(
        x.ndim >= 1 and fc1_weight.ndim == 2,
        f"mlp: x {list(x.shape)}, fc1_weight {list(fc1_weight.shape)} are not [..., C], "
        "[hidden, C]",
    )
    c, hidden = x.shape[-1], fc1_weight.shape[0]
    layers = norm_weight, norm_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias
    given = [list(tensor.shape) for tensor in layers]
    wanted = [[c], [c], [hidden, c], [hidden], [c, hidden], [c]]
    require(given == wanted, f"mlp: parameters {given} after x {list(x.shape)} are not {wanted}")
    if use_triton("mlp", impl, x, lambda: mlp_obstacle(x, layers)):
        from clinreadnet.kernels.ops.mlp.kernel import mlp_op

        out: Tensor = mlp_op(x, *layers, eps=eps)
        return out
    return mlp_reference(x, *layers, eps=eps)
