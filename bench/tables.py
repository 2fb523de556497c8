"""Write the tables of the docs from recorded runs: `make tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; nothing in it is typed by hand.
With --check nothing is written, and the exit status says whether every table is up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from clinreadnet.report.results import Row, hardware, read_run, result_files
from clinreadnet.report.tables import (
    Table,
    cold_start_table,
    end_to_end_table,
    network_table,
    ops_table,
    peers_table,
)
from clinreadnet.runtime.backends.flavours import FLAVOURS, Option
from clinreadnet.training import ablation_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
ABLATION = ROOT / "docs" / "training" / "ablation.json"
FLAVOURS_USED = ROOT / "docs" / "flavours.json"
_PARTS = ("builder", "runner")
WEIGHTS = ROOT / "clinreadnet" / "weights"
TRAINING_RUNS = ROOT / "docs" / "training"
ORDERS = {
    "abdomen": WEIGHTS / "small.order.abdomen.json",
    "chest": WEIGHTS / "small.order.chest.json",
}

_MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def evaluation_table() -> str:
    """Agreement of the shipped checkpoint with the labels of the recorded evaluations."""
    names = {"plcc": "PLCC", "srocc": "SROCC", "krocc": "KROCC", "sum": "sum of absolute values"}
    rows = []
    for folder, result in evaluations().items():
        for key, label in names.items():
            v, best = result[key], result["ceiling"][key]["value"]
            interval = f"{v['low']:.4f} … {v['high']:.4f}"
            what = f"{folder}, {result['slices']} slices"
            below = f"{best - v['value']:.4f}"
            rows.append([what, label, f"{v['value']:.4f}", interval, f"{best:.4f}", below])
    head = ["test set", "metric", "value", "95 % interval (bootstrap over slices)"]
    return markdown([*head, "ceiling", "below it"], rows)


def evaluations() -> dict[str, dict[str, Any]]:
    """Return the recorded evaluations of the shipped checkpoint, by test set."""
    paths = sorted(WEIGHTS.glob("small.evaluation.*.json"))
    return {path.name.split(".")[2]: json.loads(path.read_text()) for path in paths}


def training_runs_table() -> str:
    """How the shipped checkpoint was trained: size, time and speed of each run."""
    rows = []
    for path in sorted(TRAINING_RUNS.glob("small-*.json")):
        run = json.loads(path.read_text())
        config = run["config"]
        flags = [
            flag
            for flag in ("--soqn", "--soqn-only", "--statistics-only")
            if config.get(flag[2:].replace("-", "_"))
        ]
        if "--statistics-only" not in flags:
            flags.append(f"--crop {config['crop']}")
        rows.append(
            [
                f"`{' '.join(flags)}`",
                f"{run['training_slices']} of {run['training_anatomies']}",
                f"{run['validation_slices']} of {run['validation_anatomies']}",
                f"{run['steps']}",
                f"{run['training_minutes']:.0f}",
                f"{run['slices_per_second']:.1f}",
                f"{100 * run['waiting_share']:.0f} %",
                f"{run['kept']['score']:.3f}",
                f"{run['device']}, processes: {run['processes']}, threads: {run['threads']}",
            ]
        )
    head = ["run", "slices of anatomies", "validated on", "steps", "minutes", "slices/s"]
    return markdown([*head, "waiting for data", "validation sum", "hardware"], rows)


def parts_table() -> str:
    """Agreement of the shipped checkpoint with the labels, scans and denoised copies apart."""
    rows = [
        [
            folder,
            name,
            f"{part['slices']}",
            f"{part['srocc']:.3f}",
            f"{part['ceiling_srocc']:.3f}",
            f"{part['rmse']:.2f}",
            f"{part['bias']:+.2f}",
        ]
        for folder, result in evaluations().items()
        for name, part in result["parts"].items()
    ]
    return markdown(
        ["test set", "", "slices", "SROCC", "ceiling", "RMSE, grades", "bias, grades"], rows
    )


def worst_table() -> str:
    """Return the slices that the shipped checkpoint scores worst."""
    rows = [
        [folder, w["name"], f"{w['label']:.1f}", f"{w['score']:.2f}"]
        for folder, result in evaluations().items()
        for w in result["worst"]
    ]
    return markdown(["test set", "slice", "label", "score"], rows)


def orders() -> dict[str, dict[str, Any]]:
    """Return the recorded comparisons with the degradation of scanned slices."""
    return {name: json.loads(path.read_text()) for name, path in ORDERS.items()}


def order_table() -> str:
    """Whether scores follow what was done to scanned slices."""

    def means(values: dict[str, float]) -> str:
        return " ".join(f"{mean:.2f}" for mean in values.values())

    rows = []
    for name, found in orders().items():
        above = len(found["denoised_above_clean"])
        rows.append(
            [
                f"{name}, {len(found['anatomies'])}",
                f"{found['lowest_srocc']:.3f}",
                means(found["mean_by_noise_level"]),
                means(found["mean_by_views"]),
                f"{above} of {found['denoised']}",
            ]
        )
    head = [
        "slices",
        "lowest SROCC",
        "mean score, least noise first",
        "mean score, most views first",
    ]
    return markdown([*head, "copies above the clean slice"], rows)


def order_slices_table() -> str:
    """SROCC of score and degradation order of each scanned slice."""
    rows = [
        [name, slice_name, f"{value:.3f}"]
        for name, found in orders().items()
        for slice_name, value in found["anatomies"].items()
    ]
    return markdown(["", "slice", "SROCC over its twelve scans"], rows)


def runs(module: str) -> list[dict[str, Any]]:
    """Return the newest recorded run of a bench module on each machine."""
    newest: dict[str, dict[str, Any]] = {}
    for path in result_files(RESULTS):
        run = json.loads(path.read_text())
        if not any(module in one["fullname"] for one in run.get("benchmarks", [])):
            continue
        run["file"] = path.relative_to(ROOT).as_posix()
        machine = path.parent.name
        if machine not in newest or recorded_at(run) >= recorded_at(newest[machine]):
            newest[machine] = run
    return list(newest.values())


def recorded_at(run: dict[str, Any]) -> tuple[str, str]:
    """Return what orders the runs of a machine."""
    return run.get("datetime", ""), run["file"]


def by_machine(module: str, make: Callable[[dict[str, Any]], Table]) -> str:
    """Return a table for each machine, under its name and a link to the recorded run."""
    parts = [
        f"{hardware(run['machine_info'])}, {recorded_in(run)}:\n\n{make(run).markdown()}"
        for run in runs(module)
    ]
    return "\n".join(parts) or "Not measured.\n"


def score_speed_table() -> str:
    """Speed, start-up and memory of `clinreadnet score`."""
    return by_machine("test_score_speed", end_to_end_table)


def of_rows(make: Callable[[Sequence[Row]], Table]) -> str:
    """Return a table of the network's rows for each machine."""
    return by_machine("test_network", lambda run: make(read_run(ROOT / run["file"]).rows))


def gpu_benchmarks(op: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the run and the facts of every recorded benchmark of an op, or of "network"."""
    if op == "network":
        return network_benchmarks()
    return [
        (run, one["extra_info"])
        for run in runs("test_kernels")
        for one in run["benchmarks"]
        if one["extra_info"].get("op") == op
    ]


def network_benchmarks() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the compiled network in CUDA graphs, with and without its kernels, by batch."""
    names = {"torch-compile": "compile", "torch-triton": "kernel"}
    found = []
    for run in runs("test_network"):
        rows = [row for row in read_run(ROOT / run["file"]).rows if row.clock == "device graph"]
        for batch in sorted({row.batch for row in rows}):
            ms = {
                names[row.candidate]: 1e3 * row.p50
                for row in rows
                if row.candidate in names and (row.batch, row.precision) == (batch, "fp16")
            }
            if len(ms) == len(names):
                facts = {"gpu": run["machine_info"]["gpu"], "dtype": "float16", "batch": batch}
                found.append((run, facts | {"ms": ms}))
    return found


def recorded_in(run: dict[str, Any]) -> str:
    """Return a link to a run's file."""
    return f"[{Path(run['file']).stem}](../{run['file']})"


def kernels_table() -> str:
    """Times of each op on each GPU, its baselines beside it."""
    rows = []
    for op in ("sobel_stem", "window_attention", "attention_block", "mlp"):
        for run, facts in gpu_benchmarks(op):
            stage = f", stage {facts['stage']}" if "stage" in facts else ""
            ms = facts["ms"]
            names = ("kernel", "unfused", "compile", "sdpa-compile", "sdpa", "eager")
            rows.append(
                [
                    f"`{op}`{stage}",
                    f"{facts['dtype']}, {facts['batch']}",
                    *(f"{ms[name]:.4f}" if name in ms else "" for name in names),
                    f"{facts['bytes'] / 2**20:.1f}",
                    f"{facts['percent_of_copy_bandwidth']:.0f}",
                    facts["gpu"],
                    recorded_in(run),
                ]
            )
    head = [
        "op",
        "dtype, batch",
        "kernel, ms",
        "unfused",
        "compile",
        "SDPA compiled",
        "SDPA",
        "eager",
    ]
    head += ["MiB moved", "% of copy", "GPU", "recorded"]
    return markdown(head, rows)


def _over_compile(facts: dict[str, Any]) -> float:
    return facts["ms"]["compile"] / facts["ms"]["kernel"]


def _over_the_better(facts: dict[str, Any]) -> float:
    others = ("compile", "sdpa", "sdpa-compile")
    return min(facts["ms"][name] for name in others) / facts["ms"]["kernel"]


def _over_unfused(facts: dict[str, Any]) -> float:
    return facts["ms"]["unfused"] / facts["ms"]["kernel"]


def _percent(facts: dict[str, Any]) -> float:
    return facts["percent_of_copy_bandwidth"]


def _large(facts: dict[str, Any]) -> bool:
    return facts["batch"] >= 8 and facts.get("stage", 1) <= 2


TARGET_GPU = "H100"
# What, op, which of its benchmarks, what of them, the least it must be, and how it is written.
TARGETS: list[tuple[str, str, Callable[..., bool], Callable[..., float], float, str]] = [
    ("Sobel stem, batch ≥ 8: of copy bandwidth", "sobel_stem", _large, _percent, 80, "{:.0f} %"),
    (
        "Sobel stem, batch ≥ 8: over compiled reference",
        "sobel_stem",
        _large,
        _over_compile,
        3,
        "{:.2f} ×",
    ),
    (
        "window attention, stages 1–2, batch ≥ 8: of copy bandwidth",
        "window_attention",
        _large,
        _percent,
        70,
        "{:.0f} %",
    ),
    (
        "window attention, stages 1–2, batch ≥ 8: over the better of compiled reference and SDPA",
        "window_attention",
        _large,
        _over_the_better,
        2,
        "{:.2f} ×",
    ),
    (
        "fused attention block: over unfused",
        "attention_block",
        _large,
        _over_unfused,
        1,
        "{:.2f} ×",
    ),
    ("fused MLP: over unfused", "mlp", _large, _over_unfused, 1, "{:.2f} ×"),
    (
        "network, batch 64: throughput over compiled reference",
        "network",
        lambda facts: facts["batch"] == 64,
        _over_compile,
        1.5,
        "{:.2f} ×",
    ),
    (
        "network, batch 1: latency, compiled reference's over ours (1 / 0.67)",
        "network",
        lambda facts: facts["batch"] == 1,
        _over_compile,
        1 / 0.67,
        "{:.2f} ×",
    ),
]


def kernel_targets_table() -> str:
    """What the kernels are to reach on an H100 in float16, and the worst that was measured."""
    rows = []
    for what, op, which, value, least, form in TARGETS:
        found = [
            (value(facts), run)
            for run, facts in gpu_benchmarks(op)
            if TARGET_GPU in facts["gpu"] and facts["dtype"] == "float16" and which(facts)
        ]
        row = [what, form.format(least), "not measured", "", ""]
        if found:
            worst, run = min(found, key=lambda pair: pair[0])
            verdict = "reached" if worst >= least else "missed"
            row[2:] = [form.format(worst), verdict, recorded_in(run)]
        rows.append(row)
    return markdown(["H100, float16", "at least", "worst measured", "", "recorded"], rows)


def gpu_checks_table() -> str:
    """How each step of `make gpu-check` went on each GPU."""
    rows = []
    for path in sorted(RESULTS.glob("*/*.json")):
        run = json.loads(path.read_text()) | {"file": path.relative_to(ROOT).as_posix()}
        for name, check in run.get("checks", {}).items():
            tests = f"{check['passed']} passed" if "passed" in check else ""
            verdict = f"{check['status']} {check['note']}".strip()
            rows.append([name, check["what"], verdict, tests, path.parent.name, recorded_in(run)])
    head = ["step", "proves", "verdict", "tests", "GPU", "recorded"]
    return markdown(head, rows) if rows else "Not run.\n"


def session_speed_table() -> str:
    """What a session costs over bare ONNX Runtime, and the cold start."""
    rows = []
    for run in runs("test_session_speed"):
        machine = run["machine_info"]
        where = f"{machine['cpu']['brand_raw']}, {machine['cpu']['count']} threads"
        for one in run["benchmarks"]:
            if "test_session_speed" not in one["fullname"]:
                continue
            extra, stats = one["extra_info"], one["stats"]
            overhead = extra.get("overhead")
            rows.append(
                [
                    f"`{one['name']}`",
                    f"{1000 * stats['min']:.0f} / {1000 * stats['median']:.0f}",
                    "" if overhead is None else f"{100 * overhead:.1f} %",
                    where,
                    f"[{run['commit_info']['id'][:7]}](../{run['file']})",
                ]
            )
    head = ["benchmark", "ms, best / median", "overhead", "machine", "recorded"]
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
        [
            "noise without the denoised copies, 2nd to 98th percentile",
            f"{low:.0f} to {high:.0f} HU",
        ],
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
        [
            "grades 0, 0.2 … 4 that occur",
            f"{sum(count > 0 for count in s['images_of_each_grade'])} of 21",
        ],
        [
            "SROCC of measured noise alone with the label; without the denoised copies",
            f"{s['noise_alone_srocc']:.3f}; {s['noise_alone_srocc_undenoised']:.3f}",
        ],
        [
            "mean quality of the denoised copies; of their sources",
            f"{s['mean_quality_denoised']:.2f}; {s['mean_quality_of_their_sources']:.2f}",
        ],
        [
            "ceiling: the noiseless quality with the label",
            ", ".join(f"{k.upper()} {v:.3f}" for k, v in s["ceiling"].items()),
        ],
    ]
    head = f"{s['images']} images of {s['anatomies']} anatomies, `{s['command']}`"
    return markdown([head, "measured"], rows)


def training_data() -> dict[str, Any]:
    """Return what was measured on a simulated folder about rotation and grouping."""
    summary: dict[str, Any] = json.loads((RESULTS / "training" / "data.json").read_text())
    return summary


def rotation_table() -> str:
    """Share of the noise that each way to rotate keeps."""
    data = training_data()
    rows = [
        [name, *(f"{100 * kept[key]:.1f} %" for key in ("lowest", "median", "highest"))]
        for name, kept in data["noise_kept"].items()
    ]
    head = f"rotation by {data['degrees']:g} degrees, {data['images']} images"
    return markdown([head, "noise kept, lowest", "median", "highest"], rows)


def grouping_table() -> str:
    """Low-pass differences of a simulated folder, and the anatomies found without its record."""
    data = training_data()
    a = data["anatomies"]
    rows = [
        ["an image to the nearest of its anatomy", f"{a['largest_hu_to_nearest_of_same']:.1f} HU"],
        ["any two of one anatomy, at most", f"{a['largest_hu_within']:.1f} HU"],
        ["two of different anatomies, at least", f"{a['smallest_hu_between']:.1f} HU"],
        ["anatomies", f"{a['anatomies']}"],
        ["groups found", f"{a['groups_found']}, of which pure: {a['pure_groups']}"],
    ]
    return markdown([f"`{data['command']}`", "measured"], rows)


def ablation() -> str:
    """What each of the three parts is worth, at the scale of the recorded ablation."""
    if not ABLATION.exists():
        return "Not run.\n"
    result = json.loads(ABLATION.read_text())
    return ablation_table.markdown(result) + f"Commit {result['commit'][:7]}.\n"


def simulator_speed_table() -> str:
    """Slices a second and core."""
    speed = json.loads((RESULTS / "simulator" / "speed.json").read_text())
    rows = [
        ["slices of 720 views", f"{speed['slices_of_720_views_per_cpu_second']:.1f}"],
        ["all sixteen of an anatomy", f"{speed['slices_per_cpu_second']:.1f}"],
        ["on a GPU", "not measured"],
    ]
    return markdown([f"drawn, degraded, measured, on {speed['cpu']}", "slices/s/core"], rows)


def flavour_table() -> str:
    """What each TensorRT offers, and how much of its binding our code was checked against."""
    record = json.loads(FLAVOURS_USED.read_text())
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


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return Table(tuple(head), tuple(map(tuple, rows))).markdown()


def one_slice_table() -> str:
    """What one slice takes on each backend, for the README."""
    rows = []
    for run in runs("test_network"):
        found = read_run(ROOT / run["file"])
        ours = [row for row in found.rows if (row.batch, row.clock) == (1, "host")]
        for row in sorted(ours, key=lambda row: row.p50):
            peer = " (peer)" if row.role == "peer" else ""
            link = f"[{found.path.stem}]({run['file']})"
            rows.append([row.title + peer, f"{1e3 * row.p50:.0f}", found.hardware, link])
    head = ["one slice, host memory to scores", "ms, median", "machine", "recorded"]
    return markdown(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "ablation": ablation,
    "evaluation": evaluation_table,
    "evaluation-parts": parts_table,
    "evaluation-worst": worst_table,
    "training-runs": training_runs_table,
    "order": order_table,
    "order-slices": order_slices_table,
    "flavours": flavour_table,
    "gpu-checks": gpu_checks_table,
    "gpu-kernels": kernels_table,
    "cold-start": lambda: by_machine("test_network", cold_start_table),
    "network": lambda: of_rows(network_table),
    "peers": lambda: of_rows(peers_table),
    "ops": lambda: by_machine("test_ops", ops_table),
    "kernel-targets": kernel_targets_table,
    "grouping": grouping_table,
    "rotation": rotation_table,
    "one-slice": one_slice_table,
    "score-speed": score_speed_table,
    "session-speed": session_speed_table,
    "simulator-labels": simulator_labels_table,
    "simulator-noise": simulator_noise_table,
    "simulator-speed": simulator_speed_table,
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
