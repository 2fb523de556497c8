"""`clinreadnet spool`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Json
from clinreadnet.console import note
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
            help="Try a series again: its name in the list, its SeriesInstanceUID, or `all`; "
            "repeatable.",
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(metavar="SERIES", help="Remove a series and its images; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the series that a node set aside, and why; have them tried again or removed.

    A node sets a series aside if its headers or pixels make a library fail: no other series waits
    for it. The node may run meanwhile. It acts at once, or when it starts.

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
            {"aside": [one.to_dict() for one in left]}
            | {what: [one.to_dict() for one in done] for what, done in changed.items()}
        )
        return
    for what, done in changed.items():
        for one in done:
            note(f"{_name(one)}: {_DONE[what]}")
    if not left:
        print("no series is set aside")
        return
    for one in left:
        count = "1 object" if one.objects == 1 else f"{one.objects} objects"
        print(f"{_name(one)}: {count}, {one.bytes / MIB:.1f} MiB, since {one.last}: {one.reason}")
    print("images, and reasons in full:", left[0].folder.parent)


def _name(one: Aside) -> str:
    return one.series if one.part == 1 else f"{one.series}, part {one.part}"


_DONE = {"retry": "will be tried again", "remove": "will be removed"}
