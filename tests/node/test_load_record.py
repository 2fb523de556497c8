"""The record of the load test: its failures and counts."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.dataset import Dataset
from support.pacs import Pacs

from bench.records.node_load.phases import tally
from bench.records.node_load.record import failures
from bench.records.node_load.traffic import Sent
from bench.tables import scanner

TALLY = {"objects": 100, "series": 2, "reports": 2, "sent_again": 1}
TALLY |= {"lost": 0, "scored_twice": 0, "unknown": 0}


def good() -> dict[str, Any]:
    return {
        "command": "python -m bench.records.node_load.record",
        "commit": "0" * 40,
        "cpu": "CPU",
        "threads": 2,
        "load_average_before": 0.1,
        "steady": TALLY
        | {
            "associations": 8,
            "seconds": 10.0,
            "answer_ms": {"p50": 10.0, "p99": 40.0, "most": 80.0},
            "resident_bytes": [2**27, 2**27 + 2**20],
            "resident_percent": 0.8,
        },
        "faults": TALLY | {"kills": 10, "database": "ok"},
        "full-disk": TALLY | {"refused": {"A700": 5}, "database": "ok"},
        "nonsense": {"accepted": 0, "kinds": {"truncated": {"C000": 3}}},
        "cost": {
            "slices": 24,
            "repeats": 3,
            "score_seconds": [1.0, 1.1, 1.2],
            "node_seconds": [1.1, 1.2, 1.3],
            "overhead_percent": 9.1,
        },
    }


def test_a_good_run_has_no_failures() -> None:
    assert failures(good()) == []


@pytest.mark.parametrize(
    ("phase", "key", "value", "failure"),
    [
        ("steady", "lost", 1, "steady: 1 lost"),
        ("faults", "scored_twice", 2, "faults: 2 scored twice"),
        ("full-disk", "database", "malformed", "full-disk: the database is damaged"),
        ("full-disk", "refused", {}, "full-disk: nothing was refused with A700"),
        ("steady", "resident_percent", 10.1, "memory moved by 10.1 %"),
        ("nonsense", "accepted", 1, "nonsense: 1 accepted"),
        ("cost", "overhead_percent", 10.1, "the node costs 10.1 % more than score"),
    ],
)
def test_what_is_wrong_is_named(phase: str, key: str, value: Any, failure: str) -> None:
    run = good()
    run[phase] = run[phase] | {key: value}
    assert failures(run) == [failure]


def report(uid: str, *slices: str) -> Dataset:
    ds, item = Dataset(), Dataset()
    ds.SOPInstanceUID = uid
    item.ReferencedSOPSequence = []
    for slice_uid in slices:
        reference = Dataset()
        reference.ReferencedSOPInstanceUID = slice_uid
        item.ReferencedSOPSequence.append(reference)
    ds.ContentSequence = [item]
    return ds


def test_slices_are_counted_over_different_reports() -> None:
    pacs = Pacs()
    pacs.stop()
    pacs.received = [
        report("1", "1.1", "1.2"),
        report("1", "1.1", "1.2"),
        report("2", "1.2", "1.9"),
    ]
    counts = tally(pacs, [[Sent("1.1", b""), Sent("1.2", b"")], [Sent("1.3", b"")]])
    assert counts == {
        "objects": 3,
        "series": 2,
        "reports": 2,
        "sent_again": 1,
        "lost": 1,
        "scored_twice": 1,
        "unknown": 1,
    }


def test_the_tables_show_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner, "read_json", lambda path: good())
    monkeypatch.setattr(scanner, "LOAD", type("Path", (), {"exists": lambda: True}))
    text = scanner.load_table()
    assert "| steady load, 8 associations: slices lost, scored twice | 0, 0 |" in text
    assert "10, 40, 80 ms" in text and "9.1 %" in text
    assert "| truncated | 3 | 3 | 0 | 0 | 0 | 0 |" in scanner.nonsense_table()
