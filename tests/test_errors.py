"""The first line of messages of other libraries, and counts."""

import pytest

from clinreadnet.errors import counted, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(ValueError("one\ntwo"), "one", id="two-lines"),
        pytest.param(ValueError("\n  one\n"), "one", id="empty-lines-first"),
        pytest.param(KeyError(), "KeyError", id="no-message"),
        pytest.param("one\r\ntwo", "one", id="text"),
        pytest.param(" \n", "no reason given", id="empty-text"),
    ],
)
def test_first_line(error: Exception | str, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((0, "slice"), "0 slices"),
        ((1, "slice"), "1 slice"),
        ((2, "more pair"), "2 more pairs"),
        ((1, "slice", 1, "exceeds"), "1 of 1 slice exceeds"),
        ((1, "series", 2, "is"), "1 of 2 series is"),
        ((2, "series", 2, "has"), "2 of 2 series have"),
        ((0, "group", 3, "waits"), "0 of 3 groups wait"),
    ],
)
def test_a_count_agrees_with_its_noun_and_verb(
    given: tuple[int, str, int | None, str], text: str
) -> None:
    assert counted(*given) == text
