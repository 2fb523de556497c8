"""The ops that can be plugins, as the command line names them; imports no Triton."""

from __future__ import annotations

from clinreadnet.errors import InputError

PLUGIN_OPS = ("sobel_stem", "window_attention", "attention_block", "mlp")
"""Ops whose kernels can stand inside an engine; not fused_linear: TensorRT fuses linear layers."""

ALL = "all"
"""Instead of ops: every op that can be one."""

AUTO = "auto"
"""Instead of ops: those that a GPU has shown to be faster within the budget."""

PORTABLE = "sm80"
"""Target of kernels that run on every GPU since Ampere. sm90's PTX is of sm_90a alone."""


def parse_plugins(text: str) -> tuple[str, ...]:
    """Read ``sobel_stem,mlp``, ``all``, ``none`` or ``auto``.

    Returns:
        Names of ops, none, or ``ALL`` or ``AUTO`` alone.

    Raises:
        InputError: an unknown name.
    """
    if text == "none":
        return ()
    if text in (ALL, AUTO):
        return (text,)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in PLUGIN_OPS:
            raise InputError(
                f"plugins={name}: unknown; give {', '.join(PLUGIN_OPS)} with commas between, or "
                "all, none or auto"
            )
    return names
