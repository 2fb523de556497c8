"""Unusual headers in a node: each series gets a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from archives.headers import CASES
from pydicom import dcmread
from support import odd_headers
from support.pacs import MAP, REPORT, Pacs, connect
from support.whole import WHOLE

from clinreadnet.node.node import Node
from clinreadnet.runtime import Session

COUNT = 50 if WHOLE else 8
SENT = CASES if WHOLE else CASES[::3]


def test_each_case_of_the_log_gets_its_report_and_its_maps(
    start: Callable[..., Node], pacs: Pacs, until: Callable[..., None], tmp_path: Path
) -> None:
    assoc = connect(start(maps=True).port)
    names = set()
    for case in SENT:
        folder = tmp_path / case.name
        folder.mkdir()
        case.build(folder)
        for path in sorted(folder.iterdir()):
            assert assoc.send_c_store(path).Status == 0, case.name
        stated = str(dcmread(path, stop_before_pixels=True).get("PatientName", ""))
        names.add(str(case.report.get("PatientName", stated)))
    assoc.release()
    until(lambda: len(pacs.of(REPORT)) == len(SENT))
    until(lambda: len(pacs.of(MAP)) == sum(len(case.maps) for case in SENT))
    assert {str(report.PatientName) for report in pacs.of(REPORT)} == names


@pytest.mark.filterwarnings("ignore")
def test_random_headers_cost_no_report_and_never_the_node(
    session: Session, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = odd_headers.run(COUNT, 1, tmp_path, session)
    assert summary["alive"]
    assert set(summary["answers"]) == {"0000"}
    assert summary["accepted_series"] == summary["reported_series"] == COUNT
    assert summary["reports"] >= COUNT  # one for each patient and study that a series mixes
    assert summary["states"] == {"done": COUNT}
    assert summary["maps"] > COUNT // 4
    assert not summary["invalid"]
    assert odd_headers.SECRET not in capfd.readouterr().err
