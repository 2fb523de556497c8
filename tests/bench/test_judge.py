"""The judge of new weights: goals, paired intervals, and data that chooses nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.labelled_folder import make_labelled_folder

from bench.records import judge
from clinreadnet.data.ldctiqa import LdctiqaFolder, read_ldctiqa
from clinreadnet.errors import InputError
from clinreadnet.model.checkpoint import pretrained_path
from clinreadnet.simulator.phantom.draw import draw_phantom
from clinreadnet.simulator.scan import Protocol, degrade

BOTH = (Path("shipped"), Path("candidate"))


def simulated(root: Path, *, seed: int = 5, anatomies: int = 6) -> LdctiqaFolder:
    """A folder whose third and fourth image of each anatomy are a scan and its denoised copy."""
    folder = make_labelled_folder(root, anatomies=anatomies, quality=True, tiles=True)
    simulation = json.loads((folder / "simulation.json").read_text())
    for i, (name, record) in enumerate(simulation["images"].items()):
        record |= {"noise_level": i % 4, "views": 720, "slice": f"IM{i // 4}.dcm"}
        if i % 4 == 3:
            record |= {"denoiser": "tv", "denoised_from": f"{int(name[:4]) - 1:04}.tif"}
    (folder / "simulation.json").write_text(json.dumps(simulation | {"seed": seed}))
    return read_ldctiqa(folder)


def outputs(folder: LdctiqaFolder, error: float, *, copies: float = 0.0) -> dict[str, Any]:
    """Scores and maps with an error of so many grades, and more for denoised copies."""
    assert folder.quality is not None
    rng = np.random.default_rng(1)
    score = folder.quality + error * rng.standard_normal(len(folder))
    score = score + copies * folder.denoised
    tiles = np.load(folder.folder / "tiles.npz")["quality"]
    return {"score": score, "quality_map": tiles + error * rng.standard_normal(tiles.shape)}


def trunk(hu: int, noise: float) -> np.ndarray:
    """A body [512, 512] with noise in a ring of fat; ``hu`` in its middle."""
    rows, columns = np.mgrid[-256:256, -256:256]
    radius = np.hypot(rows / 150, columns / 200)
    grain = noise * np.random.default_rng(0).standard_normal(radius.shape)
    body = np.where(radius < 1, np.where(radius < 0.85, hu, -100) + grain, -1000)
    body[256, 256] = hu
    return np.rint(body).astype(np.int16)


def judged(
    folder: LdctiqaFolder,
    monkeypatch: pytest.MonkeyPatch,
    shipped: dict[str, Any],
    candidate: dict[str, Any],
) -> dict[str, judge.Row]:
    monkeypatch.setattr(judge, "load_checkpoint", lambda path: path)
    monkeypatch.setattr(
        judge, "score_folder", lambda folder, path: (shipped, candidate)[BOTH.index(path)]
    )
    return {row.measure: row for row in judge.judge_labelled(folder, BOTH)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> LdctiqaFolder:
    return simulated(tmp_path_factory.mktemp("data") / "validation", anatomies=12)


def test_a_better_network_is_better_on_every_goal(
    folder: LdctiqaFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poor = outputs(folder, 0.0), outputs(folder, 0.8, copies=2.0)
    rows = judged(folder, monkeypatch, poor, good)
    for name in ("sum below its ceiling", "map RMSE / flat"):
        assert (rows[name].met, rows[name].better) == (True, 1), name
        change, before = rows[name].difference, rows[name].shipped
        assert change is not None and before is not None
        assert change["low"] <= change["value"] <= change["high"] < 0
        assert change["value"] == pytest.approx(rows[name].candidate - before)
    copies = rows["copies above their own source by 0.2, of 12"]
    assert copies.shipped is not None and copies.candidate == 0 < copies.shipped
    assert copies.better == 1
    worse = judged(folder, monkeypatch, good, poor)
    assert all(row.better == -1 for row in worse.values())
    assert not worse["sum below its ceiling"].met and not worse["map RMSE / flat"].met


def test_the_same_network_is_open_on_every_goal(
    folder: LdctiqaFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = outputs(folder, 0.3)
    for row in judged(folder, monkeypatch, same, same).values():
        assert row.better == 0 and row.shipped == row.candidate
        assert row.difference == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_the_map_ratio_is_that_of_evaluate(
    folder: LdctiqaFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clinreadnet.evaluation.labels import folder_map_agreement

    predicted = outputs(folder, 0.3)
    agreement = folder_map_agreement(folder, predicted["quality_map"])
    rows = judged(folder, monkeypatch, predicted, predicted)
    assert agreement is not None
    assert rows["map RMSE / flat"].candidate == pytest.approx(agreement["rmse_ratio"]["value"])


def test_intervals_resample_whole_groups() -> None:
    groups = np.repeat(np.arange(6), 50)
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 6), 50)

    def mean(index: np.ndarray) -> float:
        return float(values[index].mean())

    by_group = judge.paired(mean, groups)
    by_slice = judge.paired(mean, np.arange(300))
    assert by_group["value"] == by_slice["value"] == pytest.approx(values.mean())
    assert by_group["high"] - by_group["low"] > 3 * (by_slice["high"] - by_slice["low"])


def test_the_order_counts_copies_above_the_limit(
    folder: LdctiqaFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomies = {f"IM{i}.dcm": 0.99 for i in range(12)}
    bad = {"anatomies": anatomies | {"IM3.dcm": 0.5}, "denoised": 12}
    bad |= {"denoised_above_clean": ["0003.tif", "0015.tif"]}
    good = {"anatomies": anatomies, "denoised": 12, "denoised_above_clean": []}
    results = dict(zip(BOTH, (bad, good), strict=True))
    monkeypatch.setattr(judge, "evaluate_order", lambda data, path, clean: results[path])
    lowest, mean, above = judge.judge_order(folder.folder, [], folder, BOTH)
    assert (lowest.shipped, lowest.candidate, lowest.met) == (0.5, 0.99, True)
    assert mean.difference is not None and mean.difference["value"] == pytest.approx(0.49 / 12)
    assert (above.shipped, above.candidate, above.met) == (2, 0, True)
    assert above.measure == "copies above the scan of least noise, of 12"


def test_sets_of_the_model_card_choose_nothing(tmp_path: Path) -> None:
    card = simulated(tmp_path / "test-1", seed=201, anatomies=1)
    with pytest.raises(InputError, match="has the seed of a test set of the model card"):
        judge.check_role([card], test=False)
    assert judge.check_role([card], test=True) == "test"


@pytest.mark.whole
def test_the_shipped_network_judged_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = simulated(tmp_path / "validation", anatomies=2)
    real = tmp_path / "real"
    real.mkdir()
    scans = degrade(draw_phantom(3, 2, 0.4), Protocol(), np.random.default_rng, (0, 3, 6))
    for k, scan in enumerate(scans):
        np.save(real / f"{k}.npy", np.rint(scan.hu).astype(np.int16))
    options = ["--data", str(folder.folder), "--patients", str(folder.folder)]
    assert judge.main([str(pretrained_path()), *options, "--real", str(real)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("validation data: validation (seed 5, standard), validation (seed 5")
    assert "0 measures are worse than the shipped network's" in shown
    body = [line for line in shown.splitlines() if line.startswith("| validation")]
    assert len(body) == 6 and all(line.endswith("| open |") for line in body)
    assert "| real | gate answers that differ, of 3 | ≤ 0 |  | 0 |  | yes |  |" in shown
    assert "| real | largest change of a score, grades |  |  | 0 |  |  |  |" in shown


def test_a_gate_that_answers_otherwise_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for k in range(4):
        np.save(tmp_path / f"{k}.npy", trunk(50 + k, 60 + 10 * k))
    np.save(tmp_path / "blank.npy", np.full((512, 512), 3, np.int16))
    answers = {50: "outside", 51: "inside", 52: "inside", 53: "inside"}
    monkeypatch.setattr(
        judge, "find_region", lambda hu, size: SimpleNamespace(answer=answers[int(hu[256, 256])])
    )
    monkeypatch.setattr(judge, "load_checkpoint", model_with_threshold)

    def scored(model: SimpleNamespace, hu: np.ndarray) -> dict[str, np.ndarray]:
        value = float(hu[0, 256, 256])
        score = value if model.path == BOTH[0] else -value
        return {"score": np.array([score]), "novelty": np.array([value])}

    monkeypatch.setattr(judge, "predict", scored)
    differ, agree, falls, _ = judge.judge_real(tmp_path, BOTH)
    # Two slices exceed the candidate's threshold; the first is outside for both.
    assert (differ.candidate, differ.met) == (2, False) and "of 4" in differ.measure
    notes = capsys.readouterr().err
    assert "2.npy: inside now novel" in notes and "blank.npy: not a CT slice" in notes
    assert (agree.candidate, agree.met) == (-1, False) and "3 slices" in agree.measure
    assert falls.shipped == -falls.candidate and falls.met is None


def test_a_folder_that_is_marked_as_a_whole_judges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "head.npy", trunk(50, 60))
    monkeypatch.setattr(judge, "find_region", lambda hu, size: SimpleNamespace(answer="outside"))
    monkeypatch.setattr(judge, "load_checkpoint", model_with_threshold)
    monkeypatch.setattr(
        judge, "predict", lambda model, hu: {"score": np.ones(1), "novelty": np.ones(1)}
    )
    with pytest.raises(InputError, match="marks every slice"):
        judge.judge_real(tmp_path, BOTH)


def model_with_threshold(path: Path) -> SimpleNamespace:
    threshold = {BOTH[0]: 99.0, BOTH[1]: 51.5}[path]
    return SimpleNamespace(path=path, novelty=SimpleNamespace(threshold=threshold))


@pytest.mark.parametrize(
    "given, words",
    [
        ([], "nothing to judge on; give --data, --patients or --real"),
        (["--data", "data", "--clean", "data"], "--clean needs --patients"),
    ],
    ids=["nothing", "clean alone"],
)
def test_the_judge_says_which_option_is_missing(
    given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        judge.main([str(pretrained_path()), *given])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "checkpoint, more, words",
    [
        ("none.safetensors", [], "no such checkpoint"),
        (None, ["--data", "d"], "d: named twice"),
        (None, ["--real", "none"], "none: no such file or folder"),
        (None, ["--patients", "d", "--clean", "none"], "none: no such file or folder"),
        (None, ["--patients", "d", "--clean", "s.npy"], "d: anatomy 0 was made from IM0.dcm"),
        (None, ["--patients", "phantoms", "--clean", "s.npy"], "phantoms: made of phantoms"),
        (None, ["--patients", "labels"], "labels: no simulation.json that says how"),
    ],
    ids=["checkpoint", "twice", "real", "clean", "other slices", "phantoms", "not degraded"],
)
def test_the_judge_checks_what_it_is_given_before_it_scores(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: str | None,
    more: list[str],
    words: str,
) -> None:
    simulated(tmp_path / "d")
    _of_phantoms(simulated(tmp_path / "phantoms", anatomies=1).folder / "simulation.json")
    make_labelled_folder(tmp_path / "labels", anatomies=1)
    np.save(tmp_path / "s.npy", np.zeros((512, 512), np.int16))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judge, "score_folder", lambda *given: pytest.fail("scored"))
    with pytest.raises(InputError, match=words):
        judge.main([checkpoint or str(pretrained_path()), "--data", "d", *more])


def _of_phantoms(record: Path) -> None:
    simulation = json.loads(record.read_text())
    for image in simulation["images"].values():
        del image["slice"]
    record.write_text(json.dumps(simulation))


def test_the_table_fits_a_terminal() -> None:
    change = {"value": -0.01, "low": -0.02, "high": 0.01}
    rows = [
        judge.row("validation-wide", "copies above their own source", (2, 1), change, most=0),
        judge.row("validation-wide", "SROCC of score and own noise", (0.91, 0.92), change),
    ]
    drawn = io.StringIO()
    terminal = Console(width=40, file=drawn, force_terminal=True, color_system=None)
    judge.print_table(rows, terminal)
    shown = drawn.getvalue()
    assert max(map(len, shown.splitlines())) <= 40 and "…" not in shown
    assert "Left out at this width: goal" in shown and "0.91" in shown and "0.92" in shown
