"""Values, units, owners and containers of the log: each input is read, or refused, as is right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from archives.case import Case
from archives.values import CASES, Right
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError


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
