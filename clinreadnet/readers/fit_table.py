"""Table of `clinreadnet fit-site-map`."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.text import Text

from clinreadnet.console import Column, fitted_table
from clinreadnet.errors import counted
from clinreadnet.readers.agreement import unit
from clinreadnet.readers.agreement_table import number, span
from clinreadnet.readers.fit import Fit
from clinreadnet.scoring.estimate import CONFIDENCE
from clinreadnet.spec import LIKERT, RESEARCH_USE


def print_fit(result: Fit, console: Console) -> None:
    """Print the errors before and after, some values of the map, and notes."""
    found = result.site_map
    errors = [result.before, result.after]
    table = fitted_table(
        console,
        "mean absolute error",
        ["score", "site map"],
        [
            Column("value", [number(error["value"]) for error in errors]),
            Column(f"{CONFIDENCE:.0%}", [span(error) for error in errors], 1),
        ],
    )
    table.title, table.title_justify = Text(f"Error in grades {found.scale}"), "left"
    console.print(table)
    scores = np.linspace(found.scores[0], found.scores[-1], len(LIKERT))
    pairs = zip(scores.tolist(), found.apply(scores).tolist(), strict=True)
    mapped = ", ".join(f"{score:.2f} to {grade:.2f}" for score, grade in pairs)
    lines = [
        f"The map takes score {mapped}. Beyond these scores it is constant.",
        f"{counted(found.slices, 'slice')}, {counted(found.readers, 'reader')}; "
        f"{found.folds}-fold cross-validation over "
        f"{unit(result.by_patient)}.",
    ]
    if not result.by_patient:
        lines.append(
            "No patient is stated: the error of the map is too small if patients have several "
            "slices; add a column patient."
        )
    if result.after["value"] >= result.before["value"]:
        lines.append("The map does not lower the error: use the score as it is.")
    for line in (*lines, RESEARCH_USE):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
