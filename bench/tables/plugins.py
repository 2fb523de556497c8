"""Tables of docs/plugins.md, from a recorded run of the plugins with real bindings of TensorRT."""

from __future__ import annotations

from typing import Any

from bench.recording import RESULTS
from bench.tables.recorded import markdown, read_json

CONTRACT = RESULTS / "plugins" / "contract.json"
_PRECISIONS = ("fp16", "bf16", "fp32")


def executed_table() -> str:
    """Return calls and errors of each plugin in each precision."""
    plugins = read_json(CONTRACT)["plugins"]
    rows = [
        [f"`{name}`", *(_cell(entry.get(precision)) for precision in _PRECISIONS)]
        for name, entry in plugins.items()
    ]
    return markdown(["kernel", *_PRECISIONS], rows)


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "native"
    if "native" in entry:
        return f"native: {entry['native']}"
    return f"{entry['calls']}, {entry['over_budget']:.2f}"


def mistakes_table() -> str:
    """Return what detected each mistake."""
    mistakes = read_json(CONTRACT)["mistakes"]
    rows = [[f"`{m['plugin']}`", m["mistake"].replace("-", " "), m["seen"]] for m in mistakes]
    return markdown(["kernel", "mistake", "what noticed it"], rows)


def run_line() -> str:
    """Return the source of the tables."""
    record = read_json(CONTRACT)
    bindings = " and ".join(record["bindings"])
    agree = "which agreed in every answer" if record["bindings_agree"] else "which did not agree"
    return (
        f"`{record['command']}`, commit {record['commit'][:10]}, Triton {record['triton']}, "
        f"{record['target']}, bindings of TensorRT {bindings}, {agree}.\n"
    )


TABLES = {"executed": executed_table, "mistakes": mistakes_table, "run": run_line}
