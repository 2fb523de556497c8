"""Options in groups reach the command as one parameter, in the place of the group."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from clinreadnet.cli.groups import flatten

Size = Annotated[int, typer.Option("--size", help="Size in mm.")]


@dataclass(frozen=True)
class Shape:
    """A group of options."""

    size: Size = 3
    names: Annotated[list[str] | None, typer.Option("--name")] = None


def draw(*, first: int = 1, shape: Shape, last: bool = False) -> None:
    """Draw."""
    print(first, shape, last)


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        pytest.param([], "1 Shape(size=3, names=None) False", id="defaults"),
        pytest.param(
            ["--name", "a", "--last", "--size", "4", "--name", "b"],
            "1 Shape(size=4, names=['a', 'b']) True",
            id="given",
        ),
    ],
)
def test_a_group_is_one_parameter_of_the_command(given: list[str], printed: str) -> None:
    app = typer.Typer()
    app.command()(flatten(draw))
    assert CliRunner().invoke(app, given).stdout.strip() == printed


def test_the_options_of_a_group_stand_in_its_place() -> None:
    assert list(signature(flatten(draw)).parameters) == ["first", "size", "names", "last"]


def test_a_command_without_groups_keeps_its_parameters() -> None:
    def plain(path: str, size: Size = 2) -> None:
        assert (path, size) == ("a", 2)

    flat = flatten(plain)
    assert (flat.__name__, list(flat.__annotations__)) == ("plain", ["path", "size"])
    flat(path="a", size=2)
