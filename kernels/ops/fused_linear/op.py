"""Public function of the fused linear layer.

The mathematics is in ``reference.py``, the limits in ``spec.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clinreadnet.kernels.dispatch import (
    Impl,
    device_obstacle,
    parameters_obstacle,
    require,
    use_triton,
)
from clinreadnet.kernels.ops.fused_linear.reference import fused_linear_reference
from clinreadnet.kernels.ops.fused_linear.spec import LIMITS
from clinreadnet.kernels.spec import LAYER_NORM_EPS


def fused_linear_obstacle(
    x: Tensor, parameters: Sequence[Tensor], *, merge: bool = False
) -> str | None:
    """Return why the kernel does not support x [..., C] and ``parameters``, or None.

    Args:
        x: [..., C].
        parameters: weights and biases of one or more linear layers and their LayerNorm.
        merge: whether the first layer joins 2x2 neighbours, [B, H, W, C].
    """
    widths = {x.shape[-1] * (4 if merge else 1)}.union(
        *(parameter.shape for parameter in parameters)
    )
    reasons = (LIMITS.obstacle_of("x", x, channels=width) for width in sorted(widths))
    return next(filter(None, reasons), None) or parameters_obstacle(x, parameters)


def fused_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    gelu: bool = False,
    merge: bool = False,
    eps: float = LAYER_NORM_EPS,
    impl: Impl = "auto",
) -> Tensor:
    """Compute optional LayerNorm, linear layer, optional exact GELU and optional residual.

    Args:
        x: [..., C]; with ``merge`` [B, H, W, C / 4], H and W even.
        weight: [N, C].
        bias: [N]; None without bias.
        norm_weight: [C], weight of a LayerNorm before the layer; None without LayerNorm.
        norm_bias: [C]; None without LayerNorm.
        residual: [..., N], added at the end; None without residual.
        gelu: whether to apply GELU after the layer.
        merge: whether to join 2x2 neighbouring tokens to a token of C channels first.
        eps: epsilon of the LayerNorm.
        impl: "auto" (Triton on CUDA tensors within its limits, else the reference), "triton" or
            "reference"; an explicit choice never falls back. Triton takes a contiguous ``x`` in
            float16 or bfloat16, the other tensors in that dtype, a contiguous ``residual``,
            multiples of 32 as C and N, and compute capability 8.0 or later. The launch
            configuration of a GPU can name layers that PyTorch's libraries compute instead.

    Returns:
        [..., N], with ``merge`` [B, H / 2, W / 2, N]; dtype of ``x``.

    Raises:
        ValueError: shapes are invalid, or "triton" outside its limits.
    """
    require(
        x.ndim >= 1 and weight.ndim == 2,
        f"fused_linear: x {list(x.shape)}, weight {list(weight.shape)} are not [..., C], [N, C]",
    )
    require(
        (norm_weight is None) == (norm_bias is None),
        "fused_linear: norm_weight and norm_bias are given together or not at all",
    )
    *sizes, c = x.shape
    if merge:
        require(
            x.ndim == 4 and x.shape[1] % 2 == x.shape[2] % 2 == 0,
            f"fused_linear: x {list(x.shape)} is not [B, H, W, C / 4] with H and W even",
        )
        sizes, c = [sizes[0], sizes[1] // 2, sizes[2] // 2], 4 * c
    outputs = weight.shape[0]
    layers = [weight]
    wanted = [[outputs, c]]
    if bias is not None:
        layers.append(bias)
        wanted.append([outputs])
    if norm_weight is not None and norm_bias is not None:
        layers += [norm_weight, norm_bias]
        wanted += [[c], [c]]
    given = [list(tensor.shape) for tensor in layers]
    require(
        given == wanted,
        f"fused_linear: parameters {given} after x {list(x.shape)} are not {wanted}",
    )
    shape = [*sizes, outputs]
    require(
        residual is None or list(residual.shape) == shape,
        f"fused_linear: residual {None if residual is None else list(residual.shape)} is not "
        f"{shape}",
    )

    def obstacle() -> str | None:
        if residual is not None and residual.dtype != x.dtype:
            return f"needs a residual in the dtype of x, {x.dtype}, not {residual.dtype}"
        if residual is not None and not residual.is_contiguous():
            return f"needs a contiguous residual, not strides {list(residual.stride())}"
        return fused_linear_obstacle(x, layers, merge=merge) or device_obstacle(
            x, *([] if residual is None else [residual])
        )

    tensors = x, weight, bias, norm_weight, norm_bias, residual
    if use_triton("fused_linear", impl, x, obstacle):
        from clinreadnet.kernels.ops.fused_linear.kernel import fused_linear_op

        out: Tensor = fused_linear_op(*tensors, gelu=gelu, eps=eps, merge=merge)
        return out
    return fused_linear_reference(*tensors, gelu=gelu, eps=eps, merge=merge)
