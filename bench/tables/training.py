"""Tables of docs/training.md."""

from __future__ import annotations

from bench.recording import ROOT
from bench.tables.recorded import read_json
from clinreadnet.training import ablation_table

ABLATION = ROOT / "docs" / "training" / "ablation.json"


def ablation() -> str:
    """Return the recorded ablation."""
    result = read_json(ABLATION)
    return ablation_table.markdown(result) + f"Commit {result['commit'][:7]}.\n"


TABLES = {
    "ablation": ablation,
}
