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
from clinreadnet.data.ldctiqa import LdctiqaFolder, read_ldctiqa
from clinreadnet.errors import InputError
from clinreadnet.evaluation.labels import folder_map_errors, open_labelled, score_folder
from clinreadnet.evaluation.order import evaluate_order
from clinreadnet.files import is_temporary, remove_stale, whole_file
from clinreadnet.metrics import correlations
from clinreadnet.model.checkpoint import load_checkpoint
from clinreadnet.training.ablation_intervals import difference, mean_over_seeds
from clinreadnet.training.ablation_table import COMPARED, METRICS, markdown
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.run import train
from clinreadnet.training.trainer import STATE_FILE

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
    clean: Sequence[str | os.PathLike[str]] = (),
    *,
    report: bool = False,
) -> dict[str, Any]:
    """Train every variant with every seed, and compare.

    Finished runs are kept: the same call continues an interrupted one. ``patients`` can be added
    to a finished ablation.

    Args:
        data: LDCTIQA folders to train on.
        out: folder of the runs, ``ablation.json`` and ``ablation.md``; created if missing.
        config: configuration of every run, before the changes of variant and seed.
        seeds: number of seeds: 0, 1, ...
        test: LDCTIQA folder for the comparison. Default: the held-out anatomies of each run, which
            also select its best epoch; intervals are then only over seeds.
        patients: folder of `clinreadnet simulate --anatomy` with degraded slices of patients, to
            measure the order of scores.
        clean: files or folders of the patients' slices before they were degraded.
        report: train nothing, and compare the networks that are finished.

    Returns:
        Content of ``ablation.json``.

    Raises:
        InputError: the data cannot be used, ``clean`` has no ``patients``, or ``out``
            contains an ablation with other data, settings, seeds or another version (the message
            states the difference), or nothing is finished to report.
    """
    out, commit = Path(out), git_commit()
    if clean and patients is None:
        raise InputError("`clean` needs `patients`: the folder made of these slices")
    for labelled in data:
        read_ldctiqa(labelled)  # checks it before anything is written
    folder = None if test is None else open_labelled(test)
    settings = {
        "version": __version__,
        "config": {k: v for k, v in asdict(config).items() if k != "seed"},
        "seeds": seeds,
        "data": [_identity(folder) for folder in data],
        "test": None if test is None else _identity(test),
    }
    degraded = None
    if patients is not None:
        degraded = {**_identity(patients), "clean": [_identity(path) for path in clean]}
    if report and not (out / "settings.json").exists():
        raise InputError(f"{out}: holds no ablation to report; call without report=True to train")
    _keep_settings(out, settings)
    runs: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in VARIANTS}
    for seed in range(seeds):
        for name, change in VARIANTS.items():
            place = out / f"{name.replace(' ', '-')}-{seed}"
            if report and not (place / "result.json").exists():
                continue
            console.print(f"{name}, seed {seed}", highlight=False)
            config_of_run = replace(config, seed=seed, **change)
            run = read_result(place) or _run(data, place, config_of_run, folder)
            if patients is not None:
                run["patients"] = _order(place, patients, clean, degraded)
            runs[name][seed] = run
    finished = [run for some in runs.values() for run in some.values()]
    if not finished:
        raise InputError(f"{out}: no network is finished; report later")
    result = {
        **settings,
        "patients": degraded,
        "commit": commit,
        "paired": test is not None and seeds > 1,
        "variants": {name: _summary(own, runs["full"]) for name, own in runs.items() if own},
        "unfinished": {
            name: missing for name, own in runs.items() if (missing := seeds - len(own))
        },
        "scale": _scale(finished),
    }
    _write(out / "ablation.json", result)
    with whole_file(out / "ablation.md") as path:
        path.write_text(markdown(result), encoding="utf-8")
    return result


def _identity(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the name of a file or folder and the SHA-256 of its files' names and contents."""
    digest, folder = hashlib.sha256(), Path(folder)
    if not folder.exists():
        raise InputError(f"{folder}: no such file or folder")
    for path in sorted(path for path in (folder, *folder.rglob("*")) if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return {"name": folder.name, "sha256": digest.hexdigest()}


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
    _write(path, settings)


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


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read the result of a run and remove stale files; return None if it is not finished."""
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
) -> dict[str, Any]:
    """Train a network or continue its training; measure it and write `result.json`."""
    checkpoint = train(data, folder, config, resume=(folder / STATE_FILE).exists())
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
    _write(folder / "result.json", result)
    return result


def _order(
    folder: Path,
    patients: str | os.PathLike[str],
    clean: Sequence[str | os.PathLike[str]],
    identity: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Measure a finished network on patients' copies and keep it in `patients.json`."""
    path = folder / "patients.json"
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["data"] == identity:
            return kept
    order = evaluate_order(patients, folder / "model.safetensors", clean)
    result = {
        "data": identity,
        "order": order["anatomies"],
        "denoised": order["denoised"],
        "denoised_above_clean": order["denoised_above_clean"],
    }
    _write(path, result)
    return result


def _write(path: Path, document: Mapping[str, Any]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _slices(test: LdctiqaFolder, checkpoint: Path) -> Slices:
    """Score the test folder and compare the quality maps with the tile labels."""
    outputs = score_folder(test, load_checkpoint(checkpoint))
    errors = folder_map_errors(test, outputs["quality_map"])
    maps = np.full(len(test), np.nan) if errors is None else errors[:, 0]
    return Slices(
        label=test.scores.astype(np.float64).tolist(),
        score=outputs["score"].tolist(),
        map_correlation=[value if np.isfinite(value) else None for value in maps.tolist()],
    )


def _summary(
    runs: Mapping[int, Mapping[str, Any]], full: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the metrics of a variant over its finished seeds.

    The difference from the full network is over the seeds that both have finished; null if none.
    """
    by_metric = {name: [run["measured"][name] for run in runs.values()] for name in METRICS}
    both = [(runs[seed], full[seed]) for seed in runs if seed in full]
    ours, theirs = [pair[0] for pair in both], [pair[1] for pair in both]
    summary = {
        "finished": list(runs),
        "seeds": by_metric,
        "steps": [run["summary"]["steps"] for run in runs.values()],
        **{name: mean_over_seeds(values) for name, values in by_metric.items()},
        "differences": {
            name: difference(name, ours, theirs) if both else None for name in COMPARED
        },
    }
    if all("patients" in run for run in runs.values()):
        summary["patients"] = _patients([run["patients"] for run in runs.values()])
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
