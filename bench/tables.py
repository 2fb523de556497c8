"""Write the tables of the docs from recorded runs: `make tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; nothing in it is typed by hand.
With --check nothing is written, and the exit status says whether every table is up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from clinreadnet.runtime.flavours import FLAVOURS, Option

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
FLAVOURS_USED = ROOT / "docs" / "flavours.json"
_PARTS = ("builder", "runner")
EVALUATION = ROOT / "clinreadnet" / "weights" / "small.evaluation.json"

_MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def evaluation_table() -> str:
    """Agreement of the shipped checkpoint with the labels of the recorded evaluation."""
    result = json.loads(EVALUATION.read_text())
    names = {"plcc": "PLCC", "srocc": "SROCC", "krocc": "KROCC", "sum": "sum of absolute values"}
    rows = [
        [label, f"{v['value']:.4f}", f"{v['low']:.4f} … {v['high']:.4f}"]
        for label, v in ((label, result[key]) for key, label in names.items())
    ]
    head = f"metric, {result['slices']} slices"
    return markdown([head, "value", "95 % interval (bootstrap over slices)"], rows)


def runs(module: str) -> list[dict[str, Any]]:
    """Return the newest recorded run of a bench module on each machine."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("*/*.json")):
        run = json.loads(path.read_text())
        if any(module in one["fullname"] for one in run.get("benchmarks", [])):
            newest[path.parent.name] = run | {"file": path.relative_to(ROOT).as_posix()}
    return list(newest.values())


def score_speed_table() -> str:
    """Speed, start-up and memory of `clinreadnet score`."""
    rows = []
    for run in runs("test_score_speed"):
        machine = run["machine_info"]
        where = f"{machine['cpu']['brand_raw']}, {machine['cpu']['count']} threads"
        for one in run["benchmarks"]:
            extra, stats = one["extra_info"], one["stats"]
            milliseconds = f"{1000 * stats['min']:.0f} / {1000 * stats['median']:.0f}"
            speed = extra.get("slices_per_second")
            peak = extra.get("peak_mib")
            rows.append(
                [
                    f"`{one['name']}`",
                    milliseconds,
                    "" if speed is None else f"{speed:.1f}",
                    "" if peak is None else f"{peak}",
                    where,
                    f"[{run['commit_info']['id'][:7]}](../{run['file']})",
                ]
            )
    head = ["benchmark", "ms, best / median", "slices/s", "peak MiB", "machine", "recorded"]
    return markdown(head, rows) if rows else "Not measured.\n"


def simulated() -> dict[str, Any]:
    """Return the recorded summary of the simulated training set."""
    summary: dict[str, Any] = json.loads((RESULTS / "simulator" / "seed-1.json").read_text())
    return summary


def simulator_noise_table() -> str:
    """Median noise by noise level and view count."""
    table = simulated()["median_noise_hu"]
    views = list(table["0"])
    rows = [[level, *(f"{table[level][v]:.0f}" for v in views)] for level in table]
    return markdown(["level", *(f"{v} views" for v in views)], rows)


def simulator_labels_table() -> str:
    """What else was measured on the simulated training set."""
    s = simulated()
    low, _, high = s["noise_hu_percentiles"].values()
    streak, agreement = s["streak_hu_fewest_views"], s["reader_srocc_with_the_others"]
    rows = [
        ["noise, 2nd to 98th percentile", f"{low:.0f} to {high:.0f} HU"],
        [
            "error of missing views alone, fewest views",
            f"{streak['min']:.0f} to {streak['max']:.0f} HU, median {streak['median']:.0f}",
        ],
        [
            "Kolmogorov–Smirnov distance of the labels to the challenge's 1000",
            f"{s['ks_distance_to_challenge_labels']:.3f}",
        ],
        [
            "SROCC of one reader with the mean of the other four",
            f"{min(agreement):.3f} to {max(agreement):.3f}",
        ],
        ["SROCC of measured noise alone with the label", f"{s['noise_alone_srocc']:.3f}"],
        [
            "ceiling: the noiseless quality with the label",
            ", ".join(f"{k.upper()} {v:.3f}" for k, v in s["ceiling"].items()),
        ],
    ]
    head = f"{s['images']} images of {s['anatomies']} anatomies, `{s['command']}`"
    return markdown([head, "measured"], rows)


def flavour_table() -> str:
    """What each TensorRT offers, and how much of its binding our code was checked against."""
    record = json.loads(FLAVOURS_USED.read_text())
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


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


TABLES: dict[str, Callable[[], str]] = {
    "evaluation": evaluation_table,
    "flavours": flavour_table,
    "score-speed": score_speed_table,
    "simulator-labels": simulator_labels_table,
    "simulator-noise": simulator_noise_table,
}


def rewritten(text: str) -> str:
    """Return a page with its tables made anew."""
    return _MARKED.sub(lambda m: m[1] + TABLES[m["name"]]() + m[3], text)


def main() -> int:
    """Rewrite, or with --check compare, every page that has a table."""
    stale = []
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("clinreadnet/**/*.md")]:
        text = path.read_text()
        if (new := rewritten(text)) != text:
            stale.append(path.relative_to(ROOT).as_posix())
            if "--check" not in sys.argv:
                path.write_text(new)
    if stale and "--check" in sys.argv:
        print(f"tables out of date in {', '.join(stale)}; run make tables", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
