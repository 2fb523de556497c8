"""Generate the tables of the docs from recorded runs: one module for each page.

A table is between `<!-- table: NAME -->` and `<!-- end -->` and is never edited by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.tables import (
    benchmarking,
    export,
    kernels,
    model_card,
    physics,
    plugins,
    readme,
    runtime,
    scanner,
    security,
    simulator,
    training,
)

PAGES: dict[str, Mapping[str, Callable[[], str]]] = {
    "README.md": readme.TABLES,
    "clinreadnet/weights/small.md": model_card.TABLES,
    "docs/benchmarking.md": benchmarking.TABLES,
    "docs/export.md": export.TABLES,
    "docs/kernels.md": kernels.TABLES,
    "docs/plugins.md": plugins.TABLES,
    "docs/runtime.md": runtime.TABLES,
    "docs/scanner.md": scanner.TABLES,
    "docs/physics.md": physics.TABLES,
    "docs/security.md": security.TABLES,
    "docs/simulator.md": simulator.TABLES,
    "docs/training.md": training.TABLES,
}
"""Functions that generate the tables of each page."""

_MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rewritten(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with new tables.

    Raises:
        KeyError: the page contains a table that is not in ``tables``.
    """
    return _MARKED.sub(lambda m: m[1] + tables[m["name"]]() + m[3], text)


def stale_pages(root: Path, *, write: bool) -> list[str]:
    """Return the pages whose tables are not up to date.

    Args:
        root: root of the repository.
        write: whether to rewrite them.
    """
    stale = []
    for page, tables in PAGES.items():
        path = root / page
        text = path.read_text(encoding="utf-8")
        if (new := rewritten(text, tables)) != text:
            stale.append(page)
            if write:
                path.write_text(new, encoding="utf-8")
    return stale
