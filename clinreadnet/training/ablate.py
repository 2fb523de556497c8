"""`clinreadnet ablate`: train networks that differ in one part, and compare them.

Every variant is trained with every seed. A seed determines split, order and augmentation, so
variants of the same seed differ in nothing else. Differences are computed seed by seed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from clinreadnet import __version__
from clinreadnet.checkout import git_commit
from clinreadnet.console import console
from clinreadnet.data.ldctiqa import LdctiqaFolder
from clinreadnet.data.tiles import read_tiles
from clinreadnet.errors import InputError
from clinreadnet.evaluation.labels import open_labelled, score_folder
from clinreadnet.evaluation.maps import map_errors
from clinreadnet.evaluation.order import evaluate_order
from clinreadnet.files import is_temporary, remove_stale, whole_file
from clinreadnet.metrics import correlations
from clinreadnet.model.checkpoint import load_checkpoint
from clinreadnet.training.ablation_intervals import difference, mean_over_seeds
from clinreadnet.training.ablation_table import COMPARED, METRICS, markdown
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.run import train

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no Sobel": {"use_sobel": False},
    "one temperature": {"octaves": 1},
    "cross-entropy": {"loss": "cross-entropy"},
    "fine grades alone": {"loss": "rps-fine"},
    "coarse grades alone": {"loss": "rps-coarse"},
    "no attention": {"use_attention": False},
    "no tile labels": {"tile_weight": 0.0},
}
"""Changes of each variant to the configuration."""


class Slices(TypedDict):
    """Results of a network on the test folder, in the order of the folder."""

    label: list[float]
    score: list[float]
    map_correlation: list[float | None]
    """Correlation of the quality map with the tile labels; null if it is undefined."""


def ablate(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    config: TrainConfig,
    seeds: int = 3,
    test: str | os.PathLike[str] | None = None,
    patients: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Train every variant with every seed, and compare.

    Finished runs are kept: the same call continues an interrupted one.

    Args:
        data: LDCTIQA folders to train on.
        out: folder of the runs, ``ablation.json`` and ``ablation.md``; created if missing.
        config: configuration of every run, before the changes of variant and seed.
        seeds: number of seeds: 0, 1, ...
        test: LDCTIQA folder for the comparison. Default: the held-out anatomies of each run, which
            also select its best epoch; intervals are then only over seeds.
        patients: folder of `clinreadnet simulate --anatomy` with degraded slices of patients, to
            measure the order of scores.

    Returns:
        Content of ``ablation.json``.

    Raises:
        InputError: the data cannot be used, or ``out`` contains an ablation with other data,
            settings, seeds or another version. The message states the difference.
    """
    out, commit = Path(out), git_commit()
    settings = {
        "version": __version__,
        "config": {k: v for k, v in asdict(config).items() if k != "seed"},
        "seeds": seeds,
        "data": [_identity(folder) for folder in data],
        "test": None if test is None else _identity(test),
        "patients": None if patients is None else _identity(patients),
    }
    _keep_settings(out, settings)
    folder = None if test is None else open_labelled(test)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        for name, change in VARIANTS.items():
            place = out / f"{name.replace(' ', '-')}-{seed}"
            console.print(f"{name}, seed {seed}", highlight=False)
            run = replace(config, seed=seed, **change)
            runs[name].append(_finished(place) or _run(data, place, run, folder, patients))
    result = {
        **settings,
        "commit": commit,
        "paired": test is not None and seeds > 1,
        "variants": {name: _summary(runs[name], runs["full"]) for name in VARIANTS},
        "scale": _scale([run for some in runs.values() for run in some]),
    }
    for name, text in (
        ("ablation.json", json.dumps(result, indent=1) + "\n"),
        ("ablation.md", markdown(result)),
    ):
        with whole_file(out / name) as path:
            path.write_text(text, encoding="utf-8")
    return result


def _identity(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the name of a folder and the SHA-256 of the names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return {"name": Path(folder).name, "sha256": digest.hexdigest()}


def _keep_settings(out: Path, settings: dict[str, Any]) -> None:
    path = out / "settings.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        if differences := list(_differences(there, settings)):
            raise InputError(
                f"{out}: holds an ablation with other settings ({'; '.join(differences)}); repeat "
                "those or name another folder"
            )
        return
    if out.exists() and not all(is_temporary(path.name) for path in out.iterdir()):
        raise InputError(f"{out}: holds something else; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Describe differences between the settings of a folder and of this call."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = dict.fromkeys([*there, *here])
        return [
            line
            for key in keys
            for line in _differences(there.get(key), here.get(key), f"{name} {key}".strip())
        ]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        pairs = enumerate(zip(there, here, strict=True), start=1)
        return [line for i, (a, b) in pairs for line in _differences(a, b, f"{name} {i}")]
    return [] if there == here else [f"{name}: {_short(there)} there, {_short(here)} here"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + "..."


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    if not path.exists():
        return None
    remove_stale(folder)  # left by a killed writer
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _run(
    data: Sequence[str | os.PathLike[str]],
    folder: Path,
    config: TrainConfig,
    test: LdctiqaFolder | None,
    patients: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Train a network or continue its training; measure it and write `result.json`."""
    checkpoint = train(data, folder, config, resume=(folder / "last.pt").exists())
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = {"summary": summary}
    if test is None:
        result["measured"] = {name: summary["kept"][name] for name in METRICS}
    else:
        result["slices"] = slices = _slices(test, checkpoint)
        agreement = correlations(slices["score"], slices["label"])
        maps = np.array(slices["map_correlation"], np.float64)
        result["measured"] = {
            **{name: agreement[name]["value"] for name in ("plcc", "srocc", "krocc", "sum")},
            "map_correlation": float(np.nanmedian(maps)) if np.isfinite(maps).any() else None,
        }
        summary["test_slices"] = len(test)
    if patients is not None:
        order = evaluate_order(patients, checkpoint)
        result["patients"] = {
            "order": order["anatomies"],
            "denoised": order["denoised"],
            "denoised_above_clean": order["denoised_above_clean"],
        }
    with whole_file(folder / "result.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _slices(test: LdctiqaFolder, checkpoint: Path) -> Slices:
    """Score the test folder and compare the quality maps with the tile labels."""
    outputs = score_folder(test, load_checkpoint(checkpoint))
    tiles = read_tiles(test.folder, test.names)
    maps: list[float | None] = [None] * len(test)
    if tiles is not None and test.quality is not None:
        for i in range(len(test)):
            own = slice(i, i + 1)
            rows = map_errors(
                outputs["quality_map"][own],
                tiles.quality[own],
                tiles.weight[own],
                test.quality[own],
            )
            if len(rows) and np.isfinite(rows[0, 0]):
                maps[i] = float(rows[0, 0])
    return Slices(
        label=test.scores.astype(np.float64).tolist(),
        score=outputs["score"].tolist(),
        map_correlation=maps,
    )


def _summary(runs: list[dict[str, Any]], full: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a variant over the seeds, and the difference from the full network."""
    by_metric = {name: [run["measured"][name] for run in runs] for name in METRICS}
    summary = {
        "seeds": by_metric,
        "steps": [run["summary"]["steps"] for run in runs],
        **{name: mean_over_seeds(values) for name, values in by_metric.items()},
        "differences": {name: difference(name, runs, full) for name in COMPARED},
    }
    if "patients" in runs[0]:
        summary["patients"] = _patients([run["patients"] for run in runs])
    return summary


def _patients(runs: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the order of degraded copies over the seeds, and the copies above their source."""
    orders = [list(run["order"].values()) for run in runs]
    return {
        "mean_srocc": mean_over_seeds([float(np.mean(values)) for values in orders]),
        "lowest_srocc": min(min(values) for values in orders),
        "denoised_above_clean": [len(run["denoised_above_clean"]) for run in runs],
        "denoised": runs[0]["denoised"],
    }


def _scale(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scale of the training: data, steps and time."""
    summaries = [run["summary"] for run in runs]
    steps = [summary["steps"] for summary in summaries]
    first = summaries[0]
    return {
        "training_slices": first["training_slices"],
        "training_anatomies": first["training_anatomies"],
        "measured_slices": first.get("test_slices", first["validation_slices"]),
        "steps": [min(steps), max(steps)],
        "training_minutes": float(np.mean([s["training_minutes"] for s in summaries])),
        **{key: first[key] for key in ("device", "processes", "threads", "torch", "clinreadnet")},
    }
