"""docs/security.md lists every limit, and no other module holds one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from clinreadnet.limits import LIMITS, Limit

ROOT = Path(__file__).parents[1]


def amount(limit: Limit) -> str:
    """Return the value as the table writes it."""
    value, text = limit.value, ""
    for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if limit.unit == "bytes" and value % size == 0:
            text = f"{value // size} {name}"
            break
    else:
        text = f"{value:,} {limit.unit}" if abs(value) >= 10_000 else f"{value} {limit.unit}"
    return ("at least " if limit.least else "at most ") + text


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_the_page_lists_it_with_its_reason(limit: Limit) -> None:
    row = f"| {limit.of} | {amount(limit)} | {limit.reason} |"
    assert row in (ROOT / "docs" / "security.md").read_text().splitlines()


def test_the_page_lists_no_other() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    section = text.partition("## Limits")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\| ", section, re.M)) == len(LIMITS) + 2


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_it_is_used(limit: Limit) -> None:
    uses = [
        path
        for path in (ROOT / "clinreadnet").rglob("*.py")
        if path.name != "limits.py" and re.search(rf"\b{limit.name}\b", path.read_text())
    ]
    assert uses
