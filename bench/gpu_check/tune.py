"""Tune an entry of the launch configurations whose kernel lost on this GPU.

A kernel loses if a baseline is faster, or if it misses a target of docs/benchmarking.md, in the
rows of the step `kernels` that this run recorded. The first rank is the entry whose lost launches
take most time in the network. Entries without rows follow, such as those of batch 1, which the step
does not measure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.gpu_check.plan import ROOT, TUNED
from bench.recording import results_of
from bench.rows import KernelRow
from bench.targets import TARGET_DTYPE, TARGETS, Compared
from clinreadnet.kernels.registry import OPS
from clinreadnet.model.network import ClinReadNetConfig

CANDIDATES = 8
"""Most candidates of an entry to time."""
NOT_BASELINES = ("kernel", "copy")


def entries() -> list[str]:
    """Return the entries of ``TUNED``, as `clinreadnet tune --entry` names them."""
    return [f"{op}/{TARGET_DTYPE}/{keys}" for op, all_keys in TUNED.items() for keys in all_keys]


def measured(path: Path) -> list[KernelRow]:
    """Return the rows of the kernels in a file of results, which need not exist."""
    if not path.exists():
        return []
    benchmarks = json.loads(path.read_text("utf-8")).get("benchmarks", [])
    facts = [benchmark["extra_info"] for benchmark in benchmarks]
    return [KernelRow.from_json(row) for row in facts if KernelRow.holds(row)]


def why_lost(row: KernelRow) -> str | None:
    """Return the faster baseline or the missed target of a row, or None."""
    others = {name: ms for name, ms in row.ms.items() if name not in NOT_BASELINES}
    fastest = min(others, key=others.__getitem__)
    if others[fastest] < row.ms["kernel"]:
        return f"{fastest} takes {others[fastest]:.4f} ms"
    compared = Compared.of(row)
    for target in TARGETS:
        value = target.value(compared) if target.op == row.op else None
        if value is not None and target.speaks_of(compared) and value < target.least:
            reached, least = target.form.format(value), target.form.format(target.least)
            return f"{target.what}: {reached}, at least {least}"
    return None


def rows_of(entry: str, rows: Iterable[KernelRow]) -> Iterator[KernelRow]:
    """Yield the rows whose kernels an entry configures."""
    op, dtype, *keys = entry.split("/")
    shapes = [shape for _, _, shape in OPS[op].tuning(dtype, *keys).timed]
    for row in rows:
        if (row.op, row.dtype) == (op, dtype) and any(
            (int(shape.name.split()[1]) if "stage" in shape.name else None) == row.stage
            and (shape.linear or shape.spread) == row.layer
            and shape.batch in (None, row.batch)
            for shape in shapes
        ):
            yield row


def total(rows: Iterable[KernelRow]) -> float:
    """Return the milliseconds of all launches of these kernels in the preset `small`."""
    depths = ClinReadNetConfig().depths
    return sum(
        row.ms["kernel"]
        * (1 if row.stage is None or row.layer in ("merge", "head") else depths[row.stage - 1])
        for row in rows
    )


def lost(rows: Sequence[KernelRow]) -> dict[str, list[KernelRow]]:
    """Return the entries with kernels that lost, and the lost rows, the longest time first."""
    losers = [row for row in rows if why_lost(row) is not None]
    found = {entry: list(rows_of(entry, losers)) for entry in entries()}
    return dict(sorted(((e, r) for e, r in found.items() if r), key=lambda pair: -total(pair[1])))


def unmeasured(rows: Sequence[KernelRow]) -> list[str]:
    """Return the entries of which no kernel was measured."""
    return [entry for entry in entries() if not any(rows_of(entry, rows))]


def main(arguments: Sequence[str]) -> int:
    """Tune the entry of a rank; return the exit status of `clinreadnet tune`."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check.tune", description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of recorded results")
    parser.add_argument("--rank", type=int, required=True, help="entry to tune, from 1")
    parser.add_argument("--rows", type=Path, required=True, help="file to append trials to")
    parser.add_argument("--out", type=Path, required=True, help="launch table to write")
    parser.add_argument("--dry-run", action="store_true", help="print the entry, tune nothing")
    options = parser.parse_args(arguments)
    rows = measured(results_of(options.results))
    losers = lost(rows)
    others = unmeasured(rows)
    print(f"lost: {', '.join(losers) or 'nothing'}")
    print(f"not measured: {', '.join(others) or 'nothing'}")
    order = [*losers, *others]
    if options.rank > len(order):
        return 0
    entry = order[options.rank - 1]
    print(f"{options.rank} of {len(order)}: {entry}")
    for row in losers.get(entry, ()):
        layer = f"stage {row.stage} {row.layer}".rstrip() if row.stage else "stem"
        print(f"  {layer}, batch {row.batch}: {row.ms['kernel']:.4f} ms; {why_lost(row)}")
    if options.dry_run:
        return 0
    command = [sys.executable, "-m", "clinreadnet.cli", "tune", "--entry", entry]
    command += ["--candidates", str(CANDIDATES), "--rows", str(options.rows)]
    return subprocess.run([*command, "--out", str(options.out)], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
