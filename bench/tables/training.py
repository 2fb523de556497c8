"""Tables of docs/training.md."""

from __future__ import annotations

from typing import Any

from bench.recording import RESULTS, ROOT
from bench.tables.recorded import markdown, read_json
from clinreadnet.training import ablation_table

ABLATION = ROOT / "docs" / "training" / "ablation.json"


def training_data() -> dict[str, Any]:
    """Return what was measured on a simulated folder about rotation and grouping."""
    summary: dict[str, Any] = read_json(RESULTS / "training" / "data.json")
    return summary


def rotation_table() -> str:
    """Share of the noise that each way to rotate keeps."""
    data = training_data()
    rows = [
        [name, *(f"{100 * kept[key]:.1f} %" for key in ("lowest", "median", "highest"))]
        for name, kept in data["noise_kept"].items()
    ]
    head = f"rotation by {data['degrees']:g} degrees, {data['images']} images"
    return markdown([head, "noise kept, lowest", "median", "highest"], rows)


def grouping_table() -> str:
    """Low-pass differences of a simulated folder, and the anatomies found without its record."""
    data = training_data()
    a = data["anatomies"]
    rows = [
        ["an image to the nearest of its anatomy", f"{a['largest_hu_to_nearest_of_same']:.1f} HU"],
        ["any two of one anatomy, at most", f"{a['largest_hu_within']:.1f} HU"],
        ["two of different anatomies, at least", f"{a['smallest_hu_between']:.1f} HU"],
        ["anatomies", f"{a['anatomies']}"],
        ["groups found", f"{a['groups_found']}, of which pure: {a['pure_groups']}"],
    ]
    return markdown([f"`{data['command']}`", "measured"], rows)


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
    "grouping": grouping_table,
    "rotation": rotation_table,
    "training-speed": speed_table,
}
