"""Tables of README.md."""

from __future__ import annotations

from bench.tables.recorded import markdown, newest, where


def one_slice_table() -> str:
    """What one slice takes on each backend."""
    rows = []
    for run in newest("test_network"):
        ours = [row for row in run.rows if (row.batch, row.clock) == (1, "host")]
        for row in sorted(ours, key=lambda row: row.p50):
            peer = " (peer)" if row.role == "peer" else ""
            link = f"[{run.path.stem}]({where(run)})"
            rows.append([row.title + peer, f"{1e3 * row.p50:.0f}", run.hardware, link])
    head = ["one slice, host memory to scores", "ms, median", "machine", "recorded"]
    return markdown(head, rows)


TABLES = {"one-slice": one_slice_table}
