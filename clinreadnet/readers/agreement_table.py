"""Tables of `clinreadnet agree`, fitted to the width of the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from rich.console import Console

from clinreadnet.console import Column, fitted_table, print_lines
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
    _print_visible(console, [subject(result)])
    columns = interval_columns(result.among.values())
    _print_measures(console, "Readers with each other", columns, result.among)
    columns = interval_columns(result.score.values())
    if result.reader:
        columns.append(Column("a reader", [number(v) for v in result.reader.values()], 2))
    _print_measures(console, "Score with the mean grade of the readers", columns, result.score)
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
        title="Second minus first, on the site's scale",
    )
    console.print(table)
    if len(shown) < len(result.pairs):
        more = counted(len(result.pairs) - len(shown), "more pair")
        _print_visible(console, [f"and {more}; --json has all"])
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
            title="Score with the mean grade, by group",
        )
        console.print(table)
    _print_visible(console, [*result.notes, RESEARCH_USE])


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


def interval_columns(values: Collection[Interval]) -> list[Column]:
    """Return the columns of values and their intervals."""
    return [
        Column("value", [number(value["value"]) for value in values]),
        Column(f"{CONFIDENCE:.0%}", [span(value) for value in values], 1),
    ]


def _print_measures(
    console: Console, title: str, columns: list[Column], values: Mapping[str, Interval]
) -> None:
    if values:
        names = [(AMONG | NAMES)[name] for name in values]
        console.print(fitted_table(console, "measure", names, columns, title=title))


def _print_visible(console: Console, lines: Sequence[str]) -> None:
    print_lines(console, *map(visible, lines))
