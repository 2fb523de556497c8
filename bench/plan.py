"""Select the rows of `pytest bench` without options: those that decide which backend to deploy."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.report.recommend import DEFAULT_BUDGET, choose
from bench.results import called
from bench.rows import BenchRow
from bench.run import BRIEF
from clinreadnet.errors import ClinReadNetError
from clinreadnet.processor import cpu_name
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.gpu import find_gpus

if TYPE_CHECKING:
    from bench.sweeps.candidates import Candidate
    from bench.sweeps.network import Group

SETUP_SECONDS = 12.0
"""Seconds per candidate to load, compare with the golden slices and warm up. Candidates take 6 to
12 s on two processors."""
LEFT_OUT = (
    "larger batches, cold starts, arrivals, ops, files to scores, and PyTorch itself, which takes "
    "minutes to compile"
)


def is_brief(config: pytest.Config) -> bool:
    """Return whether `pytest bench` runs without a file, ``-k`` or ``--thorough``."""
    chosen = ("--quick", "--thorough", "keyword", "markexpr")
    if any(config.getoption(name, None) for name in chosen):
        return False
    folder = Path(__file__).parent
    return bool(config.args) and all(
        (config.invocation_params.dir / word).resolve() == folder for word in config.args
    )


def row_of(item: pytest.Item) -> tuple[Group, Candidate] | None:
    """Return group and candidate of a row of the network, or None."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return (parameters["group"], parameters["candidate"]) if "group" in parameters else None


def order_by_group(items: list[pytest.Item]) -> None:
    """Order the rows of the network by group, the first seen first, in their places of a list."""
    groups: dict[Group, list[pytest.Item]] = {}
    for item in items:
        if row := row_of(item):
            groups.setdefault(row[0], []).append(item)
    rows = chain.from_iterable(groups.values())
    items[:] = [next(rows) if row_of(item) else item for item in items]


def decides(item: pytest.Item) -> bool:
    """Return whether a row is a single slice in host memory on a deployable backend.

    Rows for missing backends are included.
    """
    from bench.sweeps.candidates import COMPILED

    if (row := row_of(item)) is None:
        return getattr(item, "originalname", "") == "test_missing"
    group, candidate = row
    deployable = candidate.role != "reference" and candidate.name not in COMPILED
    return group == (1, "host") and deployable


def announcement(items: Iterable[pytest.Item]) -> list[str]:
    """Return lines with the measured rows, the omitted rows and the approximate time."""
    titles = [row[1].title for item in items if (row := row_of(item)) is not None]
    seconds = SETUP_SECONDS * len(titles) + BRIEF.interleave["seconds"]
    return [
        f"bench: one slice, host memory to scores, on {len(titles)} candidates: "
        f"{', '.join(titles) or 'none'}",
        f"bench: takes about {math.ceil(seconds / 60)} minutes on two processors; stop other "
        "programs; Ctrl-C keeps whole rounds",
        f"bench: leaves out {LEFT_OUT}: `pytest bench --thorough` measures them",
    ]


def answer(rows: Sequence[BenchRow], bundle: Path) -> list[str]:
    """Return which artifact to deploy on this machine, and why not the faster ones."""
    gpus = find_gpus()
    gpu = gpus[0].name if gpus else None
    try:
        chosen = choose(
            rows,
            load_manifest(bundle),
            DEFAULT_BUDGET,
            machine=called(gpu or f"{cpu_name()}, {os.cpu_count()} threads"),
            gpu=gpu,
        )
    except ClinReadNetError as error:
        return [str(error)]
    return chosen.lines()
