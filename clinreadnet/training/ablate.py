"""`clinreadnet ablate`: otherwise identical networks, each without one part.

Every variant is trained with every seed. A seed decides the split, the order and the augmentation,
so that variants of one seed differ in nothing else, and their difference is taken seed by seed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from clinreadnet.console import console
from clinreadnet.errors import InputError
from clinreadnet.evaluation.labels import evaluate
from clinreadnet.files import is_temporary, remove_stale, whole_file
from clinreadnet.machine import git_commit
from clinreadnet.training.ablation_table import COMPARED, METRICS, Mean, markdown
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.run import train

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no Sobel": {"use_sobel": False},
    "one temperature": {"octaves": 1},
    "cross-entropy": {"loss": "cross-entropy"},
    "no attention": {"use_attention": False},
    "no tile labels": {"tile_weight": 0.0},
}
"""What each variant changes in the run's configuration."""

# Two-sided 95 % quantile of Student's t by degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Return the mean of one value a seed with its 95 % interval (Student's t)."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Mean(mean=mean, low=None, high=None)
    quantile = _STUDENT[min(n - 1, len(_STUDENT)) - 1]
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Mean(mean=mean, low=mean - half, high=mean + half)


def ablate(
    data: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    config: TrainConfig,
    seeds: int = 3,
    test: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Train every variant with every seed, and compare.

    What has been done is kept: the same call goes on where another was interrupted.

    Args:
        data: LDCTIQA folders to train on.
        out: folder of the runs, ``ablation.json`` and ``ablation.md``; created where missing.
        config: of every run, but for what its variant and its seed change.
        seeds: how many: 0, 1, ...
        test: LDCTIQA folder to measure on; else each run's own held-out anatomies, which also
            chose its best epoch.

    Returns:
        What ``ablation.json`` holds.

    Raises:
        InputError: unusable data, or ``out`` holds an ablation with other settings.
    """
    out, commit = Path(out), git_commit()
    settings = {
        "config": {k: v for k, v in asdict(config).items() if k != "seed"},
        "data": [Path(folder).name for folder in data],
        "test": None if test is None else Path(test).name,
    }
    _keep_settings(out, settings)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for seed in range(seeds):
        for name, change in VARIANTS.items():
            folder = out / f"{name.replace(' ', '-')}-{seed}"
            console.print(f"{name}, seed {seed}", highlight=False)
            run = replace(config, seed=seed, **change)
            runs[name].append(_finished(folder) or _run(data, folder, run, test))
    result = {
        **settings,
        "seeds": seeds,
        "commit": commit,
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


def _keep_settings(out: Path, settings: dict[str, Any]) -> None:
    path = out / "settings.json"
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != settings:
            raise InputError(
                f"{out}: holds an ablation with other settings; repeat those or name another folder"
            )
        return
    if out.exists() and not all(is_temporary(path.name) for path in out.iterdir()):
        raise InputError(f"{out}: holds something else; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _finished(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    if not path.exists():
        return None
    remove_stale(folder)  # a writer killed just after it; nothing is written there again
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _run(
    data: Sequence[str | os.PathLike[str]],
    folder: Path,
    config: TrainConfig,
    test: str | os.PathLike[str] | None,
) -> dict[str, Any]:
    """Train, or go on training, one network; measure it and write `result.json`."""
    checkpoint = train(data, folder, config, resume=(folder / "last.pt").exists())
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if test is None:
        measured = {name: summary["kept"][name] for name in METRICS}
    else:
        found = evaluate(test, checkpoint)
        measured = {
            "plcc": found["plcc"]["value"],
            "srocc": found["srocc"]["value"],
            "krocc": found["krocc"]["value"],
            "sum": found["sum"]["value"],
            "map_correlation": found["map"]["correlation"]["value"] if found["map"] else math.nan,
        }
        summary["test_slices"] = found["slices"]
    result = {"measured": measured, "summary": summary}
    with whole_file(folder / "result.json") as path:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _summary(runs: list[dict[str, Any]], full: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a variant over the seeds, and its difference from the full network."""
    by_metric = {name: [run["measured"][name] for run in runs] for name in METRICS}
    lost = {
        name: [
            ours - theirs["measured"][name]
            for ours, theirs in zip(by_metric[name], full, strict=True)
        ]
        for name in COMPARED
    }
    return {
        "seeds": by_metric,
        "steps": [run["summary"]["steps"] for run in runs],
        **{name: mean_over_seeds(values) for name, values in by_metric.items()},
        "differences": {name: mean_over_seeds(values) for name, values in lost.items()},
    }


def _scale(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return at what scale the networks were trained."""
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
