"""Tables of docs/physics.md."""

from __future__ import annotations

from bench.recording import RESULTS
from bench.tables.recorded import markdown, read_json

FEW_VIEWS = RESULTS / "simulator" / "few-views.json"


def few_views_table() -> str:
    """Return in how many simulated scans streaks of few views are seen."""
    run = read_json(FEW_VIEWS)
    first, second = run["sets"]
    rows = [
        [
            f"{row['views']} views{', denoised' if row['denoised'] else ''}",
            *(f"{part['seen']} of {part['slices']}" for part in (row, other)),
            *(str(part["right"]) for part in (row, other)),
        ]
        for row, other in zip(first["rows"], second["rows"], strict=True)
    ]
    head = ["simulated scans of", *(f"{part['name']}: streaks seen" for part in run["sets"])]
    head += [f"{part['name']}: with the right number of views" for part in run["sets"]]
    return f"{markdown(head, rows)}\n`{run['command']}`, commit {run['commit'][:7]}.\n"


TABLES = {"few-views": few_views_table}
