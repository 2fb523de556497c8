"""Record which names of each TensorRT binding the builder and the runner use: `make flavours`."""

from __future__ import annotations

import json
from typing import Any

from support.real_bindings import BINDINGS, PARTS, has_runner, use

from bench.recording import ROOT

RECORD = ROOT / "docs" / "flavours.json"


def record() -> dict[str, Any]:
    """Return the used names of each binding, by part."""
    parts = [part for part in PARTS if part == "builder" or has_runner()]
    recorded: dict[str, Any] = {}
    for binding in BINDINGS:
        entry = recorded[binding.title] = {"flavour": binding.flavour, "module": binding.module}
        for part in set(binding.parts) & set(parts):
            used = use(binding, part)
            entry["version"] = used["version"]
            entry[part] = used["touched"]
    return recorded


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
