"""A TensorRT binding that answers without TensorRT: only what the real one declares, and recorded.

Every class and function is declared in the real binding; its C++ code is not called. An undeclared
attribute raises AttributeError, arguments that fit no declared signature raise TypeError, and a
property without a setter cannot be set. Results have the declared types.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable
from typing import Any

_ALIASES = {"IParserError": "ParserError"}  # declared by its C++ name
_SUBCLASSED = ("ILogger", "IProgressMonitor")
_PLAIN = {"bool": True, "int": 0, "float": 0.0, "str": "", "list": [], "None": None}


class Binding:
    """Stands for one binding.

    Attributes:
        touched: what was used of it, such as ``Builder.create_network/1`` (with the number of
            arguments), ``IBuilderConfig.flags`` and ``IBuilderConfig.progress_monitor =``.
        constructed: arguments of the last object that was made of each class.
        script: answers other than the declared type's plain one, by class and attribute: a value
            for a property, a function of the instance and the arguments for a method.
    """

    def __init__(self, real: types.ModuleType, script: dict[tuple[str, str], Any]) -> None:
        self.real = real
        self.script = script
        self.touched: set[str] = set()
        self.constructed: dict[str, tuple[Any, ...]] = {}

    def module(self, name: str) -> types.ModuleType:
        """Return what ``import name`` is to give."""
        binding = self

        class Module(types.ModuleType):
            __version__ = self.real.__version__

            def __getattr__(self, attribute: str) -> Any:
                return binding.member(attribute)

        return Module(name)

    def make(self, declared: str) -> Any:
        """Return a value of a declared type."""
        name = re.split(r"\.|::", declared.strip())[-1]
        name = _ALIASES.get(name, name)
        if name in _PLAIN:
            return _PLAIN[name]
        if name == "IHostMemory":
            return b"built"
        kind = getattr(self.real, name)
        if hasattr(kind, "__members__"):
            return next(iter(kind.__members__.values()))
        return Instance(self, kind)

    def member(self, name: str) -> Any:
        """Return an attribute of the module."""
        if name.startswith("__"):
            raise AttributeError(name)
        kind = getattr(self.real, name)  # AttributeError where the binding has no such class
        self.touched.add(name)
        if hasattr(kind, "__members__"):
            return _Enum(self, kind)
        if name in _SUBCLASSED:
            return kind
        return functools.partial(self._construct, kind)

    def _construct(self, kind: type, *arguments: Any) -> Instance:
        _bind(vars(kind)["__init__"].__doc__, "__init__", (None, *arguments), {})
        self.touched.add(f"{kind.__name__}/{len(arguments)}")
        self.constructed[kind.__name__] = arguments
        return Instance(self, kind)


class _Enum:
    def __init__(self, binding: Binding, kind: Any) -> None:
        self._binding, self._kind = binding, kind

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._kind, name)
        self._binding.touched.add(f"{self._kind.__name__}.{name}")
        return value


class Instance:
    """Stands for one object of a class of the binding; ``values`` are its own answers."""

    def __init__(self, binding: Binding, kind: type, **values: Any) -> None:
        self.__dict__.update(_binding=binding, _kind=kind, _values=values)

    def __getattr__(self, name: str) -> Any:
        declared = inspect.getattr_static(self._kind, name)
        if not isinstance(declared, property):
            return functools.partial(self._call, name, getattr(self._kind, name).__doc__)
        self._binding.touched.add(f"{self._kind.__name__}.{name}")
        if name in self._values:
            return self._values[name]
        scripted = self._binding.script.get((self._kind.__name__, name))
        if scripted is not None:
            return scripted
        return self._binding.make(_signatures(declared.fget.__doc__, "")[0][1])

    def __setattr__(self, name: str, value: Any) -> None:
        declared = inspect.getattr_static(self._kind, name)
        if not isinstance(declared, property) or declared.fset is None:
            raise AttributeError(f"{self._kind.__name__}.{name} cannot be set")
        self._binding.touched.add(f"{self._kind.__name__}.{name} =")
        self._values[name] = value

    def _call(self, name: str, doc: str, *arguments: Any, **named: Any) -> Any:
        returned = _bind(doc, name, (self, *arguments), named)
        count = len(arguments) + len(named)
        self._binding.touched.add(f"{self._kind.__name__}.{name}/{count}")
        scripted: Callable[..., Any] | None = self._binding.script.get((self._kind.__name__, name))
        if scripted is not None:
            return scripted(self, *arguments, **named)
        return self._binding.make(returned)


def check_overrides(subclass: type) -> set[str]:
    """Return the methods that ``subclass`` overrides; each must be one of the real base's."""
    base = subclass.__mro__[1]
    own = {n for n, v in vars(subclass).items() if callable(v) and not n.startswith("_")}
    for name in own:
        if not hasattr(base, name):
            raise AttributeError(f"{base.__name__} never calls {name}")
    return {f"{base.__name__}.{name} (overridden)" for name in own}


def _bind(doc: str | None, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> str:
    """Return the return type of the first declared signature that the arguments fit."""
    failures = []
    for parameters, returned in _signatures(doc or "", name):
        try:
            inspect.Signature(parameters).bind(*arguments, **named)
        except TypeError as error:
            failures.append(str(error))
        else:
            return returned
    raise TypeError(f"{name} {arguments[1:]} {named}: {'; '.join(failures) or 'not declared'}")


def _signatures(doc: str, name: str) -> list[tuple[list[inspect.Parameter], str]]:
    """Parse the signatures that pybind11 writes at the head of a docstring."""
    signatures = []
    pattern = rf"^\s*(?:\d+\. )?{re.escape(name)}\((?P<parameters>.*)\) -> (?P<returned>\S+.*)$"
    for match in re.finditer(pattern, doc, re.MULTILINE):
        parts = [p for p in _split(match["parameters"]) if p not in ("*args", "**kwargs")]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            inspect.Parameter(
                re.split(r"[:=]", part)[0].strip(),
                kind,
                default=None if " = " in part else inspect.Parameter.empty,
            )
            for part in parts
        ]
        signatures.append((parameters, match["returned"]))
    return signatures


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter in "[(<{") - (letter in "])>}")
        if letter == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()] if text.strip() else []
