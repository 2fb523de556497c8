"""Tables of docs/benchmarking.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import recording
from bench.gpu_check.plan import STEPS
from bench.report.tables import (
    Table,
    arrivals_table,
    cold_start_table,
    end_to_end_table,
    energy_table,
    largest_rate,
    network_table,
    ops_table,
    peers_table,
)
from bench.results import RecordedRun
from bench.rows import BenchRow, KernelRow
from bench.sweeps.graph import by_kernel
from bench.tables.kernels import issue_ceiling
from bench.tables.recorded import by_machine, link, markdown, newest, read_json, source
from bench.targets import TARGET_DTYPE, TARGET_GPU, TARGETS, Compared
from clinreadnet.kernels.registry import OPS


def of_rows(make: Callable[[Sequence[BenchRow]], Table]) -> str:
    """Return a table of the network's rows for each machine."""
    return by_machine("test_network", lambda run: make(run.rows))


def kernel_rows(op: str) -> list[tuple[RecordedRun, KernelRow]]:
    """Return all recorded rows of an op's kernel with their runs."""
    return [(run, row) for run in newest("test_kernels") for row in run.kernels if row.op == op]


def compared(op: str) -> list[tuple[RecordedRun, Compared]]:
    """Return the recorded comparisons of an op, or of "network", with their runs."""
    if op == "network":
        return compared_networks()
    return [(run, Compared.of(row)) for run, row in kernel_rows(op)]


def compared_networks() -> list[tuple[RecordedRun, Compared]]:
    """Return comparisons of the compiled network with and without kernels, by batch."""
    names = {"torch-compile": "compile", "torch-triton": "kernel"}
    networks = []
    for run in newest("test_network"):
        rows = [row for row in run.rows if row.clock == "device graph"]
        for batch in sorted({row.batch for row in rows}):
            ms = {
                names[row.candidate]: 1e3 * row.p50
                for row in rows
                if row.candidate in names and (row.batch, row.precision) == (batch, "fp16")
            }
            if len(ms) == len(names):
                gpu = run.document["machine_info"]["gpu"]
                networks.append((run, Compared(gpu, "float16", batch, 1, ms)))
    return networks


def kernels_table() -> str:
    """Return times of each op on each GPU with baselines and issue ceiling."""
    rows = []
    names = ("kernel", "unfused", "compile", "sdpa-compile", "sdpa", "eager", "copy")
    for op in OPS:
        for run, row in kernel_rows(op):
            stage = "" if row.stage is None else f", stage {row.stage}"
            layer = f", {row.layer}" if row.layer else ""
            ceiling = issue_ceiling(op, row.stage, row.dtype, row.gpu, row.layer, row.batch)
            rows.append(
                [
                    f"`{op}`{stage}{layer}",
                    f"{row.dtype}, {row.batch}",
                    *(f"{row.ms[name]:.4f}" if name in row.ms else "" for name in names),
                    f"{row.bytes / 2**20:.1f}",
                    f"{row.percent_of_copy_bandwidth:.0f}",
                    "" if ceiling is None else f"{ceiling:.0f}",
                    row.gpu,
                    link(run),
                ]
            )
    head = ["op", "dtype, batch", "kernel, ms", "unfused", "compile", "SDPA compiled", "SDPA"]
    share = ["MiB moved", "% of copy", "predicted at most, %"]
    return markdown([*head, "eager", "copy", *share, "GPU", "recorded"], rows)


def kernel_targets_table() -> str:
    """Return the targets on ``TARGET_GPU`` in float16 and the worst measurements."""
    rows = []
    for target in TARGETS:
        values = [
            (value, run)
            for run, row in compared(target.op)
            if target.speaks_of(row) and (value := target.value(row)) is not None
        ]
        cells = [target.what, target.form.format(target.least), "not measured", "", ""]
        if values:
            worst, run = min(values, key=lambda pair: pair[0])
            verdict = "reached" if worst >= target.least else "missed"
            cells[2:] = [target.form.format(worst), verdict, link(run)]
        rows.append(cells)
    head = [f"{TARGET_GPU}, {TARGET_DTYPE}", "at least", "worst measured", "", "recorded"]
    return markdown(head, rows)


def checks() -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """Yield the recorded steps of `gpu-check`: file, name and content."""
    for path in sorted(recording.RESULTS.glob("*/*.json")):
        for name, check in read_json(path).get("checks", {}).items():
            yield path, name, check


def gpu_checks_table() -> str:
    """Return the results of the steps of `gpu-check` on each GPU."""
    rows = []
    for path, name, check in checks():
        tests = sum(unit.get("passed", 0) for unit in check["units"].values())
        recorded = f"[{path.stem}](../{path.relative_to(recording.ROOT).as_posix()})"
        proved = f"{tests} passed" if tests else ""
        cells = [name, check["what"], went(check["units"]), proved, path.parent.name, recorded]
        rows.append(cells)
    return _run(["step", "proves", "units", "tests", "GPU", "recorded"], rows)


def _run(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown(head, rows) if rows else "Not run.\n"


def check_rows(step: str) -> list[tuple[Path, dict[str, Any]]]:
    """Return the rows that the units of a step of `gpu-check` recorded, with their files."""
    return [
        (path, row)
        for path, name, check in checks()
        if name == step
        for unit in check["units"].values()
        for row in unit.get("rows", [])
    ]


def gpu_compiled_table() -> str:
    """Return the exported kernels that ran on each GPU, by op and precision."""
    groups: dict[tuple[Path, str, str], list[dict[str, Any]]] = {}
    for path, row in check_rows("compiled"):
        name, precision, *_ = row["file"].split(".")
        op = next(op for op in OPS if name.startswith(op))
        groups.setdefault((path, op, precision), []).append(row)
    rows = []
    for (path, op, precision), files in groups.items():
        failed = [row["file"] for row in files if row["failure"]]
        errors = [e for row in files for e in row["error_over_budget"].values() if e is not None]
        worst = f"{max(errors):.2f}" if errors else ""
        cells = [f"`{op}`", precision, str(len(files)), worst, ", ".join(failed)]
        rows.append([*cells, path.parent.name])
    return _run(["op", "precision", "files", "largest error over budget", "failed", "GPU"], rows)


def gpu_graph_table() -> str:
    """Return the time of each kernel inside the network's graph on each GPU, by batch."""
    groups: dict[tuple[Path, int], list[dict[str, Any]]] = {}
    for path, row in check_rows("graph"):
        groups.setdefault((path, row["batch"]), []).append(row)
    rows = []
    for (path, batch), launches in groups.items():
        total = sum(row["microseconds"] for row in launches)
        for kernel, (count, microseconds) in by_kernel(launches).items():
            share = f"{100 * microseconds / total:.1f}"
            cells = [f"`{kernel}`", str(count), f"{microseconds:.1f}", share]
            rows.append([str(batch), *cells, path.parent.name])
    return _run(["batch", "kernel", "launches", "us", "% of all", "GPU"], rows)


def gpu_plan_table() -> str:
    """Return the steps of `gpu-check`."""
    rows, seconds = [], 0.0
    for name, step in STEPS.items():
        needs = sorted(
            {need for unit in step.units for need in (*unit.needs, *unit.tool[:1], *unit.programs)}
        )
        limit = sum(unit.limit for unit in step.units)
        seconds += limit
        needed = ", ".join(f"`{need}`" for need in needs)
        minutes = f"{limit / 60:.1f}", f"{seconds / 60:.1f}"
        rows.append([f"`{name}`", step.what, str(len(step.units)), needed, *minutes])
    return markdown(["step", "proves", "units", "needs", "at most, minutes", "in all"], rows)


def went(units: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the number of units by status, with reasons unless they passed."""
    parts = []
    for status in ("passed", "failed", "skipped", "did not fit"):
        names = [name for name, unit in units.items() if unit["status"] == status]
        if not names:
            continue
        why = "; ".join(f"{name}: {units[name]['note']}" for name in names)
        parts.append(f"{len(names)} {status}" + (f" ({why})" if status != "passed" else ""))
    return ", ".join(parts)


def scaling() -> str:
    """Return rates by workers and threads, and hours for a million slices."""
    run = read_json(recording.RESULTS / "scaling" / "scaling.json")
    first = {row["what"]: row["slices_per_second"] for row in reversed(run["rows"])}
    rows = [
        [
            f"`{row['what']}`",
            str(row["workers"]),
            str(row["threads"]),
            f"{row['slices_per_second']:.2f}",
            f"{row['slices_per_second'] / first[row['what']]:.2f}",
            f"{1e6 / row['slices_per_second'] / 3600:.0f}",
        ]
        for row in run["rows"]
    ]
    head = ["", "workers", "threads of each", "slices/s", "× the first"]
    where = (
        f"`{run['command']}`, commit {run['commit'][:7]}, {run['hardware']}, "
        f"{run['processors']} processors, {run['slices']} slices, median of "
        f"{len(run['rows'][0]['seconds'])}.\n"
    )
    return markdown([*head, "hours for a million slices"], rows) + "\n" + where


def cpu_engine() -> str:
    """Return shares of a core's peak, threads, start and memory of the CPU engine."""
    parts = []
    for path in sorted((recording.RESULTS / "cpu-engine").glob("*.json")):
        run = read_json(path)
        rows = [
            [
                f"`{row['instructions']}`",
                row["precision"],
                f"{row['peak_gflops_per_core']:.0f}",
                f"{row['ms_one_thread']:.1f}",
                f"{row['percent_of_peak']:.0f}",
                f"{row['ms_all_threads']:.1f}",
                f"{row['threads_ratio']:.2f}",
            ]
            for row in run["rows"]
        ]
        head = [
            *("instructions", "precision", "peak of a core, GFLOP/s", "ms, one thread"),
            *("% of peak", f"ms, {run['threads']} threads", "× one thread"),
        ]
        starts = ", ".join(
            f"{precision} {start['median']:.2f} s (best {start['best']:.2f})"
            for precision, start in run["start_seconds"].items()
        )
        parts += [
            markdown(head, rows),
            f"Start of a process to its first score: {starts}. "
            f"Peak memory of `score` on {run['score_slices']} slices: "
            f"{run['score_memory_mib']} MiB.\n",
            f"{source(run)}, {run['threads']} threads.\n",
        ]
    return "\n".join(parts)


def arrivals() -> str:
    """Return the table of arrivals of each machine, and the largest rate within the limit."""
    notes = [f"{largest_rate(run)}\n" for run in newest("test_arrivals")]
    return "\n".join([by_machine("test_arrivals", arrivals_table), *notes])


TABLES: dict[str, Callable[[], str]] = {
    "arrivals": arrivals,
    "cpu-engine": cpu_engine,
    "cold-start": lambda: by_machine("test_network", cold_start_table),
    "energy": lambda: of_rows(energy_table),
    "gpu-checks": gpu_checks_table,
    "gpu-compiled": gpu_compiled_table,
    "gpu-graph": gpu_graph_table,
    "gpu-kernels": kernels_table,
    "gpu-plan": gpu_plan_table,
    "kernel-targets": kernel_targets_table,
    "network": lambda: of_rows(network_table),
    "ops": lambda: by_machine("test_ops", ops_table),
    "peers": lambda: of_rows(peers_table),
    "scaling": scaling,
    "score-speed": lambda: by_machine("test_score_speed", end_to_end_table),
}
