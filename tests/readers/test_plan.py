"""`clinreadnet plan-readers`: the planned slices give the intervals, in simulated readings."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import InputError
from clinreadnet.metrics import Interval, correlations, interval, resample_counts
from clinreadnet.readers.plan import (
    plan_readers,
    print_plan,
    slices_for_correlation,
    slices_for_icc,
)
from clinreadnet.readers.statistics import icc


def half_width(interval: Interval) -> float:
    return (interval["high"] - interval["low"]) / 2


@pytest.mark.parametrize("readers", [2, 5])
def test_simulated_readings_have_the_planned_intervals(readers: int) -> None:
    """Three slices of a patient correlate."""
    rng = np.random.default_rng(3)
    plan = plan_readers(
        agreement=0.6, correlation=0.85, slices_per_patient=3, within_patient=0.5, readers=[readers]
    )
    (row,) = plan.rows
    expected, widths = [], []
    for _ in range(40):
        patients = math.ceil(row.for_score * 2 / 3)
        level = rng.normal(size=(patients, 1)) * np.sqrt(0.5)
        true = (level + rng.normal(size=(patients, 3)) * np.sqrt(0.5)).ravel()
        own = rng.normal(size=(len(true), readers)) * np.sqrt(0.4 / 0.6)
        noise = rng.normal(size=patients)[:, None] * np.sqrt(0.5)
        noise = (noise + rng.normal(size=(patients, 3)) * np.sqrt(0.5)).ravel()
        score = 0.85 * true + np.sqrt(1 - 0.85**2) * noise
        grade = true + own.mean(axis=1)
        groups = np.repeat(np.arange(patients), 3)
        plcc = correlations(score, grade, groups=groups, resamples=300)["plcc"]
        expected.append(plcc["value"])
        widths.append(half_width(plcc))
    assert np.mean(expected) == pytest.approx(row.correlation, abs=0.02)
    # The design effect holds for means; for a correlation it is an upper bound.
    assert 0.07 < np.mean(widths) < 0.105


@pytest.mark.parametrize("readers", [2, 5])
def test_simulated_readers_have_the_planned_interval(readers: int) -> None:
    rng = np.random.default_rng(4)
    slices = slices_for_icc(0.6, readers, 0.1)
    widths = []
    for _ in range(40):
        true = rng.normal(size=(slices, 1)) * np.sqrt(0.6)
        grades = true + rng.normal(size=(slices, readers)) * np.sqrt(0.4)
        widths.append(half_width(interval(icc(grades, resample_counts(np.arange(slices), 300)))))
    assert np.mean(widths) == pytest.approx(0.1, rel=0.1)


def test_slices_of_fisher() -> None:
    n = slices_for_correlation(0.5, 0.1)
    for count, fits in ((n, True), (n - 1, False)):
        z, step = math.atanh(0.5), 1.959964 / math.sqrt(count - 3)
        assert ((math.tanh(z + step) - math.tanh(z - step)) / 2 <= 0.1) is fits
    rng = np.random.default_rng(5)
    widths = []
    for _ in range(40):
        x = rng.normal(size=n)
        y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=n)
        widths.append(half_width(correlations(x, y, resamples=300)["plcc"]))
    assert np.mean(widths) == pytest.approx(0.1, rel=0.1)


def test_more_readers_and_wider_intervals_need_fewer_slices() -> None:
    rows = plan_readers(0.1).rows
    assert [row.readers for row in rows] == [2, 3, 4, 5, 6, 8, 10]
    assert all(b.slices <= a.slices for a, b in zip(rows, rows[1:], strict=False))
    assert plan_readers(0.05).rows[0].slices > 3 * rows[0].slices
    several = plan_readers(0.1, slices_per_patient=4, within_patient=0.5).rows[0]
    assert several.slices == 4 * several.patients
    assert several.slices >= 2.5 * rows[0].slices and several.patients < rows[0].patients
    same = plan_readers(0.1, slices_per_patient=4, within_patient=1).rows[0]
    assert same.patients == rows[0].patients


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--half-width", "0"], "--half-width 0: give 0.005 or more"),
        (["--half-width", "0.5"], "--half-width 0.5: give 0.005 or more"),
        (["--half-width", "nan"], "--half-width nan"),
        (["--agreement", "1"], "--agreement 1: give a value between 0 and 1"),
        (["--correlation", "0"], "--correlation 0: give a value between 0 and 1"),
        (["--within-patient", "2"], "--within-patient 2: give a value from 0 to 1"),
        (["--slices-per-patient", "0"], "--slices-per-patient 0: give 1 or more"),
    ],
)
def test_a_value_out_of_range_is_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["plan-readers", *options])
    assert isinstance(result.exception, InputError) and message in str(result.exception)


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_table_fits_and_keeps_the_slices(width: int) -> None:
    file = io.StringIO()
    plan = plan_readers(slices_per_patient=3)
    print_plan(plan, Console(file=file, width=width))
    rows = [line for line in file.getvalue().splitlines() if "│" in line]
    assert all(len(line) <= width for line in rows)
    for row, line in zip(plan.rows, rows, strict=True):
        assert line.split("│")[1:3] == [f" {row.readers:<7} ", f" {row.slices:>6} "]


def test_json_has_the_rows_and_the_assumptions() -> None:
    result = CliRunner().invoke(app, ["plan-readers", "--agreement", "0.4", "--json"])
    document = json.loads(result.stdout)
    assert (document["agreement"], document["half_width"], len(document["rows"])) == (0.4, 0.1, 7)
