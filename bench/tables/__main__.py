"""Write the tables of the docs from recorded runs: `make tables`.

With --check, nothing is written and the exit status is 1 if a table is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.recording import ROOT
from bench.tables import stale_pages


def main(arguments: Sequence[str]) -> int:
    """Rewrite all pages with tables, or with --check compare them."""
    check = "--check" in arguments
    stale = stale_pages(ROOT, write=not check)
    if stale and check:
        print(f"tables out of date in {', '.join(stale)}; run make tables", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
