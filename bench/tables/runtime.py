"""Tables of docs/runtime.md."""

from __future__ import annotations

from bench.recording import RESULTS
from bench.tables.recorded import markdown, newest, read_json, source, where

SLICE_TIMES = RESULTS / "scoring" / "slice-times.json"
_TIMES = ("median_ms", "most_ms")


def session_speed_table() -> str:
    """Return the host's time, the overhead over ONNX Runtime, and the cold start."""
    rows = []
    for run in newest("test_session_speed"):
        for benchmark in run.document["benchmarks"]:
            if "test_session_speed" not in benchmark["fullname"]:
                continue
            stats, overhead = benchmark["stats"], benchmark["extra_info"].get("overhead")
            rows.append(
                [
                    f"`{benchmark['name']}`",
                    " / ".join(_milliseconds(stats[name]) for name in ("min", "median")),
                    "" if overhead is None else f"{100 * overhead:.1f} %",
                    run.hardware,
                    f"[{run.commit[:7]}](../{where(run)})",
                ]
            )
    head = ["benchmark", "ms, best / median", "overhead", "machine", "recorded"]
    return markdown(head, rows) if rows else "Not measured.\n"


def slice_times_table() -> str:
    """Return the processor time of the looks at a slice, with the native library and without."""
    run = read_json(SLICE_TIMES)
    rows = [
        [row["look"], *(f"{part[name]:.2g}" for part in (row, bare) for name in _TIMES)]
        for row, bare in zip(run["with"], run["without"], strict=True)
    ]
    head = ["processor time of one thread, ms", "median", "slowest slice"]
    head += ["NumPy alone: median", "slowest slice"]
    return f"{markdown(head, rows)}\n{run['slices']} slices, {source(run)}.\n"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds > 0.02 else f"{1000 * seconds:.3g}"


TABLES = {"session-speed": session_speed_table, "slice-times": slice_times_table}
