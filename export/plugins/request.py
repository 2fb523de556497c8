"""The ops that can be plugins, and whether an export can have them; imports no Triton."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from clinreadnet.errors import InputError
from clinreadnet.export.engines.options import BuildOptions
from clinreadnet.kernels.registry import OPS
from clinreadnet.runtime.backends.flavours import FLAVOURS, Flavour

ALL = "all"
"""Instead of ops: every op that can be one."""

PORTABLE = "sm80"
"""Target of kernels that run on every GPU since Ampere. sm90's PTX is of sm_90a alone."""

_NOT_TOGETHER = ("version_compatible", "strip_weights", "platform")
"""Options whose engines nobody has built with plugins that are compiled ahead of time."""


def plugin_ops() -> list[str]:
    """Return the ops whose kernels can stand inside an engine."""
    return [name for name, spec in OPS.items() if spec.plugin]


def parse_plugins(text: str) -> tuple[str, ...]:
    """Read ``sobel_stem,mlp``, ``all`` or ``none``.

    Returns:
        Names of ops, none, or ``ALL`` alone.

    Raises:
        InputError: an unknown name.
    """
    if text == "none":
        return ()
    if text == ALL:
        return (text,)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in plugin_ops():
            raise InputError(
                f"plugins={name}: unknown; give {', '.join(plugin_ops())} with commas between, or "
                "all or none"
            )
    return names


def check_request(
    wanted: Sequence[str], flavour: Flavour, options: BuildOptions, *, auto_islands: bool
) -> None:
    """Check that plugins go with the other options.

    Args:
        wanted: from `parse_plugins`.
        flavour: of the engines.
        options: of their builds.
        auto_islands: whether `--fp32-islands auto` decides what stays float32.

    Raises:
        InputError: they do not, or a package is missing.
    """
    if not wanted:
        return
    if not flavour.plugins:
        taking = ", ".join(dict.fromkeys(other.name for other in FLAVOURS if other.plugins))
        raise InputError(f"`plugins`: {flavour.name} takes none; give flavour={taking}")
    for option in _NOT_TOGETHER:
        if option in options.asked():
            raise InputError(f"`plugins`: not together with `{option}`; leave one of them out")
    if auto_islands:
        raise InputError(
            "`plugins`: the kernels have the network's own float32 islands; leave out "
            "`fp32_islands`, or the plugins"
        )
    check_triton()


def check_triton() -> None:
    """Check that Triton, which compiles the kernels, is installed.

    Raises:
        InputError: it is not.
    """
    if importlib.util.find_spec("triton") is None:
        raise InputError(
            "`plugins`: needs triton, which is not installed; run "
            '`pip install "clinreadnet[cpu,export,kernels]"`'
        )
