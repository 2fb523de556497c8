"""Every attribute of TensorRT that our code uses exists in each flavour, with the same arguments.

The builder and the runner run against the real bindings (`contract.py`), which answer without
TensorRT (`binding.py`). The used names are therefore observed, not listed.
"""

from __future__ import annotations

import json
import sys
import types

import pytest
from support.binding import Binding, Instance
from support.real_bindings import BINDINGS, RealBinding, Unavailable, has_runner, use

from bench.records.flavours import RECORD

CASES = [
    pytest.param(binding, part, id=f"{binding.title.replace(' ', '-')}-{part}")
    for binding in BINDINGS
    for part in binding.parts
]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stubs are ELF libraries")
@pytest.mark.parametrize(("binding", "part"), CASES)
def test_binding_has_what_we_use(binding: RealBinding, part: str) -> None:
    if part == "runner" and not has_runner():
        pytest.skip("the package has no runner of TensorRT engines")
    try:
        used = use(binding, part)
    except Unavailable as reason:
        pytest.skip(str(reason))
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[binding.title]
    assert used["version"] == recorded["version"]
    assert used["touched"] == recorded[part], (
        "docs/flavours.json is not current: run `make flavours`"
    )


class Declared:
    """A class as pybind11 declares one."""

    def build(self, network: object, level: int = 0) -> bool:
        """build(self: trt.Declared, network: trt.Declared, level: typing.SupportsInt = 0) -> bool

        Builds.
        """
        raise AssertionError("the real function is never called")

    @property
    def version(self) -> int:
        """(arg0: trt.Declared) -> int"""
        raise AssertionError("the real property is never read")


@pytest.fixture
def binding() -> Binding:
    real = types.ModuleType("trt")
    real.Declared = Declared  # type: ignore[attr-defined]
    real.__version__ = "1"  # type: ignore[attr-defined]
    return Binding(real, {})


@pytest.fixture
def instance(binding: Binding) -> Instance:
    return Instance(binding, Declared)


def test_use_of_what_is_declared_is_recorded(binding: Binding, instance: Instance) -> None:
    assert instance.build(instance, level=3) is True
    assert instance.version == 0
    assert binding.touched == {"Declared.build/2", "Declared.version"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param((), {}, id="too-few"),
        pytest.param((1, 2, 3), {}, id="too-many"),
        pytest.param((1,), {"levels": 2}, id="misnamed"),
    ],
)
def test_other_arguments_are_refused(
    instance: Instance, arguments: tuple[int, ...], named: dict[str, int]
) -> None:
    with pytest.raises(TypeError, match="build"):
        instance.build(*arguments, **named)


def test_what_is_not_declared_is_refused(instance: Instance) -> None:
    with pytest.raises(AttributeError, match="built"):
        instance.built  # noqa: B018
    with pytest.raises(AttributeError, match="cannot be set"):
        instance.version = 2
