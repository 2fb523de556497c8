"""Parse and check the request for plugins, without importing Triton."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from clinreadnet.errors import InputError
from clinreadnet.export.engines.options import BuildOptions
from clinreadnet.kernels.registry import OPS
from clinreadnet.runtime.backends.flavours import FLAVOURS, Flavour

ALL = "all"
"""Requests all ops that can be plugins."""

PORTABLE = "sm80"
"""Target of kernels for every GPU since Ampere. PTX of sm90 is for sm_90a only."""

_NOT_TOGETHER = ("version_compatible", "strip_weights", "platform")
"""Options that are not tested with plugins that are compiled ahead of time."""


def plugin_ops() -> list[str]:
    """Return the ops whose kernels can be plugins."""
    return [name for name, spec in OPS.items() if spec.plugin]


def parse_plugins(text: str) -> tuple[str, ...]:
    """Parse ``sobel_stem,mlp``, ``all`` or ``none``.

    Returns:
        Names of ops, an empty tuple, or ``(ALL,)``.

    Raises:
        InputError: a name is unknown.
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
    """Check plugins against the other options.

    Args:
        wanted: result of `parse_plugins`.
        flavour: flavour of the engines.
        options: build options.
        auto_islands: whether `--fp32-islands auto` is set.

    Raises:
        InputError: the options exclude each other, or a package is not installed.
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
    """Check that Triton is installed.

    Raises:
        InputError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise InputError(
            "`plugins`: needs triton, which is not installed; run "
            '`pip install "clinreadnet[cpu,export,kernels]"`'
        )
