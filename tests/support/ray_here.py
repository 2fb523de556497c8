"""Ray Data in this process, for tests that are not about its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import ray

from clinreadnet.scoring import archive

CPUS = 2
"""Processors of the cluster."""


class _Actor:
    """An actor whose methods run at once."""

    def __init__(self, instance: object) -> None:
        self._instance = instance

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._instance, name))


class _Dataset:
    """Rows, and the results of a worker for batches of one row."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = rows

    def map_batches(
        self, worker: Callable[..., Any], *, fn_constructor_args: tuple[Any, ...], **options: Any
    ) -> _Dataset:
        run = worker(*fn_constructor_args)
        return _Dataset(run({name: [row[name]] for name in row}) for row in self._rows)

    def iter_batches(self, **options: Any) -> Iterator[Mapping[str, Any]]:
        yield from self._rows


def _remote(actor: Callable[..., object]) -> SimpleNamespace:
    remote = SimpleNamespace(remote=lambda *given: _Actor(actor(*given)))
    return SimpleNamespace(options=lambda **options: remote)


def use_ray_here(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Let `score_archive` score in this process.

    Args:
        replace: sets an attribute, such as ``MonkeyPatch.setattr``.
    """
    data = SimpleNamespace(
        ActorPoolStrategy=dict,
        DataContext=SimpleNamespace(get_current=SimpleNamespace),
        from_items=lambda rows, **options: _Dataset(rows),
    )
    here = SimpleNamespace(
        cloudpickle=ray.cloudpickle,
        cluster_resources=lambda: {"CPU": CPUS},
        data=data,
        get=lambda result: result,
        is_initialized=lambda: True,
        remote=_remote,
    )
    replace(archive, "ray", here)
    replace(archive, "connected", lambda *given: nullcontext())
