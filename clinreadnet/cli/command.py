"""Base class of the commands: its errors name options and the extra to install.

Messages of the library name a parameter with its value, ``batch_size=8``, or alone in backticks.
`spell` converts both to options of the command: ``--batch-size 8``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.text import Text
from typer import TyperException
from typer.core import TyperArgument, TyperCommand, TyperOption

from clinreadnet.errors import ClinReadNetError, InputError, one_line

EXTRAS = {
    "ablate": ("train",),
    "agree": ("ray",),
    "check-graph": ("export",),
    "check-kernels": ("export",),
    "evaluate": ("train",),
    "evaluate-order": ("train",),
    "export": ("cpu", "export"),
    "export-kernels": ("export", "kernels"),
    "export-triton-server": ("export",),
    "fit-site-map": ("readers",),
    "listen": ("node",),
    "score": ("dicom",),
    "score-archive": ("ray",),
    "simulate": ("simulate",),
    "spool": ("node",),
    "summarize": ("ray",),
    "train": ("train",),
    "tune": ("export", "kernels"),
    "verify": ("cpu", "export"),
}
"""Extras that a command needs."""

OPTIONAL = {"highdicom": ("dicom",), "matplotlib": ("plot",), "pyarrow": ("ray",)}
"""Modules that a single option needs, with the extra that installs them."""

_THIRD_PARTY = frozenset(
    "cryptography highdicom matplotlib numba onnx onnxruntime onnxscript prometheus_client pyarrow "
    "pynetdicom ray safetensors scipy skimage torch triton".split()
)


_NEEDS = {
    "any_part": "anatomy",
    "checkpoint": "data",
    "engine_precisions": "engines",
    "hardware_compatible": "engines",
    "key": "record",
    "map_resolution": "map",
    "optimization_level": "engines",
    "platform": "engines",
    "strip_weights": "engines",
    "targets": "engines",
    "timing_cache": "engines",
    "variants": "anatomy",
    "version_compatible": "engines",
    "workspace_mib": "engines",
}
"""Options without effect unless another option of the same command is given."""

_METAVARS = {"bool": "", "int": "N", "float": "X", "path": "PATH", "str": "TEXT"}
"""Metavar of an option in the help, by the name of its type."""

_EXTRA = "unexpected extra argument"
"""What typer says of an argument that belongs to no option."""

_TABLE_WIDTH = 100
"""Least width of a terminal for typer's table of options."""


class Command(TyperCommand):
    """A command whose errors name its options and the extra that it needs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Create the command. Parameters without a metavar get a short one."""
        super().__init__(*args, **kwargs)
        for param in self.params:
            if param.metavar is None and isinstance(param, (TyperArgument, TyperOption)):
                kind = param.bare_type().removeprefix("list[").removesuffix("]").lower()
                is_option = param.param_type_name == "option"
                param.metavar = _METAVARS.get(kind) if is_option else str(param.name).upper()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help. On a narrow terminal each option is above its text."""
        console = Console()
        if console.width >= _TABLE_WIDTH:
            super().format_help(ctx, formatter)
            return
        console.print(self.get_usage(ctx), markup=False, highlight=False, end="\n\n")
        console.print(Markdown(inspect.cleandoc(self.help or "")))
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                name = str(param.metavar) if param.param_type_name == "argument" else record[0]
                console.print(Text(name, style="bold", overflow="fold"))
                console.print(Padding(Text(record[1]), (0, 0, 0, 4)))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments.

        Raises:
            InputError: an argument is empty, as from an unset variable. As a path it would be the
                current folder. Or an option has several values at once.
        """
        if "" in args:
            raise InputError("an argument is empty; give a value, or `.` for the current folder")
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            if _EXTRA not in error.format_message() or (several := self._several(given)) is None:
                raise
            flag, first, second = several
            raise InputError(
                f"{flag} {first} {second}: {flag} takes a single value; for several, repeat it: "
                f"{flag} {first} {flag} {second}"
            ) from None

    def _several(self, given: Sequence[str]) -> tuple[str, str, str] | None:
        """Return the repeatable option that two values follow, and the values, or None."""
        repeatable = {
            flag
            for param in self.params
            if getattr(param, "multiple", False)
            for flag in param.opts
        }
        for flag, first, second in zip(given, given[1:], given[2:], strict=False):
            if flag in repeatable and not (first.startswith("-") or second.startswith("-")):
                return flag, first, second
        return None

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            ClinReadNetError: the library's error, with options instead of parameters.
            InputError: an option has no effect, or a required package is not installed.
        """
        try:
            self._check_needs(ctx)
            return super().invoke(ctx)
        except ClinReadNetError as error:
            error.args = (one_line(spell(error.full, self.params)),)
            raise
        except ModuleNotFoundError as error:
            if self.name not in EXTRAS or error.name not in _THIRD_PARTY:
                raise
            extras = set(OPTIONAL.get(error.name, EXTRAS[self.name]))
            if find_spec("onnxruntime") is not None:  # the extras cpu and gpu exclude each other
                extras.discard("cpu")
            raise InputError(
                f"{self.name} needs {error.name}, which is not installed; run "
                f'`pip install "clinreadnet[{",".join(sorted(extras))}]"`'
            ) from None

    def _check_needs(self, ctx: Any) -> None:
        """Raise InputError if an option lacks the option without which it has no effect."""
        for param in self.params:
            needed = _NEEDS.get(str(param.name))
            if needed not in ctx.params or ctx.params[needed]:
                continue
            source = ctx.get_parameter_source(param.name)
            given = source is not None and source.name == "COMMANDLINE"
            if given and ctx.params[param.name] != param.default:
                if ctx.get_parameter_source(needed).name == "COMMANDLINE":  # as --no-engines
                    raise InputError(f"`{param.name}` and {needed}=False exclude each other")
                raise InputError(f"`{param.name}` needs `{needed}`")


def spell(message: str, params: Sequence[Any]) -> str:
    """Replace names of parameters in an error message by options.

    Args:
        message: message with parameters as ``name=value``, or alone in backticks.
        params: parameters of the command. Other names do not change.
    """
    options = {str(param.name): param for param in params}

    def with_value(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in options:
            return match[0]
        if value is None:
            return f"{_option(options[name])} "
        if value == "False" and options[name].secondary_opts:
            return str(options[name].secondary_opts[0])
        return _option(options[name])

    def alone(match: re.Match[str]) -> str:
        return _option(options[match[1]]) if match[1] in options else match[0]

    message = re.sub(r"`(\w+)`", alone, message)
    return re.sub(r"(?<![\w./-])(\w+)=(True\b|False\b)?", with_value, message)


def _option(param: Any) -> str:
    """Return the flag of an option, or the name of an argument in the usage line."""
    return str(param.opts[0] if param.param_type_name == "option" else param.name.upper())
