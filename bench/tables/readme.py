"""Tables of README.md."""

from __future__ import annotations

from bench.tables.recorded import markdown, newest, where


def one_slice_table() -> str:
    """What one slice takes with the fastest artifact, beside the fastest peer of the same run."""
    rows = []
    for run in newest("test_network"):
        here = [row for row in run.rows if (row.batch, row.clock) == (1, "host")]
        ours = min((r for r in here if r.role == "artifact"), key=lambda r: r.p50, default=None)
        if ours is None:
            continue
        ratio = "" if ours.ratio is None else "{:.2f} ({:.2f} … {:.2f})".format(*ours.ratio)
        link = f"[{run.path.stem}]({where(run)})"
        peer = ours.baseline or ""
        rows.append([ours.title, f"{1e3 * ours.p50:.0f}", peer, ratio, run.hardware, link])
    head = ["one slice, host memory to scores", "ms, median", "fastest peer"]
    return markdown([*head, "its time / ours (95 %)", "machine", "recorded"], rows)


TABLES = {"one-slice": one_slice_table}
