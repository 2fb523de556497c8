"""`clinreadnet fit-site-map`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clinreadnet.cli.common import check_printed, print_result
from clinreadnet.cli.options import GradeScale, Json, LabelFile, ScoreFile
from clinreadnet.console import note, status
from clinreadnet.errors import InputError
from clinreadnet.files import check_output


def fit_site_map(
    labels: LabelFile,
    scores: ScoreFile,
    out: Annotated[Path, typer.Option(help="Site map to write (.json).", show_default=False)],
    scale: GradeScale = "0:4",
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle that made the scores, if their file does not state the weights."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fit a monotone map from the score to the mean grade of your readers.

    `score --site-map` then gives both the score and the grade that your readers would give. The
    map belongs to the weights that made the scores. Its error is cross-validated by patient. The
    file of grades is that of `agree`. Research use only.

    Examples:
    - `clinreadnet fit-site-map --labels site.csv --scores scores.parquet --out site-map.json`
    - `clinreadnet fit-site-map --labels site.csv --scores a.csv --bundle bundle --out map.json`
    """
    from clinreadnet.readers.fit import fit_site_map as fit
    from clinreadnet.readers.fit_table import print_fit
    from clinreadnet.readers.labels import parse_scale, read_files
    from clinreadnet.runtime.bundle.files import load_manifest
    from clinreadnet.scoring.site_map import write_site_map

    printed = check_printed({"out": out}, as_json)
    check_output(out, inputs=[labels, scores], suffixes=(".json",))
    with status("Fitting"):
        reading = read_files(labels, scores, parse_scale(scale))
        weights = reading.weights_sha256
        own = None if bundle is None else load_manifest(bundle).model.weights_sha256
        if weights is None and own is None:
            raise InputError(
                f"{scores}: does not state the weights that made the scores; give Parquet, JSON, "
                "or the `bundle`"
            )
        if weights is not None and own is not None and weights != own:
            raise InputError(
                f"{scores}: made by weights {weights[:12]}, and {bundle} has {own[:12]}"
            )
        result = fit(reading, weights or own or "")
    write_site_map(result.site_map, out)
    note(f"clinreadnet: wrote {out}")
    print_result(result, as_json, print_fit, printed=printed)
