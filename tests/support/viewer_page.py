"""Read the page of a scored series."""

from __future__ import annotations

import json
import re
from typing import Any


def document(text: str) -> dict[str, Any]:
    """Return the data in the text of a page."""
    match = re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    return json.loads(match[1])
