"""Pages for people: one HTML file each, without scripts, that fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from clinreadnet.spec import RESEARCH_USE

_PAGE = Path(__file__).with_name("page.html")


def page(title: str, heading: str, body: str) -> str:
    """Return a page.

    Args:
        title: title of the window, after the name of the package.
        heading: first line of the page.
        body: HTML below the line on research use.
    """
    parts = {"title": text(title), "heading": text(heading), "research_use": text(RESEARCH_USE)}
    made = _PAGE.read_text(encoding="utf-8")
    for name, part in (parts | {"body": body}).items():
        made = made.replace(f"{{{{{name}}}}}", part)
    return made


def table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table of HTML cells; a heading that begins with ``n:`` is of numbers."""
    kinds = [" class=n" if heading.startswith("n:") else "" for heading in headings]
    names = [heading.removeprefix("n:") for heading in headings]
    head = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, names, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(
            f"<td{kind} data-of='{name}'>{cell}</td>"
            for kind, name, cell in zip(kinds, names, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def text(line: str) -> str:
    """Return a text as HTML."""
    return html.escape(line)
