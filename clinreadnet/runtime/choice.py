"""Choose the backend of a session: the first that works, or the fastest within a budget.

A backend works if it loads an artifact that fits this machine and passes the self-test.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import (
    BackendError,
    BackendUnavailable,
    CheckFailed,
    InputError,
    OutOfMemory,
    Untrusted,
    shell_word,
)
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.loading import (
    LoadedBackend,
    SessionOptions,
    artifacts_of,
    open_backend,
)
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Manifest
from clinreadnet.runtime.comparison import run_and_compare, time_runs
from clinreadnet.runtime.profiling import stage
from clinreadnet.runtime.records import CPU_BACKEND
from clinreadnet.spec import OUTPUTS

SELF_TEST_SLICES = 1
TIMED_RUNS = 5
"""Timed runs of each backend with ``fastest``, after a run that is not timed."""
SELF_TEST_SLACK = 2.0
"""Factor on the budget in the self-test: one slice averages over fewer values than the golden set,
and another processor sums in another order. The error of a wrong graph or provider is much
larger."""


class _OverBudget(Exception):
    """The error of an artifact exceeds the budget of the caller."""

    def __init__(self, error: float) -> None:
        super().__init__(error)
        self.error = error


class _Ahead:
    """A call in a thread of its own: importing concurrent.futures would delay the first score."""

    def __init__(self, call: Callable[[], dict[str, NDArray[Any]]]) -> None:
        self._outcome: dict[str, NDArray[Any]] | Exception
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], dict[str, NDArray[Any]]]) -> None:
        try:
            self._outcome = call()
        except Exception as error:
            self._outcome = error

    def result(self) -> dict[str, NDArray[Any]]:
        """Return what the call returned, or raise what it raised."""
        self._thread.join()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def choose(
    bundle: Path, manifest: Manifest, order: Sequence[str], options: SessionOptions
) -> tuple[LoadedBackend, dict[str, str]]:
    """Return the first backend that works, or with ``fastest`` the fastest working backend.

    Args:
        bundle: the bundle's folder.
        manifest: its manifest.
        order: names of backends in the order to try.
        options: options of the session.

    Returns:
        The loaded backend, and the reason against each other tried backend, by name; with
        ``budget`` by name and precision.

    Raises:
        The errors of `Session`.
    """
    # Read while the first backend opens.
    ahead = _Ahead(partial(read_golden, bundle, manifest.golden, first=SELF_TEST_SLICES))

    @cache
    def golden(first: int | None) -> dict[str, NDArray[Any]]:
        return ahead.result() if first else read_golden(bundle, manifest.golden)

    tried = _tried(manifest, order, options)
    refused: dict[str, str] = {}
    over: list[tuple[float, str]] = []
    failure: tuple[str, CheckFailed | BackendError] | None = None
    seconds: dict[str, float] = {}
    best: tuple[str, LoadedBackend] | None = None
    try:
        for title, (name, wanted) in tried.items():
            try:
                loaded, seconds[title] = _open(title, name, bundle, manifest, wanted, golden)
            except Untrusted:  # the bundle was changed: do not try another backend
                raise
            except _OverBudget as reason:
                refused[title] = f"off by {reason.error:.1e}, budget={options.budget:g}"
                over.append((reason.error, title))
                continue
            except (InputError, CheckFailed, BackendError) as error:
                golden(SELF_TEST_SLICES)  # a damaged golden file is an error of the bundle
                if len(tried) == 1:
                    raise
                refused[title] = error.full
                if failure is None and not isinstance(error, InputError):
                    failure = title, error
                continue
            if best is None:
                best = title, loaded
            elif seconds[title] < seconds[best[0]]:
                best[1].backend.close()
                best = title, loaded
            else:
                loaded.backend.close()
            if not options.fastest:
                break
    except BaseException:
        if best is not None:
            best[1].backend.close()
        raise
    if best is None:
        raise _nothing_works(bundle, options.budget, refused, over, failure)
    fastest, loaded = best
    least = seconds.pop(fastest)
    for title, duration in seconds.items():
        refused[title] = (
            f"slower: {1e3 * duration:.3g} ms a slice, {fastest} takes {1e3 * least:.3g}"
        )
    return loaded, refused


def _tried(
    manifest: Manifest, order: Sequence[str], options: SessionOptions
) -> dict[str, tuple[str, SessionOptions]]:
    """Return what to try, by title: each backend, with a budget in each precision."""
    if options.budget is None or options.precision is not None:
        return {name: (name, options) for name in order}
    tried = {}
    for name in order:
        held = dict.fromkeys(a.precision for a in artifacts_of(name, manifest))
        for precision in held:
            tried[f"{name} {precision}"] = name, replace(options, precision=precision)
        if not held:
            tried[name] = name, options  # its error says what the bundle lacks
    return tried


def _open(
    title: str,
    name: str,
    bundle: Path,
    manifest: Manifest,
    options: SessionOptions,
    golden: Callable[[int | None], dict[str, NDArray[Any]]],
) -> tuple[LoadedBackend, float]:
    """Load and test a backend. Also return the seconds per slice, 0 if not timed.

    A failing backend is closed.
    """
    loaded = open_backend(name, bundle, manifest, options)
    try:
        # There is no record for this kind of machine: test all golden slices.
        known = loaded.record is not None or (name == CPU_BACKEND and options.budget is None)
        slices = golden(SELF_TEST_SLICES if known else None)
        with stage(f"self-test {title}"):
            error = _self_test(name, bundle, loaded, slices)
        if loaded.record is not None:
            recorded = loaded.record.relative_error.values()
            error = max((math.inf if value is None else value for value in recorded), default=error)
        if options.budget is not None and error > options.budget:
            raise _OverBudget(error)
        seconds = 0.0
        if options.fastest:
            run, batch = loaded.backend.run, loaded.batch
            seconds = min(time_runs(run, slices["hu"], batch, runs=TIMED_RUNS, warm=1)) / batch
    except BaseException:
        loaded.backend.close()
        raise
    return replace(loaded, self_tested=len(slices["hu"])), seconds


def _nothing_works(
    bundle: Path,
    budget: float | None,
    refused: Mapping[str, str],
    over: Sequence[tuple[float, str]],
    failure: tuple[str, CheckFailed | BackendError] | None,
) -> InputError | CheckFailed | BackendError:
    """Return the error that says why no backend works."""
    if over:
        error, closest = min(over)
        return InputError(
            f"{bundle}: budget={budget:g}: no artifact that works here is as accurate; "
            f"the closest is {closest}, off by {error:.1e}"
        )
    # A message that is too long loses its middle. The backend that ran and failed comes first,
    # otherwise the CPU backend. Backends that the bundle holds nothing for come last, without more.
    foremost, cause = failure or (CPU_BACKEND, None)
    empty = [title for title, why in refused.items() if why.startswith(f"{bundle}: holds no ")]
    if len(empty) == len(refused):
        empty = []
    reasons = sorted(refused.items(), key=lambda item: not item[0].startswith(foremost))
    inside = f"{bundle}{os.sep}"  # the message names the bundle once
    listed = "; ".join(
        f"{title}: {why.removeprefix(f'{bundle}: ').replace(inside, '')}"
        for title, why in reasons
        if title not in empty
    )
    if empty:
        listed += f"; nothing in it for {', '.join(empty)}"
    kind = BackendUnavailable if cause is None else type(cause)
    result = kind(f"{bundle}: no backend works here ({listed})")
    result.__cause__ = cause
    return result


def _self_test(
    name: str,
    bundle: Path,
    loaded: LoadedBackend,
    golden: dict[str, NDArray[Any]],
) -> float:
    """Compare golden slices, singly and in the batch size of the session.

    Each slice is compared in both. The first slice is compared at every position of the batch.

    Returns:
        The largest relative error of an output.
    """
    artifact = loaded.artifact
    limits = PRECISIONS[artifact.precision].limits(SELF_TEST_SLACK)
    n = len(golden["hu"])
    plan = [(1, np.arange(n))]
    if loaded.batch > 1:
        plan.append((loaded.batch, np.zeros(loaded.batch, int)))
    if loaded.batch > 1 and n > 1:
        filled = -(-n // loaded.batch) * loaded.batch  # other sizes need own buffers
        plan.append((loaded.batch, np.arange(filled) % n))
    worst = 0.0
    for batch, slices in plan:
        expected = {key: golden[key][slices] for key in OUTPUTS}
        try:
            comparison = run_and_compare(
                loaded.backend.run,
                golden["hu"][slices],
                expected,
                limits,
                batch=batch,
                smallest=artifact.batch.min,
            )
        except OutOfMemory:
            if batch == 1:
                raise
            continue  # a later call halves its batch
        worst = max(worst, *comparison.errors.values())
        for failure in comparison.failures():
            where = f"{name} at batch {batch}" if batch > 1 else name
            raise CheckFailed(
                f"{bundle / artifact.file}: self-test failed on {where}, {failure}; run "
                f"`clinreadnet verify {shell_word(bundle)}` here, or choose another backend"
            )
    return worst
