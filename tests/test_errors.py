"""The first line of what other libraries say."""

import pytest

from clinreadnet.errors import first_line


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
