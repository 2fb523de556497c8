"""Recommend an artifact for each measured machine, and write an HTML page: `make report`.

It reads the newest recorded run of each machine and the manifest of a bundle, without measuring.
The page is self-contained. Exit status: 0 done, 1 the bundle is not verified, 2 no results,
unusable results or bad arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.recording import RESULTS
from bench.report.page import DeploymentReport
from bench.report.recommend import DEFAULT_BUDGET, QUANTITIES
from clinreadnet.cli.common import check_printed, print_json
from clinreadnet.errors import ClinReadNetError
from clinreadnet.runtime.bundle.default import default_bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the recommendations and write the page to ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("--out", type=Path, help="HTML page to write")
    parser.add_argument("--bundle", type=Path, help="default: as for `clinreadnet score`")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of recorded runs")
    parser.add_argument("--machine", help="only this folder of the results (default: all)")
    parser.add_argument(
        "--budget",
        default=DEFAULT_BUDGET,
        help=f"accuracy that may be lost: bounds on {', '.join(QUANTITIES)}, separated by commas "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    printed = check_printed({"out": options.out}, as_json=False)
    if printed and options.json:
        parser.error("--out - and --json both write to standard output; give one of them")
    try:
        report = DeploymentReport(
            options.bundle or default_bundle(),
            options.results,
            budget=options.budget,
            machine=options.machine,
        )
        if options.out is not None:
            report.write(options.out)
    except ClinReadNetError as error:
        print(f"report: {error}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print_json(report.to_dict())
    elif not printed:
        for chosen in report.recommendations:
            print("\n".join(chosen.lines()))
    if options.out is not None:
        print(f"report: wrote {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
