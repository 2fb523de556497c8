"""Recipes: TOML files in `recipes/` with consecutive training stages.

Each stage starts from the checkpoint of the previous stage. A stage sets fields of `TrainConfig`,
and `limit`, a duration such as "2h", for ``limit_seconds``. The first stage starts from random
weights, or with ``init = "shipped"`` from the checkpoint in the package.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.files import read_toml
from clinreadnet.model.checkpoint import pretrained_path
from clinreadnet.training.config import TrainConfig

SHIPPED = "shipped"

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Stage:
    """A run of a recipe. ``config.init`` of a later stage is set after the previous stage."""

    name: str
    config: TrainConfig


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as 90s, 30m or 2h.

    Raises:
        InputError: the form is invalid, or the duration is zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or not float(match[1]):
        raise InputError(f"{text!r}: not a duration; write 90s, 30m or 2h")
    return float(match[1]) * _UNITS[match[2]]


def shipped_recipes() -> list[str]:
    """Return the names of the recipes in this package."""
    folder = files("clinreadnet.training").joinpath("recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir())


def load_recipe(recipe: str | os.PathLike[str]) -> list[Stage]:
    """Read a recipe.

    Args:
        recipe: name of a recipe in this package, or path of a TOML file.

    Raises:
        InputError: the recipe does not exist, is not TOML or has no stage, a field is unknown, or a
            value is out of range.
    """
    name = os.fspath(recipe)
    if name in shipped_recipes():
        shipped_file = files("clinreadnet.training").joinpath("recipes", f"{name}.toml")
        content = tomllib.loads(shipped_file.read_text("utf-8"))
    else:
        path = Path(name)
        if not path.is_file():
            shipped = ", ".join(shipped_recipes())
            raise InputError(f"{name}: no such recipe; give a TOML file, or one of {shipped}")
        content = read_toml(path, limits.RECIPE)
    stages = content.pop("stage", None)
    tables = isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages)
    if not tables or not stages or content:
        raise InputError(f"{name}: a recipe holds [[stage]] tables and nothing else")
    return _checked(name, [_stage(name, number, table) for number, table in enumerate(stages, 1)])


def _stage(recipe: str, number: int, table: dict[str, Any]) -> Stage:
    known = {field.name: field for field in fields(TrainConfig)}
    values = dict(table)
    name = values.pop("name", f"stage-{number}")
    plain = isinstance(name, str) and name not in ("", "..") and Path(name).name == name
    if not plain or "\0" in name:
        raise InputError(f"{recipe}: stage {number}: its name {name!r} is not that of a folder")
    if "limit" in values:
        values["limit_seconds"] = parse_duration(str(values.pop("limit")))
    if unknown := [key for key in values if key not in known]:
        raise InputError(
            f"{recipe}: stage {name}: unknown field {unknown[0]!r}; known: name, limit, "
            f"{', '.join(known)}"
        )
    if (start := values.get("init", SHIPPED)) != SHIPPED or ("init" in values and number > 1):
        raise InputError(
            f"{recipe}: stage {name}: init is {start!r}; leave it out, or begin the first stage "
            f'with init = "{SHIPPED}", the checkpoint in the package'
        )
    hints = get_type_hints(TrainConfig)
    for key, value in values.items():
        (kind,) = {*(get_args(hints[key]) or (hints[key],))} - {NoneType}
        if kind is float and type(value) is int:
            values[key] = float(value)
        elif type(value) is not kind:
            raise InputError(
                f"{recipe}: stage {name}: {key} is {value!r}, expected {kind.__name__}"
            )
    if "init" in values:
        values["init"] = str(pretrained_path())
    return Stage(str(name), TrainConfig(**values))


def _checked(recipe: str, stages: Sequence[Stage]) -> list[Stage]:
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise InputError(f"{recipe}: two stages of one name")
    for number, stage in enumerate(stages):
        config = stage.config if number == 0 else replace(stage.config, init="the stage before")
        try:
            config.check()
        except InputError as error:
            raise InputError(f"{recipe}: stage {stage.name}: {error}") from None
    return list(stages)
