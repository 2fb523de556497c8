"""Options that cannot be combined with plugins are refused before the export starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.cli.command import spell
from clinreadnet.errors import InputError
from clinreadnet.export.engines.options import BuildOptions
from clinreadnet.export.plugins.request import check_request
from clinreadnet.runtime.backends.flavours import FLAVOURS, newest

FULL, RTX = newest("tensorrt"), newest("tensorrt-rtx")
ALL = ("all",)


@pytest.mark.parametrize(
    ("wanted", "flavour", "options", "islands", "message"),
    [
        (ALL, RTX, {}, False, "tensorrt-rtx takes none; give flavour=tensorrt$"),
        (ALL, FULL, {"version_compatible": True}, False, "with `version_compatible`; leave one"),
        (ALL, FULL, {"strip_weights": True}, False, "with `strip_weights`"),
        (ALL, FULL, {"platform": "windows"}, False, "with `platform`"),
        (ALL, FULL, {}, True, "the network's own float32 islands; leave out `fp32_islands`"),
    ],
    ids=["rtx", "version", "weights", "platform", "islands"],
)
def test_what_does_not_go_together(
    wanted: tuple[str, ...],
    flavour: Any,
    options: dict[str, Any],
    islands: bool,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_request((), flavour, BuildOptions(**options), auto_islands=islands)
    with pytest.raises(InputError, match=message) as error:
        check_request(wanted, flavour, BuildOptions(**options), auto_islands=islands)
    assert "\n" not in str(error.value)


def test_what_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    options = BuildOptions(hardware_compatible=True, optimization_level=3, workspace_mib=64)
    for wanted in (ALL, ("mlp",)):
        check_request(wanted, FULL, options, auto_islands=False)


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'triton, which is .*pip install "clinreadnet\[cpu,exp'):
        check_request(ALL, FULL, BuildOptions(), auto_islands=False)


def test_both_full_versions_take_plugins() -> None:
    assert {flavour.title for flavour in FLAVOURS if flavour.plugins} == {
        "tensorrt 10.x",
        "tensorrt 11.x",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plugins", "stem"], "--plugins stem: unknown; give sobel_stem, window_attention"),
        (["--plugins", "auto"], "--plugins auto: unknown; give sobel_stem, window_attention"),
        (["--plugins", "all"], "--plugins: tensorrt-rtx takes none; give --flavour tensorrt"),
    ],
    ids=["unknown", "auto", "rtx"],
)
def test_the_command_line_says_it_in_its_own_words(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    result = CliRunner().invoke(app, ["export", "--out", str(out), "--no-engines", *arguments])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith(message)
    assert not out.exists()
    assert spell("`plugins`", []) == "`plugins`"
