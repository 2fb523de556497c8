"""Choose what a session runs: the first backend that works here, or the fastest within a budget.

A backend works if it loads an artifact that fits this machine and reproduces golden slices.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
)
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.ladder import (
    LoadedBackend,
    SessionOptions,
    artifacts_of,
    open_backend,
)
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Manifest
from clinreadnet.runtime.ranges import stage
from clinreadnet.runtime.records import CPU_BACKEND
from clinreadnet.runtime.reproduce import reproduce, time_runs

SELF_TEST_SLICES = 1
TIMED_RUNS = 5
"""Runs of each backend with ``fastest``, after one that is not timed."""
SELF_TEST_SLACK = 2.0
"""Factor on the budget at start-up: one slice averages less than the golden set, and another
processor sums in another order. The error of a wrong graph or provider is much larger."""


@dataclass(frozen=True)
class Chosen:
    """A backend that works.

    Attributes:
        name: of the backend.
        title: its name, with its precision where several are tried.
        loaded: the backend, ready to run.
        self_tested: golden slices that it reproduced now.
        seconds: what a slice takes; 0 if it was not timed.
    """

    name: str
    title: str
    loaded: LoadedBackend
    self_tested: int
    seconds: float


class _OverBudget(Exception):
    """An artifact is off by more than the caller allows."""

    def __init__(self, error: float) -> None:
        super().__init__(error)
        self.error = error


class Choice:
    """Tries the backends of a bundle.

    Attributes:
        refused: the reason against each backend that was tried, by title.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        options: SessionOptions,
        *,
        fastest: bool,
        budget: float | None,
    ) -> None:
        """Prepare; arguments as of a session.

        Args:
            bundle: the bundle's folder.
            manifest: its manifest.
            options: what the session asks for.
            fastest: whether all backends are tried and timed.
            budget: largest relative error of an output; None for the most accurate precision.
        """
        self._bundle, self._manifest, self._options = bundle, manifest, options
        self._fastest, self._budget = fastest, budget
        self._golden = functools.cache(self._read_golden)
        self._failure: tuple[str, CheckFailed | BackendError] | None = None
        self._over: list[tuple[float, str]] = []
        self.refused: dict[str, str] = {}

    def choose(self, ladder: Sequence[str]) -> Chosen:
        """Return the first backend that works, or with ``fastest`` the fastest of all that do.

        Args:
            ladder: names of backends, in the order to try.

        Raises:
            As `Session`.
        """
        self._golden(SELF_TEST_SLICES)  # a damaged file is the bundle's fault, not a backend's
        tried = self._tried(ladder)
        best: Chosen | None = None
        slower: list[Chosen] = []
        try:
            for title, (name, options) in tried.items():
                one = self._attempt(title, name, options, alone=len(tried) == 1)
                if one is None:
                    continue
                if best is not None:
                    best, loser = sorted((best, one), key=lambda chosen: chosen.seconds)
                    loser.loaded.backend.close()
                    slower.append(loser)
                else:
                    best = one
                if not self._fastest:
                    break
        except BaseException:
            if best is not None:
                best.loaded.backend.close()
            raise
        if best is None:
            raise self._nothing_works()
        for one in slower:
            self.refused[one.title] = (
                f"slower: {1e3 * one.seconds:.3g} ms a slice, {best.title} takes "
                f"{1e3 * best.seconds:.3g}"
            )
        return best

    def _tried(self, ladder: Sequence[str]) -> dict[str, tuple[str, SessionOptions]]:
        """Return what to try, by title: a backend, or with a budget one with each precision."""
        if self._budget is None or self._options.precision is not None:
            return {name: (name, self._options) for name in ladder}
        tried = {}
        for name in ladder:
            held = dict.fromkeys(a.precision for a in artifacts_of(name, self._manifest))
            for precision in held:
                tried[f"{name} {precision}"] = name, replace(self._options, precision=precision)
            if not held:
                tried[name] = name, self._options  # which says what the bundle lacks
        return tried

    def _attempt(
        self, title: str, name: str, options: SessionOptions, *, alone: bool
    ) -> Chosen | None:
        """Return a backend if it works; keep the reason if not, and raise it if there is no other.

        A bundle that was changed ends all attempts.
        """
        try:
            return self._open(title, name, options)
        except Untrusted:
            raise
        except _OverBudget as over:
            self.refused[title] = f"off by {over.error:.1e}, budget={self._budget:g}"
            self._over.append((over.error, title))
        except (InputError, CheckFailed, BackendError) as error:
            if alone:
                raise
            self.refused[title] = error.full
            if self._failure is None and not isinstance(error, InputError):
                self._failure = title, error
        return None

    def _open(self, title: str, name: str, options: SessionOptions) -> Chosen:
        """Load a backend and test it; a backend that fails is closed."""
        loaded = open_backend(name, self._bundle, self._manifest, options)
        try:
            # Nobody has verified it on this kind of machine: then this does.
            known = loaded.record is not None or (name == CPU_BACKEND and self._budget is None)
            golden = self._golden(SELF_TEST_SLICES if known else None)
            with stage(f"self-test {title}"):
                error = self._self_test(name, loaded, golden)
            if loaded.record is not None:
                recorded = loaded.record.relative_error.values()
                error = max((math.inf if one is None else one for one in recorded), default=error)
            if self._budget is not None and error > self._budget:
                raise _OverBudget(error)
            seconds = 0.0
            if self._fastest:
                run, batch = loaded.backend.run, loaded.batch
                seconds = min(time_runs(run, golden["hu"], batch, runs=TIMED_RUNS, warm=1)) / batch
        except BaseException:
            loaded.backend.close()
            raise
        return Chosen(name, title, loaded, len(golden["hu"]), seconds)

    def _nothing_works(self) -> InputError | CheckFailed | BackendError:
        """Return the error that says why no backend works."""
        if self._over:
            error, closest = min(self._over)
            return InputError(
                f"{self._bundle}: budget={self._budget:g}: nothing that works here is as exact; "
                f"the closest is {closest}, off by {error:.1e}"
            )
        # A message that is too long loses its middle. First comes the backend that ran and failed,
        # or the one that every machine can have.
        foremost, failure = self._failure or (CPU_BACKEND, None)
        reasons = sorted(self.refused.items(), key=lambda item: not item[0].startswith(foremost))
        listed = "; ".join(f"{title}: {self._without_folder(why)}" for title, why in reasons)
        kind = BackendUnavailable if failure is None else type(failure)
        found = kind(f"{self._bundle}: no backend works here ({listed})")
        found.__cause__ = failure
        return found

    def _without_folder(self, reason: str) -> str:
        """Return a reason without the bundle's path, which the whole message names once."""
        return reason.removeprefix(f"{self._bundle}: ").replace(f"{self._bundle}{os.sep}", "")

    def _read_golden(self, first: int | None) -> dict[str, NDArray[Any]]:
        """Return the first golden slices, or all."""
        return read_golden(self._bundle, self._manifest.golden, first=first)

    def _self_test(
        self, name: str, loaded: LoadedBackend, golden: dict[str, NDArray[Any]]
    ) -> float:
        """Compare golden slices alone, and in the batch that will run.

        Each slice is compared in both, and the first one at every position of the batch.

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
            filled = -(-n // loaded.batch) * loaded.batch  # another size would need its own buffers
            plan.append((loaded.batch, np.arange(filled) % n))
        worst = 0.0
        for batch, slices in plan:
            expected = {key: golden[key][slices] for key in self._manifest.output_names}
            try:
                found = reproduce(
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
                continue  # a call that needs this batch halves it
            worst = max(worst, *found.errors.values())
            for failure in found.failures():
                where = f"{name} at batch {batch}" if batch > 1 else name
                raise CheckFailed(
                    f"{self._bundle / artifact.file}: self-test failed on {where}, {failure}; run "
                    f"`clinreadnet verify {self._bundle}` here, or choose another backend"
                )
        return worst
