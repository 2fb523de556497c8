"""Functions that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinreadnet.console import Output, note, output_named, status
from clinreadnet.errors import ClinReadNetError, InputError, os_error_line
from clinreadnet.files import STDOUT, check_distinct, check_output

if TYPE_CHECKING:
    from clinreadnet.cli.options import SessionArguments
    from clinreadnet.runtime import Session


def open_session(bundle: Path, options: SessionArguments, **others: Any) -> Session:
    """Load a `Session` with a status line."""
    from clinreadnet.runtime import Session

    with status("Loading the bundle"):
        return Session(bundle, **session_arguments(options), **others)


def session_arguments(options: SessionArguments) -> dict[str, Any]:
    """Return the arguments of `Session` that are given. For others, its defaults hold."""
    return {name: value for name, value in vars(options).items() if value not in (None, [])}


def check_printed(files: Mapping[str, Path | None], as_json: bool) -> bool:
    """Return whether a file is written to standard output, where it takes the place of the table.

    Args:
        files: each file that a command writes, by parameter name; None if it is not requested.
        as_json: whether the command prints JSON.

    Raises:
        InputError: two files have the same path, or JSON would be printed beside a file.
    """
    check_distinct(files)
    printed = [name for name, path in files.items() if str(path) == STDOUT]
    if printed and as_json:
        raise InputError(
            f"`{printed[0]}` and `as_json` both write to standard output; give one of them"
        )
    return bool(printed)


def print_result(
    result: Any,
    as_json: bool,
    show: Callable[[Any, Output], None],
    *,
    markup: bool = False,
    printed: bool = False,
) -> None:
    """Print a result to standard output: its ``to_dict`` or fields as JSON, or ``show`` it.

    Nothing is printed if a file was ``printed`` there, see `check_printed`.
    """
    if as_json:
        print_json(result.to_dict() if hasattr(result, "to_dict") else asdict(result))
    elif not printed:
        show(result, Output(markup=markup))


def write_each(*outputs: Callable[[], object]) -> None:
    """Call each output, so that a failing output does not cost the others.

    Raises:
        OSError, ClinReadNetError: an output failed, see `raise_failures`.
    """
    failures: list[Exception] = []
    for output in outputs:
        try:
            output()
        except (OSError, ClinReadNetError) as failure:
            failures.append(failure)
    raise_failures(failures)


def raise_failures(failures: Sequence[Exception]) -> None:
    """Raise the error with the highest exit status, if there are any, after a note for each other.

    In a tie it is the first. A closed pipe, as of ``| head``, counts only if nothing else failed.
    """
    real = [error for error in failures if not isinstance(error, BrokenPipeError)]
    if not (failures := real or failures[:1]):
        return
    raised = max(failures, key=lambda error: getattr(error, "exit_code", InputError.exit_code))
    for other in failures:
        if other is not raised:
            note(f"clinreadnet: {os_error_line(other) if isinstance(other, OSError) else other}")
    raise raised


def print_json(result: Mapping[str, Any]) -> None:
    """Print a JSON document to standard output. Values that are not finite become null."""
    with output_named():
        print(json.dumps(_finite(result), indent=2, allow_nan=False))


def row_writer(path: Path | None) -> Callable[[Mapping[str, Any]], None]:
    """Return a function that appends a row to a file of JSON lines at once.

    It does nothing without a path, and prints the row if the path is standard output.

    Raises:
        InputError: the file cannot be written.
    """
    if path is None:
        return lambda row: None

    check_output(path)

    def write(row: Mapping[str, Any]) -> None:
        line = json.dumps(_finite(row), allow_nan=False)
        if str(path) == STDOUT:
            with output_named():
                print(line, flush=True)
            return
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; name a file that can be written as `rows`"
            ) from None

    return write


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
