"""Tables of a recorded run, as Markdown for the docs and HTML for the page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results import RecordedRun
from bench.rows import BenchRow
from clinreadnet.runtime.bundle.manifest import NOT_RUN, Manifest, Parity
from clinreadnet.runtime.records import place

NOT_MEASURED = "Not measured."
NOT_MEASURED_HERE = "not measured"
"""Text of a cell without a measurement."""


@dataclass(frozen=True)
class Table:
    """A table: column headings and rows of plain text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table in Markdown, or "Not measured." without rows."""
        if not self.rows:
            return NOT_MEASURED + "\n"
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def html(self) -> str:
        """Return an HTML table, or a paragraph "Not measured." without rows."""
        if not self.rows:
            return f"<p>{NOT_MEASURED}</p>"

        names = [html.escape(name, quote=True) for name in self.head]
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "\n".join(
            "<tr>"
            + "".join(
                # On a narrow screen each cell is on its own line, beside its heading.
                f'<td data-head="{name}">{_marked(cell)}</td>'
                for name, cell in zip(names, row, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _marked(text: str) -> str:
    """Return a text as HTML, with code between backticks."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text))


def share_of_limit(percent: float) -> str:
    """Return the share of the roofline, or an empty string above 100 %.

    The rate of 8-bit products is not measured, and that of a wider precision is not a bound.
    """
    return f"{percent:.0f}" if percent <= 100 else ""


def network_table(rows: Sequence[BenchRow]) -> Table:
    """Return all rows of the network: percentiles, ratio, percent of the limit, marks."""
    head = ("backend", "batch", "clock", "marks", "p50 ms", "95 %", "p90", "p99", "n")
    speed = ("slices/s", "× baseline", "% of limit")
    return Table((*head, *speed), tuple(_network_row(row) for row in ordered(rows)))


def ordered(rows: Sequence[BenchRow]) -> list[BenchRow]:
    """Sort rows by clock, batch and time."""
    return sorted(rows, key=lambda row: (row.clock != "host", row.clock, row.batch, row.p50))


def _network_row(row: BenchRow) -> tuple[str, ...]:
    return (
        row.title + (" (peer)" if row.role == "peer" else ""),
        str(row.batch),
        row.clock,
        ", ".join(row.marks),
        f"{1e3 * row.p50:.4g}",
        f"{1e3 * row.interval[0]:.4g} … {1e3 * row.interval[1]:.4g}",
        f"{1e3 * row.p90:.4g}",
        f"{1e3 * row.p99:.4g}",
        str(row.n),
        f"{row.throughput:.4g}",
        "" if row.ratio is None else "{:.2f} ({:.2f} … {:.2f})".format(*row.ratio),
        share_of_limit(row.percent_of_limit),
    )


def energy_table(rows: Sequence[BenchRow]) -> Table:
    """Return energy per slice and memory on a GPU."""
    measured = [
        (
            row.title,
            str(row.batch),
            row.clock,
            f"{row.joules_per_slice:.3g}",
            f"{row.gpu_memory_mib:.0f}",
        )
        for row in ordered(rows)
        if row.joules_per_slice is not None and row.gpu_memory_mib is not None
    ]
    return Table(
        ("backend", "batch", "clock", "J per slice", "MiB in use on the GPU"), tuple(measured)
    )


def peers_table(measured: Sequence[BenchRow]) -> Table:
    """Compare artifacts with the fastest peer of equal or better precision, by batch."""
    rows = []
    for clock in dict.fromkeys(row.clock for row in measured):
        for batch in sorted({row.batch for row in measured}):
            rows_of_batch = [row for row in measured if (row.clock, row.batch) == (clock, batch)]
            for precision in dict.fromkeys(row.precision for row in rows_of_batch):
                same = [row for row in rows_of_batch if row.precision == precision]
                ours = min((r for r in same if r.role == "artifact"), key=_p50, default=None)
                peer = min((r for r in same if r.role == "peer"), key=_p50, default=None)
                if peer is not None:
                    rows.append((clock, str(batch), precision, *_against(ours, peer)))
    head = ("clock", "batch", "precision", "ours", "ms", "best peer", "ms", "peer's time / ours")
    return Table((*head, "verdict"), tuple(rows))


def _p50(row: BenchRow) -> float:
    return row.p50


def _against(ours: BenchRow | None, peer: BenchRow) -> tuple[str, ...]:
    theirs = (peer.candidate, f"{1e3 * peer.p50:.4g}")
    if ours is None:
        return ("", "", *theirs, "", "no artifact of this precision here")
    ratio = peer.p50 / ours.p50
    if ours.interval[1] < peer.interval[0]:
        verdict = "faster"
    elif peer.interval[1] < ours.interval[0]:
        verdict = f"slower by {100 * (1 / ratio - 1):.0f} %"
    else:
        verdict = "intervals overlap"
    return (ours.candidate, f"{1e3 * ours.p50:.4g}", *theirs, f"{ratio:.2f}", verdict)


def cold_start_table(run: RecordedRun) -> Table:
    """Return times of loading and of the first run in a new process."""
    rows = [
        (f"{row.candidate} {row.precision}", f"{row.load:.2f}", f"{row.first:.2f}", str(row.n))
        for row in run.cold_starts
    ]
    return Table(("backend", "load, s", "first run, s", "processes"), tuple(rows))


def arrivals_table(run: RecordedRun) -> Table:
    """Return times from arrival to score, by MLPerf scenario."""
    rows = [
        (
            row.title,
            str(row.batch),
            row.scenario,
            "" if row.rate is None else f"{row.rate:.3g}",
            f"{row.slices_per_second:.3g}",
            f"{1e3 * row.p50:.4g}",
            f"{1e3 * row.p90:.4g}",
            "" if row.tail is None else f"{1e3 * row.tail:.4g}",
            str(row.n),
        )
        for row in run.arrivals
    ]
    head = ("backend", "batch", "scenario", "arrive/s", "scored/s", "p50 ms", "p90", "p99", "n")
    return Table(head, tuple(rows))


def largest_rate(run: RecordedRun, limit: float = 1.0) -> str:
    """Return a sentence with the largest rate of arrivals whose p99 is within a limit.

    Args:
        run: recorded run.
        limit: largest time from arrival to score in seconds.
    """
    served = [
        (row.rate, row.title, row.tail)
        for row in run.arrivals
        if row.rate is not None and row.tail is not None
    ]
    within = [(rate, title) for rate, title, tail in served if tail <= limit]
    if not served:
        return ""
    most = (
        f"{max(within)[0]:.3g} slices/s ({max(within)[1]})" if within else "none that was measured"
    )
    return f"Largest rate of arrivals with p99 within {1e3 * limit:.0f} ms: {most}."


def end_to_end_table(run: RecordedRun) -> Table:
    """Return times from DICOM files to scores, and of their parts."""
    rows = []
    for benchmark in run.document["benchmarks"]:
        if "test_score_speed" not in benchmark["fullname"]:
            continue
        extra, stats = benchmark["extra_info"], benchmark["stats"]
        speed, peak = extra.get("slices_per_second"), extra.get("peak_mib")
        rows.append(
            (
                benchmark["name"],
                f"{1e3 * stats['min']:.0f} / {1e3 * stats['median']:.0f}",
                str(stats["rounds"]),
                "" if speed is None else f"{speed:.1f}",
                "" if peak is None else str(peak),
            )
        )
    return Table(("benchmark", "ms, best / median", "n", "slices/s", "peak MiB"), tuple(rows))


def ops_table(run: RecordedRun) -> Table:
    """Return work and least time of each op at batch 1 in float32."""
    rows = [
        (
            row.what,
            f"{row.flops / 1e9:.3f}",
            f"{row.bytes / 2**20:.1f}",
            f"{1e3 * row.limit:.3f}",
            "" if row.p50 is None else f"{1e3 * row.p50:.3f}",
            "" if row.percent_of_limit is None else f"{row.percent_of_limit:.0f}",
        )
        for row in run.ops
    ]
    head = ("op", "GFLOP", "MiB at least", "limit, ms", "reference, ms", "% of limit")
    return Table(head, tuple(rows))


def artifacts_table(manifest: Manifest) -> Table:
    """Return the artifacts of a bundle with their accuracy, a row for each record."""
    rows = []
    results = [
        (artifact, parity)
        for artifact in manifest.artifacts
        for parity in (artifact.parity or Parity(NOT_RUN), *artifact.records)
    ]
    for artifact, parity in results:
        where = "" if parity.ran_on is None else f" on {place(parity.ran_on)}"
        flips = parity.in_domain_flips
        worst = (parity.worst_score_difference, parity.worst_tile_difference)
        maps = [f"{v:.1e}" for v in parity.map_difference.values() if v is not None]
        rows.append(
            (
                artifact.file,
                artifact.precision,
                artifact.target or "",
                f"{artifact.size / 2**20:.1f}",
                parity.status + where,
                *map(_difference, (*worst, parity.worst_novelty_difference)),
                ", ".join(maps) or NOT_MEASURED_HERE,
                NOT_MEASURED_HERE if flips is None else str(flips),
                artifact.sha256[:12],
            )
        )
    head = ("artifact", "precision", "target", "MiB", "parity", "worst Δscore", "worst Δtile")
    more = ("worst Δnovelty", "Δmap correlation, RMSE ratio", "in-domain flips", "SHA-256")
    return Table((*head, *more), tuple(rows))


def _difference(value: float | None) -> str:
    return NOT_MEASURED_HERE if value is None else f"{value:.1e}"
