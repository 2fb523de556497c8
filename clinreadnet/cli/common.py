"""Functions that several commands share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from clinreadnet.errors import InputError


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

    print(json.dumps(finite(result), indent=2, allow_nan=False))


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 90s, 30m or 2h.

    Raises:
        InputError: another form, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or not float(match[1]):
        raise InputError(f"{text!r}: not a duration; write 90s, 30m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
