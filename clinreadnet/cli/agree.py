"""`clinreadnet agree`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import check_printed, print_result, write_each
from clinreadnet.cli.options import GradeScale, Json, LabelFile, ScoreFile
from clinreadnet.console import note, status
from clinreadnet.files import check_output


def agree(
    labels: LabelFile,
    scores: ScoreFile,
    scale: GradeScale = "0:4",
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page with plots, in one file (.html). `-` is standard output, "
            "without the table."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the grades of your readers with each other and with the score.

    The file of grades has the columns slice, reader and grade, or slice and a column for each
    reader; patient, scanner, protocol and size are optional. Slices are SOP Instance UIDs, or files
    as the scores name them. Readers: weighted kappa, ICC(2,1), Krippendorff's alpha, Bland-Altman.
    Score: PLCC, SROCC, KROCC, MAE and kappa. 95 % intervals are by bootstrap over patients, else
    over slices. Research use only.

    Examples:
    - `clinreadnet agree --labels site.csv --scores scores.csv`
    - `clinreadnet agree --labels site.csv --scores scores.parquet --html readers.html`
    - `clinreadnet agree --labels site.csv --scores scores.csv --scale 0:4 --json`
    """
    from clinreadnet.readers.agreement import agree as compare_files
    from clinreadnet.readers.agreement_page import write_agreement_page
    from clinreadnet.readers.agreement_table import print_agreement
    from clinreadnet.readers.labels import parse_scale

    printed = check_printed({"html": html}, as_json)
    if html is not None:
        check_output(html, inputs=[labels, scores], suffixes=(".html", ".htm"))
    with status("Comparing"):
        result = compare_files(labels, scores, parse_scale(scale))

    def write_page() -> None:
        if html is not None:
            write_agreement_page(result, html)
            note(f"clinreadnet: wrote {html}")

    write_each(lambda: print_result(result, as_json, print_agreement, printed=printed), write_page)
