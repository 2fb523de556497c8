"""Tables of docs/security.md."""

from __future__ import annotations

from collections import Counter

from bench.recording import RESULTS
from bench.tables.recorded import markdown, read_json, source

FOLDER = RESULTS / "security"
FUZZ, SOAK, CHECKS, FAULTS, SANITIZERS = (
    FOLDER / f"{name}.json" for name in ("fuzz", "soak", "checks-cost", "faults", "sanitizers")
)
_OUTCOMES = ("read", "refused", "wrong")
_LEFT = ("old", "new", "both", "wrong")


def fuzz_table() -> str:
    """Return the cases of the recorded runs by kind of file."""
    runs = read_json(FUZZ)["runs"]
    total: dict[str, Counter[str]] = {}
    for run in runs:
        for kind, counts in run["kinds"].items():
            total.setdefault(kind, Counter()).update(counts)
    total["all"] = sum(total.values(), Counter())
    rows = [
        [kind, f"{counts.total():,}", *(f"{counts[name]:,}" for name in _OUTCOMES)]
        for kind, counts in total.items()
    ]
    seeds = ", ".join(str(run["seed"]) for run in runs)
    commits = ", ".join(sorted({run["commit"][:7] for run in runs}))
    hardware = ", ".join(sorted({run["cpu"] for run in runs}))
    where = f"Seeds {seeds}, commit {commits}, {hardware}.\n"
    return markdown(["kind", "cases", "read", "refused", "findings"], rows) + "\n" + where


def faults_table() -> str:
    """Return the state of outputs after faults."""
    run = read_json(FAULTS)
    rows = [
        [kind, str(sum(counts.values())), *(str(counts[name]) for name in _LEFT)]
        for kind, counts in run["faults"].items()
    ]
    head = ["fault", "runs", "old outputs", "new outputs", "some new", "findings"]
    return f"{markdown(head, rows)}\n{run['commands']} commands, {source(run)}.\n"


def sanitizers_table() -> str:
    """Return what ran under each sanitizer, without a report of it."""
    run = read_json(SANITIZERS)
    rows = [
        [
            part["part"],
            part["sanitizer"],
            ", ".join(f"{count:,} {name}" for name, count in part["counts"].items()),
        ]
        for part in run["parts"]
    ]
    return f"{markdown(['part', 'sanitizer', 'result'], rows)}\n{source(run)}.\n"


def soak_table() -> str:
    """Return memory and open files before and after many calls."""
    run = read_json(SOAK)
    low, high = (size / 2**20 for size in run["resident_bytes"])
    files = sorted(set(run["open_files"]))
    later = run["calls"] - run["warm_up_calls"]
    grown, most = run["growth_bytes"] / 2**20, run["growth_limit_bytes"] / 2**20
    measured = {
        "calls of `Session.score`, threads": f"{run['calls']:,}, {run['threads']}",
        "resident memory after the warm-up": f"{low:.0f} to {high:.0f} MiB",
        f"growth over the last {later:,} calls, by a straight line": (
            f"{grown:.1f} MiB, at most {most:.0f}"
        ),
        "open files": " to ".join(map(str, files)),
    }
    return markdown([source(run), "measured"], list(measured.items()))


def checks_table() -> str:
    """Return the processor time of the checks in a series."""
    run = read_json(CHECKS)
    rows = [
        ["`score`, with the checks", f"{run['seconds_with']:.1f} s"],
        ["without them", f"{run['seconds_without']:.1f} s"],
        [
            "inside the checks of pixels",
            f"{run['seconds_inside_the_checks']:.2f} s, {run['percent_inside']:.1f} % of it, at "
            f"most {run['limit_percent']:g}",
        ],
        ["check of the graph, once", f"{run['seconds_graph_once']:.2f} s"],
    ]
    head = (
        f"{run['slices']} slices, preset `{run['preset']}`, `{run['artifact']}`, commit "
        f"{run['commit'][:7]}, {run['cpu']}"
    )
    return markdown([head, "processor time"], rows)


TABLES = {
    "checks-cost": checks_table,
    "faults": faults_table,
    "fuzz": fuzz_table,
    "sanitizers": sanitizers_table,
    "soak": soak_table,
}
