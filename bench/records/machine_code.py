"""Compile all kernels for all architectures, and record resources and instruction counts.

    python -m bench.records.machine_code > bench/results/kernels/machine-code.json

Ceilings are bounds from the machine code, not measurements. No GPU is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import triton

from bench.measure.cards import CARDS
from bench.measure.machine_code import count, kernels
from bench.recording import RESULTS, print_record, run_facts
from clinreadnet.kernels.dispatch import DTYPES
from clinreadnet.kernels.spec import KernelSource, OpSpec

RECORD = RESULTS / "kernels" / "machine-code.json"


def counted(
    capability: int,
    dtypes: Iterable[str] = tuple(DTYPES),
    chosen: Sequence[tuple[OpSpec, KernelSource]] | None = None,
) -> list[dict[str, Any]]:
    """Return the counts of kernels (default all) on an architecture, as plain JSON values."""
    rows = []
    for spec, source in kernels() if chosen is None else chosen:
        for dtype in dtypes:
            if case := spec.case(capability, dtype, source.shape):
                counts = count(spec, source, case)
                row = {"kernel": source.name, "dtype": dtype, "capability": capability}
                numbers = asdict(counts) | {
                    "bytes": round(counts.bytes),
                    "flops": round(counts.flops),
                    "occupancy": round(counts.occupancy, 4),
                    "ceiling": round(counts.ceiling, 4),
                }
                rows.append(row | {"issued": counts.issued} | numbers)
    return rows


def main() -> int:
    """Print all counts as JSON."""
    record = {
        **run_facts("make kernel-table"),
        "triton": triton.__version__,
        "gpus": {
            capability: {"name": card.name, "copy_bytes_per_cycle": round(card.copy, 2)}
            for capability, card in CARDS.items()
        },
        "kernels": [row for capability in CARDS for row in counted(capability)],
    }
    return print_record(record)


if __name__ == "__main__":
    sys.exit(main())
