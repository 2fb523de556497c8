"""Values, units, owners and containers: each regression case is read or refused correctly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from support.dicom_files import write_series
from support.tiny_bundle import write_bundle

from archives.case import Case
from archives.values import CASES, Right
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session
from clinreadnet.scoring.run import score_slices
from clinreadnet.scoring.summary import summarize
from clinreadnet.scoring.write import write_csv


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    bundle = write_bundle(tmp_path_factory.mktemp("bundles") / "bundle")
    with Session(bundle, "onnxruntime-cpu", threads=1) as session:
        yield session


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_read_as_is_right(
    tmp_path: Path,
    case: Case,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    right = cast(Right, case.build(tmp_path))
    recwarn.clear()
    notes: list[str] = []
    if right.refused:
        with pytest.raises(InputError, match=right.refused) as refusal:
            find_slices([tmp_path], note=notes.append)[0].load()
        assert "\n" not in str(refusal.value) and "copy the file again" not in str(refusal.value)
        return
    refs = find_slices([tmp_path], note=notes.append)
    series = [ref.series for ref in refs]
    assert [series.count(name) for name in dict.fromkeys(series)] == list(right.series)
    assert all(series)
    if right.hu is not None:
        np.testing.assert_array_equal(refs[0].load(), right.hu)
    if right.positions is not None:
        assert tuple(ref.position for ref in refs) == right.positions
    for expected in right.notes:
        assert any(re.search(expected, note) for note in notes), notes
    assert len(notes) == len(right.notes), notes
    assert capfd.readouterr() == ("", "") and not recwarn.list


OWNED = [case for case in CASES if case.name.startswith("two-")]


@pytest.mark.parametrize("case", OWNED, ids=lambda case: case.name)
def test_no_mean_is_taken_over_two_owners_from_the_slice_to_the_summary(
    tmp_path: Path, session: Session, case: Case
) -> None:
    case.build(tmp_path)
    report = score_slices(session, find_slices([tmp_path]))
    facts = report.to_dict(session)
    assert facts["series"] is None
    assert [series["n"] for series in facts["by_series"]] == [2, 2]
    write_csv(report, tmp_path / "scores.csv")
    (group,) = summarize([tmp_path / "scores.csv"]).groups
    assert (group.slices, len(group.series)) == (4, 2)


def test_a_series_without_a_uid_can_be_summarised(tmp_path: Path, session: Session) -> None:
    write_series(tmp_path, 3, SeriesInstanceUID="")
    report = score_slices(session, find_slices([tmp_path]))
    write_csv(report, tmp_path / "scores.csv")
    (group,) = summarize([tmp_path / "scores.csv"]).groups
    assert (group.slices, len(group.series)) == (3, 1)
