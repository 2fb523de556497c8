"""Tables of `clinreadnet agree`, fitted to the width of the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from clinreadnet.console import Column, fitted_table
from clinreadnet.errors import counted, visible
from clinreadnet.metrics import Interval
from clinreadnet.readers.agreement import Agreement, unit
from clinreadnet.scoring.estimate import CONFIDENCE
from clinreadnet.spec import RESEARCH_USE

AMONG = {"kappa": "kappa", "icc": "ICC(2,1)", "alpha": "alpha"}
"""Names of the coefficients of readers in tables."""
NAMES = {"plcc": "PLCC", "srocc": "SROCC", "krocc": "KROCC", "mae": "MAE", "kappa": "kappa"}
"""Names of the measures of the score in tables."""
MOST_PAIRS = 50
"""Pairs that are shown; ``--json`` has all."""


def print_agreement(result: Agreement, console: Console) -> None:
    """Print what is compared, the tables and the notes."""
    _print_lines(console, [subject(result)])
    columns = _columns(result.among)
    _print_table(console, "Readers with each other", columns, result.among)
    columns = _columns(result.score)
    if result.reader:
        columns.append(Column("a reader", [number(v) for v in result.reader.values()], 2))
    _print_table(console, "Score with the mean grade of the readers", columns, result.score)
    shown = result.pairs[:MOST_PAIRS]
    names = [f"{visible(pair.first)} - {visible(pair.second)}" for pair in shown]
    table = fitted_table(
        console,
        "pair",
        names,
        [
            Column("slices", [str(pair.slices) for pair in shown], 3),
            Column("kappa", [number(pair.kappa) for pair in shown]),
            Column("bias", [signed(pair.bias) for pair in shown], 1),
            Column("limits", [limits_of(pair.low, pair.high) for pair in shown], 2),
        ],
    )
    table.title, table.title_justify = Text("Second minus first, on the site's scale"), "left"
    console.print(table)
    if len(shown) < len(result.pairs):
        _print_lines(
            console, [f"and {counted(len(result.pairs) - len(shown), 'more pair')}; --json has all"]
        )
    groups = [group for group in result.groups if group.score is not None]
    if groups:
        scores = [group.score or {} for group in groups]
        table = fitted_table(
            console,
            "group",
            [f"{group.by} {visible(group.name)}" for group in groups],
            [
                Column(unit(result.by_patient), [str(group.clusters) for group in groups], 2),
                Column("SROCC", [number(score["srocc"]["value"]) for score in scores]),
                Column(f"{CONFIDENCE:.0%}", [span(score["srocc"]) for score in scores], 1),
                Column("MAE", [number(score["mae"]["value"]) for score in scores]),
            ],
        )
        table.title, table.title_justify = Text("Score with the mean grade, by group"), "left"
        console.print(table)
    _print_lines(console, [*result.notes, RESEARCH_USE])


def subject(result: Agreement) -> str:
    """Return what was compared as one line."""
    labels = result.reading.labels
    k = len(labels.readers)
    of = f" of {counted(result.clusters, 'patient')}" if result.by_patient else ""
    return (
        f"{counted(len(labels.names), 'slice')}{of}, {counted(k, 'reader')}, grades {labels.scale}"
    )


def number(value: float) -> str:
    """Return a value with two digits; empty if it is not defined."""
    return f"{value:z.2f}" if np.isfinite(value) else ""


def signed(value: float) -> str:
    """Return a value with its sign; empty if it is not defined."""
    return f"{value:+z.2f}" if np.isfinite(value) else ""


def limits_of(low: float, high: float) -> str:
    """Return limits with their signs; empty if they are not defined."""
    return f"{low:+z.2f} ... {high:+z.2f}" if np.isfinite(low) else ""


def span(value: Interval) -> str:
    """Return an interval; empty if it is not defined."""
    return f"{value['low']:z.2f} ... {value['high']:z.2f}" if np.isfinite(value["low"]) else ""


def _columns(values: Mapping[str, Interval]) -> list[Column]:
    return [
        Column("value", [number(value["value"]) for value in values.values()]),
        Column(f"{CONFIDENCE:.0%}", [span(value) for value in values.values()], 1),
    ]


def _print_table(
    console: Console, title: str, columns: list[Column], values: Mapping[str, Interval]
) -> None:
    if not values:
        return
    table = fitted_table(console, "measure", [(AMONG | NAMES)[name] for name in values], columns)
    table.title, table.title_justify = Text(title), "left"
    console.print(table)


def _print_lines(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(visible(line), highlight=False, markup=False, soft_wrap=True)
