"""Tables of docs/export.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

from bench.recording import RESULTS, ROOT
from bench.tables.recorded import markdown, read_json
from clinreadnet.precision import PRECISIONS, Precision
from clinreadnet.runtime.backends.flavours import FLAVOURS, Option

FLAVOURS_USED = ROOT / "docs" / "flavours.json"
_PARTS = ("builder", "runner")
DEFECTS = RESULTS / "verification" / "defects.json"
FUSED_ATTENTION = RESULTS / "verification" / "fused-attention.json"
_KIND = re.compile(r"golden slice \d+ \((.*)\)")


def flavour_table() -> str:
    """Return the features of each TensorRT, and the number of checked names of its binding."""
    record = read_json(FLAVOURS_USED)
    rows = [
        ["builds without a GPU"],
        *([f"`--{option.removesuffix('_mib').replace('_', '-')}`"] for option in get_args(Option)),
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
    """Return the budgets of the verification in each precision with a graph."""
    rows = [row for row in PRECISIONS.values() if row.has_graph]
    budgets: dict[str, Callable[[Precision], str]] = {
        "‖out − ref‖ / ‖ref‖ of each output": lambda row: f"{row.budget:.0e}",
        "the same of one slice, relative to what is usual": (
            lambda row: f"{row.limits().slice_error:.0e}"
        ),
        "difference of PLCC, SROCC and KROCC, each": lambda row: f"{row.metric_budget:.0e}",
        "worst tile of a quality map, grades": lambda row: f"{row.tile_budget:.1e}",
        "worst relative difference of one slice's novelty": lambda row: f"{row.novelty_budget:.1e}",
        "difference of the map's correlation, where local truth is known": (
            lambda row: f"{row.map_budgets['correlation']:.0e}"
        ),
        "difference of the map's RMSE ratio, where local truth is known": (
            lambda row: f"{row.map_budgets['rmse_ratio']:.0e}"
        ),
    }
    lines = [[what, *map(budget, rows)] for what, budget in budgets.items()]
    return markdown(["at most", *(row.name for row in rows)], lines)


def defects_table() -> str:
    """Return the golden slices that detected each seeded defect, by precision."""
    record = read_json(DEFECTS)
    precisions = list(next(iter(record["defects"].values()))["precisions"])
    rows = [
        [defect["what"], *(_noticed(defect["precisions"].get(p), p) for p in precisions)]
        for defect in record["defects"].values()
    ]
    return markdown(["what is wrong", *precisions], rows)


def _noticed(judgement: dict[str, Any] | None, precision: str) -> str:
    """Return the slices that detected a defect, or its size if it was not detected."""
    if judgement is None:
        return "runs no batches" if PRECISIONS[precision].dynamic else "not measured"
    if judgement["status"] == "failed":
        names = [_KIND.fullmatch(name) for name in judgement["caught_by"]]
        kinds = dict.fromkeys(name[1] for name in names if name)
        return ", ".join(kinds) or "a batch"
    exact = judgement["without_quantisers"]
    row = PRECISIONS[str(PRECISIONS[precision].source)] if exact else PRECISIONS[precision]
    shares = {
        name: error / row.limits().slice_error
        for name, error in (exact or judgement["slice_error"]).items()
        if name != "novelty"
    }
    shares["novelty"] = judgement["worst_novelty_difference"] / row.novelty_budget
    if not exact:
        shares["a tile"] = judgement["worst_tile_difference"] / row.tile_budget
    worst = max(shares, key=lambda name: shares[name])
    return f"passes: {100 * shares[worst]:.0f} % of the budget of {worst} at most"


def defects_run() -> str:
    """Return the source of the table of defects."""
    record = read_json(DEFECTS)
    wrong = {name: defect for name, defect in record["defects"].items() if name != "none"}
    parts = []
    for precision in next(iter(wrong.values()))["precisions"]:
        ran = [
            p[precision]
            for p in (defect["precisions"] for defect in wrong.values())
            if precision in p
        ]
        failed = sum(defect["status"] == "failed" for defect in ran)
        parts.append(f"{failed} of {len(ran)} in {precision}")
    return (
        f"Verification fails {', '.join(parts)} (`{record['command']}`, commit "
        f"{record['commit'][:10]}, ONNX Runtime {record['onnxruntime']}, {record['cpu']}"
        + ("" if record["complete"] else "; the run was stopped before its end")
        + ").\n"
    )


def fused_attention_table() -> str:
    """Return what TensorRT-RTX's builder makes of both forms of the attention."""
    record = read_json(FUSED_ATTENTION)
    rows = [
        [
            row["form"],
            engine["target"],
            str(engine["launches"]),
            str(engine["fused_attentions"]),
            f"{engine['bytes'] / 1e6:.1f} MB",
            f"{row['error']:.1e}",
        ]
        for row in record["rows"]
        for engine in row["engines"]
    ]
    head = ["form", "target", "kernel launches", "fused attentions", "engine"]
    table = markdown([*head, "largest error of an output on the golden slices"], rows)
    return f"{table}\n`{record['command']}`, commit {record['commit'][:7]}.\n"


TABLES = {
    "budgets": budgets_table,
    "defects": defects_table,
    "defects-run": defects_run,
    "flavours": flavour_table,
    "fused-attention": fused_attention_table,
}
