"""`clinreadnet spool`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Json
from clinreadnet.console import note
from clinreadnet.errors import counted
from clinreadnet.limits import MIB

if TYPE_CHECKING:
    from clinreadnet.node.aside import Aside, What


def spool(
    folder: Annotated[
        Path, typer.Argument(help="Folder of `clinreadnet listen --spool`.", show_default=False)
    ],
    retry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERIES",
            help="Process a series again: its name in the list, its SeriesInstanceUID, or `all`; "
            "repeatable.",
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="Remove a series and its images; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the series that a node has set aside, and process them again or remove them.

    A node sets a series aside if its headers or pixels make a library fail, so that other series do
    not wait. The node can be running; it acts at once, or when it starts.

    Examples:
    - `clinreadnet spool spool`
    - `clinreadnet spool spool --retry all`
    - `clinreadnet spool spool --remove all --json`
    """
    from clinreadnet.node.aside import change, list_aside

    given: dict[What, list[str] | None] = {"retry": retry, "remove": remove}
    changed = {what: change(folder, names, what) for what, names in given.items() if names}
    left = list_aside(folder)
    if as_json:
        print_json(
            {"aside": [entry.to_dict() for entry in left]}
            | {what: [entry.to_dict() for entry in done] for what, done in changed.items()}
        )
        return
    for what, done in changed.items():
        for entry in done:
            note(f"{_name(entry)}: {_DONE[what]}")
    if not left:
        print("no series is set aside")
        return
    for entry in left:
        count = counted(entry.objects, "object")
        print(
            f"{_name(entry)}: {count}, {entry.bytes / MIB:.1f} MiB, since {entry.last}: "
            f"{entry.reason}"
        )
    print("images, and reasons in full:", left[0].folder.parent)


def _name(entry: Aside) -> str:
    return entry.series if entry.part == 1 else f"{entry.series}, part {entry.part}"


_DONE = {"retry": "will be tried again", "remove": "will be removed"}
