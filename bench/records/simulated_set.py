"""Summarise a simulated folder: noise, and labels compared with those of the challenge.

    python -m bench.records.simulated_set DIR > bench/results/simulator/seed-1.json
    python -m bench.records.simulated_set DIR --measurements \
        > tests/simulator/simulated_measurements.json

`make tables` writes the summary into docs/simulator.md. Tests use the measurements of the first
thousand images to check the constants of the radiologists.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, cast

import numpy as np

from clinreadnet.data.ldctiqa import LdctiqaFolder, read_ldctiqa
from clinreadnet.metrics import Interval, correlations, srocc
from clinreadnet.simulator.radiologists import CHALLENGE_LABELS

# Whole anatomies, about as many images as labels in the challenge.
_MEASURED = 1008
_MEASUREMENTS = ("noise_hu", "streak_hu", "edge_loss", "detail_loss")


def command(folder: LdctiqaFolder, count: int) -> str:
    """Return the command for the first ``count`` images of a simulated folder."""
    assert folder.simulation is not None
    return f"clinreadnet simulate --count {count} --seed {folder.simulation['seed']}"


def measurements(folder: Path) -> dict[str, Any]:
    """Return the measurements of each image, and the source of denoised images."""
    opened = read_ldctiqa(folder)
    assert opened.records is not None, "the folder must be a simulated one"
    names, images = opened.names[:_MEASURED], opened.records[:_MEASURED]
    place = {name: k for k, name in enumerate(names)}
    return {
        "command": command(opened, len(names)),
        "denoised_from": [place.get(image["denoised_from"]) for image in images],
        **{key: [image[key] for image in images] for key in _MEASUREMENTS},
    }


def summarise(folder: Path) -> dict[str, Any]:
    """Return the summary of a folder as plain JSON values."""
    opened = read_ldctiqa(folder)
    assert opened.simulation is not None and opened.records is not None
    labels, names, images = opened.scores.astype(np.float64), opened.names, opened.records

    def column(key: str) -> np.ndarray:
        return np.array([image[key] for image in images])

    noise, views, level, votes = map(column, ("noise_hu", "views", "noise_level", "votes"))
    quality = column("quality")
    scan = np.array([image["denoiser"] is None for image in images])
    place = {name: k for k, name in enumerate(names)}
    source = [place[image["denoised_from"]] for image in images if image["denoiser"]]
    others = (votes.sum(axis=1, keepdims=True) - votes) / (votes.shape[1] - 1)
    fewest = scan & (views == views.min())
    best = cast("dict[str, Interval]", correlations(quality, labels))
    histogram = np.bincount(np.rint(labels * 5).astype(int), minlength=len(CHALLENGE_LABELS))
    cumulative = np.cumsum(histogram) / len(labels)
    challenge = np.cumsum(CHALLENGE_LABELS) / sum(CHALLENGE_LABELS)
    return {
        "command": command(opened, len(labels)),
        "generator": opened.simulation["generator"],
        "images": len(labels),
        "anatomies": len({image["anatomy"] for image in images}),
        "denoised": int((~scan).sum()),
        "noise_hu_percentiles": dict(
            zip(
                ("2", "50", "98"),
                np.percentile(noise[scan], [2, 50, 98]).round(1).tolist(),
                strict=True,
            )
        ),
        "median_noise_hu": {
            str(k): {
                str(v): round(float(np.median(noise[scan & (level == k) & (views == v)])), 1)
                for v in sorted(set(views.tolist()), reverse=True)
            }
            for k in sorted(set(level.tolist()))
        },
        "streak_hu_fewest_views": {
            "min": float(column("streak_hu")[fewest].min()),
            "median": float(np.median(column("streak_hu")[fewest])),
            "max": float(column("streak_hu")[fewest].max()),
        },
        "images_of_each_grade": histogram.tolist(),
        "ks_distance_to_challenge_labels": round(float(np.abs(cumulative - challenge).max()), 4),
        "reader_srocc_with_the_others": [
            round(srocc(votes[:, i], others[:, i]), 4) for i in range(votes.shape[1])
        ],
        "noise_alone_srocc": round(abs(srocc(noise, labels)), 4),
        "noise_alone_srocc_undenoised": round(abs(srocc(noise[scan], labels[scan])), 4),
        "mean_quality_denoised": round(float(quality[~scan].mean()), 3),
        "mean_quality_of_their_sources": round(float(quality[source].mean()), 3),
        "share_of_copies_as_good_as_their_source": round(
            float(np.mean(quality[~scan] >= quality[source])), 3
        ),
        "ceiling": {name: round(metric["value"], 4) for name, metric in best.items()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measurements", action="store_true")
    arguments = parser.parse_args()
    if arguments.measurements:
        print(json.dumps(measurements(arguments.folder)))
    else:
        print(json.dumps(summarise(arguments.folder), indent=2))
