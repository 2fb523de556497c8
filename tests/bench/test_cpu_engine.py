"""The record of the CPU engine: shares of a core's peak, and threads."""

from __future__ import annotations

import pytest

from bench.records import cpu_engine
from clinreadnet.errors import BackendUnavailable
from clinreadnet.library import load_library
from clinreadnet.runtime.bundle.default import SHIPPED


@pytest.fixture(autouse=True)
def _library() -> None:
    try:
        load_library()
    except BackendUnavailable as error:
        pytest.skip(str(error))


def test_a_row_for_each_instruction_set_and_precision_is_below_the_peak() -> None:
    checkpoint = (SHIPPED / "small.safetensors").read_bytes()
    rows = cpu_engine.measure(checkpoint, 1, lambda precision: 12.74e9)
    names = load_library().crn_instructions().decode().split()
    vectors = [name for name in names if name != "plain"]
    assert [(row["instructions"], row["precision"]) for row in rows] == [
        (name, precision) for name in vectors for precision in ("fp32", "int8")
    ]
    assert all(0 < row["percent_of_peak"] < 100 for row in rows)


def test_an_unknown_instruction_set_has_no_peak() -> None:
    with pytest.raises(RuntimeError, match="instructions=sse9: this processor or library"):
        cpu_engine.register_peak("sse9", "fp32")
