"""Training speed of the preset `small` on this machine: crops of 256 pixels a second.

    python -m bench.records.training_speed DIR > bench/results/training/speed.json

DIR is a simulated folder. Each variant trains for a few short epochs with the recipe's precision.
The first epoch, which compiles and warms up, does not count. OMP_NUM_THREADS sets the threads.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.recording import current_commit
from clinreadnet.training.config import TrainConfig
from clinreadnet.training.run import train

CONFIG = TrainConfig(
    epochs=4, most_slices=256, target="quality", validation_share=0.05, keep="last", bf16=True
)
VARIANTS = {"eager": CONFIG, "torch.compile": replace(CONFIG, compile=True)}


def main(arguments: list[str]) -> int:
    """Print the speed of every variant as JSON."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    rows: dict[str, dict[str, Any]] = {}
    for name, config in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            train([arguments[0]], run, config)
            rows[name] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    first = next(iter(rows.values()))
    facts = {
        "command": f"python -m bench.records.training_speed {Path(arguments[0]).name}",
        "commit": current_commit(),
        "hardware": first["device"],
        "threads": first["threads"],
        "torch": first["torch"],
        "batch_size": CONFIG.batch_size,
        "crop": CONFIG.crop,
        "crops_per_second": {
            name: round(row["slices_per_second"], 2) for name, row in rows.items()
        },
    }
    print(json.dumps(facts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
