import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.labelled_folder import make_labelled_folder

from clinreadnet.data import ldctiqa
from clinreadnet.data.ldctiqa import read_ldctiqa
from clinreadnet.errors import InputError
from clinreadnet.evaluation import labels
from clinreadnet.evaluation.labels import ceiling, parts, table
from clinreadnet.evaluation.order import degradation_order, evaluate_order, order_table
from clinreadnet.metrics import correlations


def records(anatomies: int = 2) -> list[dict]:
    """Return records of scans in four noise levels and three view counts, some denoised."""
    rows = []
    for anatomy in range(anatomies):
        for level in range(4):
            for views in (720, 240, 120):
                quality = 4 - level - 0.5 * (views == 240) - 0.9 * (views == 120)
                rows.append(
                    {"anatomy": anatomy, "noise_level": level, "views": views, "quality": quality}
                )
        for level, denoiser in ((0, "nlm"), (3, "bilateral")):
            rows.append(rows[0] | {"anatomy": anatomy, "noise_level": level, "denoiser": denoiser})
    return rows


def order(scores: np.ndarray, rows: list[dict], clean: dict[int, float] | None = None) -> dict:
    return dict(degradation_order([f"{i:04}.tif" for i in range(len(rows))], scores, rows, clean))


def test_scores_that_follow_the_degradation() -> None:
    rows = records()
    scores = np.array([r["quality"] - 1.5 * ("denoiser" in r) for r in rows])
    result = order(scores, rows)
    assert result["anatomies"] == {"0": pytest.approx(1), "1": pytest.approx(1)}
    assert list(result["mean_by_noise_level"]) == ["0", "1", "2", "3"]
    assert list(result["mean_by_views"]) == ["720", "240", "120"]
    assert result["mean_by_views"]["720"] == pytest.approx(2.5), "copies are left out"
    assert result["noise_monotone"] and result["views_monotone"]
    assert (result["denoised"], result["denoised_above_clean"]) == (4, [])


def test_scores_that_do_not() -> None:
    rows = records()
    scores = np.array([r["quality"] for r in rows])
    for i, record in enumerate(rows):
        if record["anatomy"] == 1 and "denoiser" not in record:
            scores[i] = -scores[i]
        if record["views"] == 240:
            scores[i] -= 3.0
    scores[12] = 4.1  # a denoised copy of anatomy 0
    result = order(scores, rows)
    assert result["lowest_srocc"] == result["anatomies"]["1"] < -0.4
    assert not result["views_monotone"]
    assert "0012.tif" in result["denoised_above_clean"]


def test_views_are_compared_within_an_anatomy() -> None:
    rows = records()
    for record in rows[len(rows) // 2 :]:
        record["views"] = {720: 720, 240: 360, 120: 180}[record["views"]]
    scores = np.array([r["quality"] - 3 * r["anatomy"] for r in rows])
    result = order(scores, rows)
    # 180 views score lower than 120, because only the worse anatomy has them.
    assert list(result["mean_by_views"]) == ["720", "360 or 240", "180 or 120"]
    assert result["mean_by_views"]["360 or 240"] == pytest.approx(2.0 - 1.5)
    assert result["views_monotone"]


def test_the_slice_before_degradation_is_the_limit_where_it_is_given() -> None:
    rows = records(1)
    scores = np.array([r["quality"] - 0.1 * ("denoiser" in r) for r in rows])
    assert order(scores, rows)["denoised_above_clean"] == []
    assert order(scores, rows, {0: 3.8})["denoised_above_clean"] == ["0012.tif", "0013.tif"]


def test_the_order_needs_a_record(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "d", anatomies=1)
    with pytest.raises(InputError, match="no simulation.json that says how each image was"):
        evaluate_order(folder)


def test_the_order_of_a_folder_and_its_table(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "d", anatomies=1)
    simulation = json.loads((folder / "simulation.json").read_text())
    for k, record in enumerate(simulation["images"].values()):
        record |= {"noise_level": k, "views": 720, "quality": 4.0 - k, "slice": "IM1.dcm"}
    (folder / "simulation.json").write_text(json.dumps(simulation))
    result = evaluate_order(folder)
    assert list(result["anatomies"]) == ["IM1.dcm"] and result["lowest_srocc"] > 0.9
    assert result["noise_monotone"] and result["denoised"] == 0
    assert order_table(result).row_count == 4
    assert "1.000, anatomy IM1.dcm" in order_table(result).columns[1].cells
    np.save(tmp_path / "other.npy", np.random.default_rng(0).normal(40, 9, (512, 512)))
    with pytest.raises(InputError, match="anatomy 0 was made from IM1.dcm, which `clean` does not"):
        evaluate_order(folder, clean=[tmp_path / "other.npy"])


def test_the_ceiling_is_the_recorded_quality(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "d")
    assert ceiling(read_ldctiqa(folder)) is None, "no quality is recorded"
    simulation = json.loads((folder / "simulation.json").read_text())
    quality = np.random.default_rng(0).normal(2, 1, 12)
    for record, value in zip(simulation["images"].values(), quality, strict=True):
        record["quality"] = value
    (folder / "simulation.json").write_text(json.dumps(simulation))
    opened = read_ldctiqa(folder)
    expected = correlations(quality, opened.scores)
    best = ceiling(opened)
    assert best == expected
    result = {**expected, "rmse": 0.1, "slices": 12, "ceiling": best, "checkpoint_sha256": ""}
    nothing = {"slices": 1, "srocc": np.nan, "ceiling_srocc": np.nan, "rmse": 0.5, "bias": 0.5}
    result |= {
        "parts": {"tv": nothing},
        "worst": [{"name": "0001.tif", "label": 1.0, "score": 3.0}],
    }
    interval = {"value": 0.8, "low": 0.7, "high": 0.9}
    agreement = {"correlation": interval, "rmse_ratio": interval, "rmse": 0.2, "slices": 12}
    result |= {"map": agreement, "coverage": 0.9, "in_domain": 1.0}
    result |= {"data": {"name": "d", "slices": 12, "seed": 5, "breadth": "wide"}}
    shown = table(result, Console(width=100))
    assert "nan" not in "".join(str(cell) for column in shown.columns for cell in column.cells)
    assert shown.title == "12 slices of wide data, RMSE 0.100 grades"
    assert [column.header for column in shown.columns][-1] == "ceiling"
    assert shown.caption == "worst: 0001.tif 3.0 for 1.0"
    drawn = io.StringIO()
    narrow = Console(width=40, file=drawn)
    narrow.print(table(result, narrow))
    written = drawn.getvalue()
    assert "…" not in written and "ceiling" in written and "Left out at this width: 95 %" in written
    (folder / "simulation.json").unlink()
    assert ceiling(read_ldctiqa(folder)) is None


def test_scans_and_denoised_copies_are_distinguished(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "d")
    labels = read_ldctiqa(folder).scores.astype(float)
    assert parts(read_ldctiqa(folder), labels) == {}, "no quality is recorded"
    simulation = json.loads((folder / "simulation.json").read_text())
    for i, record in enumerate(simulation["images"].values()):
        record |= {"quality": labels[i], "denoiser": "nlm" if i >= 8 else None}
    (folder / "simulation.json").write_text(json.dumps(simulation))
    errors = parts(read_ldctiqa(folder), labels + np.where(np.arange(12) >= 8, 0.5, 0.0))
    assert list(errors) == ["scans", "nlm"]
    assert (errors["scans"]["slices"], errors["nlm"]["slices"]) == (8, 4)
    assert errors["scans"]["bias"] == 0 and errors["scans"]["rmse"] == 0
    assert errors["nlm"]["bias"] == pytest.approx(0.5) == errors["nlm"]["rmse"]
    assert errors["nlm"]["srocc"] == errors["nlm"]["ceiling_srocc"] == pytest.approx(1)


def test_one_copy_of_a_denoiser_has_no_rank_correlation(tmp_path: Path) -> None:
    folder = make_labelled_folder(tmp_path / "d")
    labels = read_ldctiqa(folder).scores.astype(float)
    simulation = json.loads((folder / "simulation.json").read_text())
    for i, record in enumerate(simulation["images"].values()):
        record |= {"quality": labels[i], "denoiser": "tv" if i == 8 else None}
    (folder / "simulation.json").write_text(json.dumps(simulation))
    part = parts(read_ldctiqa(folder), labels + 0.5)["tv"]
    assert part["slices"] == 1 and part["bias"] == 0.5
    assert np.isnan(part["srocc"]) and np.isnan(part["ceiling_srocc"])


def test_the_table_of_one_anatomy_names_it_whole() -> None:
    name = "ID_0010_AGE_0060_CONTRAST_1_CT.dcm"
    means = {"0": 2.4, "1": 2.3}
    result = {"anatomies": {name: 1.0}, "lowest_srocc": 1.0, "mean_by_noise_level": means}
    result |= {"mean_by_views": means, "noise_monotone": True, "views_monotone": True}
    result |= {"denoised": 0, "denoised_above_clean": []}
    shown = order_table(result)
    drawn = io.StringIO()
    Console(width=60, file=drawn).print(shown)
    assert shown.title == "degradation order, 1 anatomy" and "…" not in drawn.getvalue()


def test_an_evaluation_parses_the_record_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_labelled_folder(tmp_path / "d", quality=True)
    parsed: list[str] = []
    original = ldctiqa.read_regular

    def counted(path: Path, limit: int) -> bytes:
        parsed.append(path.name)
        return original(path, limit)

    monkeypatch.setattr(ldctiqa, "read_regular", counted)
    scores = np.linspace(0, 4, 12)
    outputs = {name: scores for name in ("score", "mixture", "image", "novelty")}
    outputs |= {"probs": np.full((12, 21), 1 / 21), "quality_map": np.zeros((12, 16, 16))}
    monkeypatch.setattr(labels, "score_folder", lambda folder, model: outputs)
    assert labels.evaluate(folder)["parts"]["scans"]["slices"] == 12
    assert sorted(parsed) == ["simulation.json", "train.json"]
