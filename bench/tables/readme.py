"""Tables of README.md."""

from __future__ import annotations

from bench.rows import BenchRow
from bench.tables.model_card import REAL_SLICES
from bench.tables.recorded import markdown, newest, read_json, where


def one_slice_table() -> str:
    """Return the four fastest artifacts of each machine, each beside its fastest peer."""
    rows = []
    for run in newest("test_network"):
        measured = [row for row in run.rows if (row.batch, row.clock) == (1, "host")]
        best: dict[str, BenchRow] = {}
        for row in sorted(measured, key=lambda row: row.p50):
            if row.role == "artifact":
                best.setdefault(row.title, row)
        for ours in [*best.values()][:4]:
            ratio = "" if ours.ratio is None else "{:.2f} ({:.2f} … {:.2f})".format(*ours.ratio)
            link = f"[{run.path.stem}]({where(run)})"
            peer = ours.baseline or ""
            rows.append([ours.title, f"{1e3 * ours.p50:.0f}", peer, ratio, run.hardware, link])
    head = ["one slice, host memory to scores", "ms, median", "fastest peer"]
    return markdown([*head, "its time / ours (95 %)", "machine", "recorded"], rows)


def foreign_line() -> str:
    """Return the number of marked real slices of each kind as a sentence."""
    sets = read_json(REAL_SLICES)["sets"]

    def counts(*kinds: str, used: bool) -> str:
        some = [row for row in sets if row["kind"] in kinds and row["used"] is used]
        return f"{sum(row['marked'] for row in some)} of {sum(row['slices'] for row in some)}"

    foreign, more = counts("foreign", used=True), counts("foreign", used=False)
    own, others = (counts("abdomen", "edge", used=used) for used in (True, False))
    return (
        f"Of real heads, chests, shoulders and maps, {foreign} slices are marked, and {more} that\n"
        f"no limit was drawn with. Of real abdomens and domes of the liver, {own} and {others}\n"
        "([which](clinreadnet/weights/small.md#which-slices-it-refuses)).\n"
    )


TABLES = {"foreign": foreign_line, "one-slice": one_slice_table}
