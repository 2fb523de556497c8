"""Tables of docs/scanner.md."""

from __future__ import annotations

from typing import Any

from bench.recording import RESULTS
from bench.tables.recorded import markdown, read_json, source

LOAD = RESULTS / "node" / "load.json"


def load_table() -> str:
    """Return the results of load, faults, full disk and overhead."""
    run = read_json(LOAD)
    phases = {"steady": _steady, "faults": _faults, "full-disk": _full_disk, "cost": _cost}
    rows: list[tuple[str, str]] = []
    for name, measured in phases.items():
        if (phase := run.get(name)) is not None:
            rows += measured(phase).items()
    load = f"load before the run {run['load_average_before']:g}"
    return markdown([f"{source(run)}, {run['threads']} threads, {load}", "measured"], rows)


def nonsense_table() -> str:
    """Return the results by kind of invalid input."""
    kinds: dict[str, dict[str, int]] = read_json(LOAD)["nonsense"]["kinds"]
    rows = []
    for kind, counts in kinds.items():
        status = sum(n for outcome, n in counts.items() if len(outcome) == 4)
        others = [counts.get(name, 0) for name in ("aborted", "rejected", "closed", "accepted")]
        rows.append([kind, f"{sum(counts.values())}", f"{status}", *map(str, others)])
    head = ["kind", "cases", "refused with a status", "aborted", "rejected", "closed", "accepted"]
    return markdown(head, rows)


def _tally(name: str, phase: dict[str, Any]) -> dict[str, str]:
    return {
        f"{name}: objects, series": f"{phase['objects']:,}, {phase['series']}",
        f"{name}: slices lost, scored twice": f"{phase['lost']}, {phase['scored_twice']}",
    }


def _steady(phase: dict[str, Any]) -> dict[str, str]:
    low, high = (size / 2**20 for size in phase["resident_bytes"])
    answer = phase["answer_ms"]
    return _tally(f"steady load, {phase['associations']} associations", phase) | {
        "steady load: time to send them": f"{phase['seconds']:.0f} s",
        "steady load: answer to C-STORE, median, 99th percentile, longest": (
            f"{answer['p50']:.0f}, {answer['p99']:.0f}, {answer['most']:.0f} ms"
        ),
        "steady load: resident memory after a fifth of the slices was scored": (
            f"{low:.0f} to {high:.0f} MiB, at most {phase['resident_percent']:.1f} % from its "
            "median"
        ),
    }


def _faults(phase: dict[str, Any]) -> dict[str, str]:
    name = f"{phase['kills']} times SIGKILL, PACS down for a third"
    reports = f"{phase['reports']}, {phase['sent_again']}"
    return _tally(name, phase) | {f"{name}: different reports, sent again after a kill": reports}


def _full_disk(phase: dict[str, Any] | str) -> dict[str, str]:
    if not isinstance(phase, dict):
        return {"disk of 48 MiB": phase}
    name = "disk of 48 MiB, full, with a SIGKILL"
    after = f"{phase['refused'].get('A700', 0)}, {phase['database']}"
    return _tally(name, phase) | {f"{name}: answers A700, database afterwards": after}


def _cost(phase: dict[str, Any]) -> dict[str, str]:
    middle = sorted(phase["score_seconds"])[phase["repeats"] // 2]
    through = sorted(phase["node_seconds"])[phase["repeats"] // 2]
    name = f"process time of {phase['slices']} slices with the network"
    return {
        f"{name}: scored from files, through the node": f"{middle:.1f} s, {through:.1f} s",
        f"{name}: more through the node": f"{phase['overhead_percent']:.1f} %",
    }


TABLES = {"node-load": load_table, "node-nonsense": nonsense_table}
