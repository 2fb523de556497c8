"""Functions that several commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from clinreadnet.console import output_named


def print_json(result: Mapping[str, Any]) -> None:
    """Print one JSON document to standard output; values that are not finite become null."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [finite(inner) for inner in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    with output_named():
        print(json.dumps(finite(result), indent=2, allow_nan=False))
