"""Summarise a simulated folder: its noise, and how its labels compare with the challenge's.

    python bench/simulated_set.py DIR > bench/results/simulator/seed-1.json

`make tables` writes the summary into docs/simulator.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from clinreadnet.data.ldctiqa import SIMULATION_FILE, read_ldctiqa
from clinreadnet.data.readers import CHALLENGE_LABELS
from clinreadnet.metrics import krocc, plcc, srocc


def summarise(folder: Path) -> dict[str, Any]:
    """Return the summary of one folder, ready for JSON."""
    labels = read_ldctiqa(folder).scores.astype(np.float64)
    simulation = json.loads((folder / SIMULATION_FILE).read_text())
    images = [simulation["images"][name] for name in sorted(simulation["images"])]
    column = {key: np.array([image[key] for image in images]) for key in images[0]}
    noise, views, level = column["noise_hu"], column["views"], column["noise_level"]
    votes = column["votes"]  # [n, 5]
    others = (votes.sum(axis=1, keepdims=True) - votes) / (votes.shape[1] - 1)
    fewest = views == views.min()
    histogram = np.bincount(np.rint(labels * 5).astype(int), minlength=len(CHALLENGE_LABELS))
    cumulative = np.cumsum(histogram) / len(labels)
    challenge = np.cumsum(CHALLENGE_LABELS) / sum(CHALLENGE_LABELS)
    return {
        "command": f"clinreadnet simulate --count {len(labels)} --seed {simulation['seed']}",
        "generator": simulation["generator"],
        "images": len(labels),
        "anatomies": len(set(column["anatomy"].tolist())),
        "noise_hu_percentiles": dict(
            zip(("2", "50", "98"), np.percentile(noise, [2, 50, 98]).round(1).tolist(), strict=True)
        ),
        "median_noise_hu": {
            str(k): {
                str(v): round(float(np.median(noise[(level == k) & (views == v)])), 1)
                for v in sorted(set(views.tolist()), reverse=True)
            }
            for k in sorted(set(level.tolist()))
        },
        "streak_hu_fewest_views": {
            "min": float(column["streak_hu"][fewest].min()),
            "median": float(np.median(column["streak_hu"][fewest])),
            "max": float(column["streak_hu"][fewest].max()),
        },
        "ks_distance_to_challenge_labels": round(float(np.abs(cumulative - challenge).max()), 4),
        "reader_srocc_with_the_others": [
            round(srocc(votes[:, i], others[:, i]), 4) for i in range(votes.shape[1])
        ],
        "noise_alone_srocc": round(abs(srocc(noise, labels)), 4),
        "ceiling": {
            f.__name__: round(f(column["quality"], labels), 4) for f in (plcc, srocc, krocc)
        },
    }


if __name__ == "__main__":
    print(json.dumps(summarise(Path(sys.argv[1])), indent=2))
