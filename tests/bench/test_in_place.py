"""`pytest bench` in a checkout that was installed without `-e` says so in one line."""

from __future__ import annotations

import importlib.util

import pytest

from bench import conftest


def test_a_checkout_that_is_not_installed_in_place_is_named(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    find = importlib.util.find_spec
    hidden = "clinreadnet.kernels"
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == hidden else find(name)
    )
    with pytest.raises(pytest.UsageError, match=r'run `pip install -e "\.\[bench'):
        conftest.pytest_configure(pytestconfig)
