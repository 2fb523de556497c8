"""Tables of docs/export.md."""

from __future__ import annotations

from typing import get_args

from bench.recording import ROOT
from bench.tables.recorded import markdown, read_json
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.flavours import FLAVOURS, Option

FLAVOURS_USED = ROOT / "docs" / "flavours.json"
_PARTS = ("builder", "runner")


def flavour_table() -> str:
    """What each TensorRT offers, and how much of its binding our code was checked against."""
    record = read_json(FLAVOURS_USED)
    rows = [
        ["builds without a GPU"],
        *([f"`--{option}`"] for option in get_args(Option)),
        ["judges an engine before loading it"],
        ["binding checked"],
        ["of it, used by the builder"],
        ["of it, used by the runner"],
    ]
    for entry in record.values():
        lean = "lean" in entry["module"]
        major = int(entry["version"].split(".")[0])
        (row,) = (f for f in FLAVOURS if f.name == entry["flavour"] and f.major == major)
        cells = [", ".join(row.targets) or "no"]
        for option in get_args(Option):
            needs_gpu = option in row.gpu_options
            cells.append(("with a GPU" if needs_gpu else "yes") if option in row.options else "no")
        if lean:
            cells = ["builds nothing"] * len(cells)
        cells.append("yes" if row.reports_validity else "no")
        cells.append(entry["version"])
        cells += [f"{len(entry[part])} names" if part in entry else "" for part in _PARTS]
        for cell, line in zip(cells, rows, strict=True):
            line.append(cell)
    return markdown(["", *record], rows)


def budgets_table() -> str:
    """Return what verification allows in each precision that has a graph."""
    rows = [row for row in PRECISIONS.values() if row.has_graph]
    found = [
        ["‖out − ref‖ / ‖ref‖ of each output", *(f"{row.budget:.0e}" for row in rows)],
        [
            "difference of PLCC, SROCC and KROCC, each",
            *(f"{row.metric_budget:.0e}" for row in rows),
        ],
        [
            "worst tile of a quality map, grades",
            *(f"{row.tile_budget:.1e}" for row in rows),
        ],
        [
            "worst relative difference of one slice's novelty",
            *(f"{row.novelty_budget:.1e}" for row in rows),
        ],
        *(
            [
                f"difference of the map's {what}, where local truth is known",
                *(f"{row.map_budgets[key]:.0e}" for row in rows),
            ]
            for key, what in (("correlation", "correlation"), ("rmse_ratio", "RMSE ratio"))
        ),
    ]
    return markdown(["at most", *(row.name for row in rows)], found)


TABLES = {"budgets": budgets_table, "flavours": flavour_table}
