"""Table of `clinreadnet fit-site-map`."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from clinreadnet.console import fitted_table, print_lines
from clinreadnet.errors import counted
from clinreadnet.readers.agreement import unit
from clinreadnet.readers.agreement_table import interval_columns
from clinreadnet.readers.fit import Fit
from clinreadnet.spec import LIKERT, RESEARCH_USE


def print_fit(result: Fit, console: Console) -> None:
    """Print the errors before and after, some values of the map, and notes."""
    found = result.site_map
    errors = interval_columns([result.before, result.after])
    title = f"Error in grades {found.scale}"
    names = ["score", "site map"]
    console.print(fitted_table(console, "mean absolute error", names, errors, title=title))
    scores = np.linspace(found.scores[0], found.scores[-1], len(LIKERT))
    pairs = zip(scores.tolist(), found.apply(scores).tolist(), strict=True)
    mapped = ", ".join(f"{score:.2f} to {grade:.2f}" for score, grade in pairs)
    lines = [
        f"The map takes score {mapped}. Beyond these scores it is constant.",
        f"{counted(found.slices, 'slice')}, {counted(found.readers, 'reader')}; "
        f"{found.folds}-fold cross-validation over {unit(result.by_patient)}.",
    ]
    if not result.by_patient:
        lines.append(
            "No patient is stated: the error of the map is too small if patients have several "
            "slices; add a column patient."
        )
    if result.after["value"] >= result.before["value"]:
        lines.append("The map does not lower the error: use the score as it is.")
    print_lines(console, *lines, RESEARCH_USE)
