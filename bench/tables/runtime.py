"""Tables of docs/runtime.md."""

from __future__ import annotations

from bench.tables.recorded import markdown, newest, where


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


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds > 0.02 else f"{1000 * seconds:.3g}"


TABLES = {"session-speed": session_speed_table}
