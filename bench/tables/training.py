"""Tables of docs/training.md."""

from __future__ import annotations

from bench.recording import RESULTS, ROOT
from bench.tables.recorded import markdown, read_json
from clinreadnet.training import ablation_table

ABLATION = ROOT / "docs" / "training" / "ablation.json"


def ablation() -> str:
    """What each of the three parts is worth, at the scale of the recorded ablation."""
    if not ABLATION.exists():
        return "Not run.\n"
    result = read_json(ABLATION)
    return ablation_table.markdown(result) + f"Commit {result['commit'][:7]}.\n"


def speed_table() -> str:
    """Crops a second of the recorded training runs."""
    path = RESULTS / "training" / "speed.json"
    if not path.exists():
        return "Not measured.\n"
    run = read_json(path)
    head = f"crops of {run['crop']} pixels, batches of {run['batch_size']}, bfloat16"
    rows = [[name, f"{rate:.1f}"] for name, rate in run["crops_per_second"].items()]
    where = (
        f"`{run['command']}`, commit {run['commit'][:7]}, {run['hardware']}, threads: "
        f"{run['threads']}.\n"
    )
    return markdown([head, "crops/s"], rows) + "\n" + where


TABLES = {
    "ablation": ablation,
    "training-speed": speed_table,
}
