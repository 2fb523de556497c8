import json
from pathlib import Path

from fuzz.run import Run

from bench.records.fuzz import record


def test_a_run_is_added_and_one_of_its_seed_replaced(tmp_path: Path) -> None:
    path = tmp_path / "fuzz.json"
    for run in (Run(1, 60.0, b"+-", {}), Run(2, 30.0, b"+!", {1: "slow"}), Run(1, 90.0, b"-", {})):
        record(run, "fuzz", path)
    runs = json.loads(path.read_text())["runs"]
    assert [(entry["seed"], entry["minutes"], entry["cases"]) for entry in runs] == [
        (2, 0.5, 2),
        (1, 1.5, 1),
    ]
    assert sum(kind["wrong"] for kind in runs[0]["kinds"].values()) == 1
    assert runs[0]["findings"] == {"1": "slow"} and runs[0]["command"] == "fuzz"
