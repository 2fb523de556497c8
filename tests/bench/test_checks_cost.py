"""The study that measures a session with and without its checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bodies import body
from support.tiny_bundle import write_bundle

from bench.records import checks_cost
from bench.sweeps.score import write_series
from clinreadnet.data.plausibility import count_pixels
from clinreadnet.data.slices import find_slices
from clinreadnet.errors import InputError
from clinreadnet.runtime import Session


def test_every_check_of_pixels_is_switched_off(tmp_path: Path) -> None:
    air = np.full((1, 512, 512), -1000.0)
    nothing = air * np.nan
    with Session(write_bundle(tmp_path / "bundle"), "onnxruntime-cpu", threads=1) as session:
        plausible = count_pixels(body(40))
        with checks_cost.replaced(lambda hu: plausible):
            session.score(air)
        for hu in (air, nothing):
            with pytest.raises(InputError):
                session.score(hu)


def test_each_slice_is_checked_once(tmp_path: Path) -> None:
    refs = find_slices([write_series(tmp_path / "series", 4)])
    with Session(write_bundle(tmp_path / "bundle"), "onnxruntime-cpu", threads=1) as session:
        costs = checks_cost.measure(session, refs, part=2)
    assert costs["slices"] == 4 and costs["calls_of_checks"] == 4
    assert len(costs["pairs"]) == 2
    assert 0 < costs["seconds_inside_the_checks"] < costs["seconds_with"]
