"""Whether an export can have plugins, said before anything is made; imports no Triton."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from clinreadnet.errors import InputError
from clinreadnet.export.engines.options import BuildOptions
from clinreadnet.export.plugins.names import AUTO
from clinreadnet.runtime.backends.flavours import FLAVOURS, Flavour
from clinreadnet.runtime.gpu import find_gpus

_NOT_TOGETHER = ("version_compatible", "strip_weights", "platform")
"""Options whose engines nobody has built with plugins that are compiled ahead of time."""


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
        InputError: they do not, a package is missing, or only a GPU could choose.
    """
    if not wanted:
        return
    if not flavour.plugins:
        taking = ", ".join(dict.fromkeys(one.name for one in FLAVOURS if one.plugins))
        raise InputError(f"`plugins`: {flavour.name} takes none; give flavour={taking}")
    for option in _NOT_TOGETHER:
        if option in options.asked():
            raise InputError(f"`plugins`: not together with `{option}`; leave one of them out")
    if auto_islands:
        raise InputError(
            "`plugins`: the kernels have the network's own float32 islands; leave out "
            "`fp32_islands`, or the plugins"
        )
    if importlib.util.find_spec("triton") is None:
        raise InputError(
            "`plugins`: needs triton, which is not installed; run "
            '`pip install "clinreadnet[cpu,export,kernels]"`'
        )
    if AUTO in wanted and not find_gpus():
        raise InputError(
            "plugins=auto: measures on the GPU that the engine is for, and this machine shows "
            "none; name ops instead, or export on that GPU"
        )
