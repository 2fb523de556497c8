"""`clinreadnet fit-site-map`: the fit, its cross-validation, and bad input."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import run_command
from support.score_files import write_csv, write_json
from support.site_readers import WEIGHTS, site, write_grades
from support.tiny_bundle import write_bundle

from clinreadnet.errors import InputError
from clinreadnet.readers.fit import Fit, fit_site_map
from clinreadnet.readers.labels import Labels, Reading, Scale
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.scoring.site_map import read_site_map

run = partial(run_command, "fit-site-map")


def reading(
    score: np.ndarray, grades: np.ndarray, patients: np.ndarray | None = None, scale: Any = None
) -> Reading:
    n = len(score)
    names = tuple(f"{index}" for index in range(n))
    whose = (None,) * n if patients is None else tuple(f"P{p}" for p in patients)
    readers = tuple("ABCDE"[: grades.shape[1]])
    facts = dict.fromkeys(("scanner", "protocol", "size"), (None,) * n)
    labels = Labels(names, readers, grades, scale or Scale(), whose, facts)
    return Reading(labels, score, WEIGHTS, (), 0)


def fitted(noise: float, scale: Scale, seed: int = 0, patients: int = 60) -> Fit:
    """Fit a map to readers who grade the square of the score, on another scale."""
    rng = np.random.default_rng(seed)
    whose = np.repeat(np.arange(patients), 4)
    score = np.clip(
        np.repeat(rng.uniform(0, 4, patients), 4) + 0.1 * rng.normal(size=4 * patients), 0, 4
    )
    own = scale.of_score(score**2 / 4)[:, None] + noise * rng.normal(size=(len(score), 3))
    low, high = sorted((scale.bad, scale.excellent))
    return fit_site_map(reading(score, np.clip(own, low, high), whose, scale), WEIGHTS)


@pytest.mark.parametrize("scale", [Scale(), Scale(1, 5), Scale(5, 1)], ids=str)
def test_it_finds_a_known_map(scale: Scale) -> None:
    result = fitted(0.2, scale)
    scores = np.linspace(0.2, 3.8, 40)
    error = result.site_map.apply(scores) - scale.of_score(scores**2 / 4)
    assert np.abs(error).mean() < 0.06
    assert (np.diff(result.site_map.grades) * scale.direction >= 0).all()
    assert result.after["value"] < 0.3 * result.before["value"]
    assert result.after["low"] < result.after["value"] < result.after["high"]
    assert (result.site_map.patients, result.site_map.readers, result.clusters) == (60, 3, 60)


def test_the_cross_validated_error_is_that_of_new_patients() -> None:
    """A step function can follow the fitted slices, but not those of new patients."""
    result = fitted(0.8, Scale())
    rng = np.random.default_rng(9)
    score = rng.uniform(0, 4, 20_000)
    new = np.clip((score**2 / 4)[:, None] + 0.8 * rng.normal(size=(len(score), 3)), 0, 4)
    error = np.abs(result.site_map.apply(score) - new.mean(axis=1)).mean()
    assert result.after["low"] < error < result.after["high"]


def test_slices_of_a_patient_are_in_one_part() -> None:
    """Grades depend on the patient alone, so other slices of the patient would predict them."""
    rng = np.random.default_rng(1)
    whose = np.repeat(np.arange(30), 10)
    score = np.repeat(rng.uniform(0, 4, 30), 10) + 1e-6 * np.tile(np.arange(10), 30)
    grade = np.clip(score / 2 + np.repeat(rng.normal(size=30), 10), 0, 4)[:, None]
    by_patient = fit_site_map(reading(np.clip(score, 0, 4), grade, whose), WEIGHTS)
    by_slice = fit_site_map(reading(np.clip(score, 0, 4), grade), WEIGHTS)
    assert (by_patient.by_patient, by_slice.by_patient) == (True, False)
    assert by_slice.after["value"] < 0.8 * by_patient.after["value"]


def test_few_patients_and_grades_that_do_not_rise_are_refused() -> None:
    score, whose = np.linspace(0, 4, 40), np.repeat(np.arange(4), 10)
    with pytest.raises(InputError, match="4 patients can be compared; a site map needs 5 or more"):
        fit_site_map(reading(score, score[:, None], whose), WEIGHTS)
    with pytest.raises(InputError, match="the grades do not rise with the score"):
        fit_site_map(reading(score, 4 - score[:, None]), WEIGHTS)


def test_the_command_writes_the_map(tmp_path: Path) -> None:
    grades, scores = site(patients=24)
    labels = write_grades(tmp_path / "site.csv", grades)
    document = write_json(tmp_path / "s.json", scores, weights=WEIGHTS)
    shown = run("--labels", labels, "--scores", document, "--out", tmp_path / "m.json").stdout
    fitted = read_site_map(tmp_path / "m.json")
    assert (fitted.weights_sha256, fitted.slices, fitted.patients) == (WEIGHTS, 72, 24)
    assert "72 slices, 3 readers; 10-fold cross-validation over patients." in shown
    assert f"{fitted.mae_before:.2f}" in shown and f"{fitted.mae_after:.2f}" in shown
    given = ["--labels", labels, "--scores", document, "--out", tmp_path / "m.json", "--json"]
    result = json.loads(run(*given).stdout)
    knots = [list(knot) for knot in zip(fitted.scores, fitted.grades, strict=True)]
    assert knots == result["knots"]


def test_a_map_on_standard_output_takes_the_place_of_the_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grades, scores = site(patients=24)
    labels = write_grades(tmp_path / "site.csv", grades)
    document = write_json(tmp_path / "s.json", scores, weights=WEIGHTS)
    table = run("--labels", labels, "--scores", document, "--out", "-").stdout
    assert table == "" and json.loads(capfd.readouterr().out)["weights_sha256"] == WEIGHTS


def test_scores_without_their_weights_need_the_bundle(tmp_path: Path) -> None:
    grades, scores = site()
    labels = write_grades(tmp_path / "site.csv", grades)
    table = write_csv(tmp_path / "s.csv", scores)
    given = ["--labels", labels, "--out", tmp_path / "m.json", "--scores"]
    with pytest.raises(InputError, match="does not state the weights .* or the --bundle"):
        run(*given, table)
    assert not (tmp_path / "m.json").exists()
    bundle = write_bundle(tmp_path / "bundle")
    run(*given, table, "--bundle", bundle)
    weights = load_manifest(bundle).model.weights_sha256
    assert read_site_map(tmp_path / "m.json").weights_sha256 == weights
    other = write_json(tmp_path / "s.json", scores, weights=WEIGHTS)
    with pytest.raises(InputError, match=f"made by weights {WEIGHTS[:12]}, and .* has"):
        run(*given, other, "--bundle", bundle)
    with pytest.raises(InputError, match="is also an input"):
        run("--labels", labels, "--scores", table, "--bundle", bundle, "--out", labels)
