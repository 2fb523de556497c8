"""Score slices with a bundle, without PyTorch.

from clinreadnet.runtime import Session

with Session("bundle") as session:
    scores = session.score(hu)  # [n, 512, 512], Hounsfield units
    scores.score                # [n], 0 bad ... 4 excellent; research use only
    scores.in_domain            # [n], whether each slice is like the training data
"""

from __future__ import annotations

import functools
import math
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.errors import (
    BackendError,
    BackendUnavailable,
    CheckFailed,
    DeviceLost,
    InputError,
    OutOfMemory,
    PartialResult,
    SessionClosed,
    Untrusted,
)
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.ladder import (
    BACKENDS,
    LoadedBackend,
    SessionOptions,
    artifacts_of,
    check_backends,
    open_backend,
)
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, load_manifest
from clinreadnet.runtime.bundle.trust import KeyFile
from clinreadnet.runtime.inputs import check_count, check_device, check_slices, check_whole
from clinreadnet.runtime.ranges import stage
from clinreadnet.runtime.records import CPU_BACKEND, CPU_BACKENDS
from clinreadnet.runtime.reproduce import reproduce, run_batch, time_runs
from clinreadnet.runtime.scores import Outputs, Scores
from clinreadnet.runtime.stream import Stream
from clinreadnet.runtime.verdict import Verdict

SELF_TEST_SLICES = 1
TIMED_RUNS = 5
"""Runs of each backend with ``fastest``, after one that is not timed."""
SELF_TEST_SLACK = 2.0
"""Factor on the budget at start-up: one slice averages less than the golden set, and another
processor sums in another order. The error of a wrong graph or provider is much larger."""


@dataclass(frozen=True)
class _Working:
    """A backend that passed its self-test on some slices, and its seconds for one if timed."""

    name: str
    loaded: LoadedBackend
    self_tested: int
    seconds: float


class _OverBudget(Exception):
    """An artifact is off by more than the caller allows."""

    def __init__(self, error: float) -> None:
        super().__init__(error)
        self.error = error


class Session:
    """A loaded and self-tested bundle. Any number of threads may use one.

    Attributes:
        bundle: the bundle's folder; it is not read after the session is ready.
        manifest: the bundle's manifest.
        backend: name of the backend that runs.
        artifact: the manifest's entry of the file that runs.
        verdict: fit of that file to this machine: VALID, or SUBOPTIMAL with the reason.
        refused: the reason against each backend that was tried before, by name.
        batch: slices per run; halved if memory ran out.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        backends: str | Sequence[str] = BACKENDS,
        precision: str | None = None,
        *,
        batch: int | None = None,
        workers: int = 1,
        threads: int | None = None,
        device: int = 0,
        fastest: bool = False,
        budget: float | None = None,
        trusted_keys: Sequence[KeyFile] | None = None,
        not_before: str | None = None,
        allow_unverified: bool = False,
    ) -> None:
        """Load a bundle with the first backend that works here and passes the self-test.

        The self-test runs one golden slice. On a GPU for which the manifest holds no record of the
        artifact's verification it runs all of them; OpenVINO needs such a record too.

        Args:
            bundle: folder made by `clinreadnet export`.
            backends: names out of ``BACKENDS``, tried in this order. A single one never falls back.
            precision: precision of the artifact; default the most accurate one of a backend.
            batch: slices per run, inside the artifact's profile; default one on a CPU and the
                profile's optimum on a GPU.
            workers: concurrent runs; on a GPU each has its own stream, buffers and context.
            threads: CPU threads of a run; default all.
            device: index of the GPU among the visible ones.
            fastest: load all of ``backends`` that work here, time each on golden slices, and keep
                the fastest. It takes a few seconds more to start.
            budget: with ``fastest``, try every precision of the bundle instead of the most accurate
                one, and leave out what is off by more than this: the largest relative error of an
                output on the golden slices, as recorded for this kind of machine or measured now.
            trusted_keys: Ed25519 public keys, PEM files; one of them must have signed the bundle.
            not_before: refuse a bundle created before this time, ISO 8601 such as "2026-01-31" (UTC
                without a zone): an older bundle with a valid signature stays valid for ever.
            allow_unverified: load a bundle that has not passed `clinreadnet verify`.

        Raises:
            InputError: the bundle or an argument cannot be used.
            BackendUnavailable: no backend can run here; the message gives the reason for each.
            Untrusted: a file of the bundle is not the one that was signed or listed, needs another
                file, or the bundle is too old; it was not loaded.
            CheckFailed: an artifact does not reproduce the bundle's golden outputs on this machine.
        """
        ladder = check_backends(backends)
        check_count("workers", workers, limits.WORKERS)
        if threads is not None:
            check_count("threads", threads, limits.THREADS)
        if batch is not None:
            check_whole("batch", batch)
        check_device(device)
        _check_budget(budget, fastest)
        if device and set(ladder) <= set(CPU_BACKENDS):
            raise InputError(f"device={device}: {ladder[0]} runs on no GPU; leave it out")
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision={precision!r}: none of {', '.join(PRECISIONS)}")
        oldest = None if not_before is None else _time("not_before", not_before)
        self.bundle = Path(bundle)
        self.manifest: Manifest = load_manifest(bundle, trusted_keys)
        if oldest is not None and _time("created", self.manifest.created) < oldest:
            raise Untrusted(
                f"{self.bundle}: created {self.manifest.created}, not_before={not_before}; "
                "get the newest bundle from its signer"
            )
        if not self.manifest.verified and not allow_unverified:
            raise InputError(
                f"{self.bundle}: the bundle is not verified; run `clinreadnet verify {self.bundle}`"
            )
        self.refused: dict[str, str] = {}
        options = SessionOptions(precision, batch, workers, threads, device)
        loaded = self._climb(ladder, options, fastest=fastest, budget=budget)
        self._record = loaded.record
        self._device = None if self.backend in CPU_BACKENDS else device
        self._backend = loaded.backend
        # If the caller does not close the session: before the interpreter unloads CUDA's modules.
        self._free = weakref.finalize(self, loaded.backend.close)
        self.artifact: Artifact = loaded.artifact
        self.verdict: Verdict = loaded.verdict
        self.batch: int = loaded.batch
        self._slots = threading.Semaphore(workers)
        self._workers = workers
        self._closing = threading.Lock()
        self._closed = False

    def score(self, hu: NDArray[Any]) -> Scores:
        """Score slices, `batch` at a time.

        If memory runs out, the batch is halved. The call fails only if the smallest allowed batch
        does not fit.

        Args:
            hu: [n, 512, 512], n at least 1, Hounsfield units (not encoded, not windowed), any
                integer or float dtype, finite.

        Returns:
            The scores of the n slices, in order.

        Raises:
            InputError: wrong shape or dtype, no slice, NaN or infinity.
            PartialResult: some slices failed; it holds the scores of the others.
            BackendError: all slices failed: `OutOfMemory`, `DeviceLost`, or the backend's reason.
            SessionClosed: the session is closed.
        """
        return self._score(check_slices(hu), fill=False)

    def _score(self, hu: NDArray[Any], *, fill: bool) -> Scores:
        """Score checked slices; with ``fill``, copies of the last one fill its batch."""
        parts: list[Outputs] = []
        done: list[int] = []
        failure: BackendError | None = None
        start = 0
        while start < len(hu):
            stop = min(start + self.batch, len(hu))
            try:
                parts.append(self._run(hu[start:stop], self.batch if fill else 1))
                done += range(start, stop)
            except OutOfMemory as error:
                smaller = max((stop - start) // 2, self.artifact.batch.min)
                if smaller < stop - start:
                    self.batch = min(self.batch, smaller)
                    continue
                failure = error
            except DeviceLost as error:
                failure = error
                break
            except BackendError as error:
                failure = error
            start = stop
        threshold = self.manifest.model.novelty_threshold
        if failure is None:
            return Scores.join(parts, threshold)
        if not done:
            raise failure
        failed = sorted(set(range(len(hu))) - set(done))
        raise PartialResult(
            f"{len(failed)} of {len(hu)} slices were not scored, the first is hu[{failed[0]}]: "
            f"{failure}",
            Scores.join(parts, threshold),
            done,
            failed,
        ) from failure

    def stream(self, capacity: int = 16, *, fixed_batch: bool = False) -> Stream:
        """Return a stream for a scanner that delivers one slice at a time.

        Args:
            capacity: slices that may wait; `Stream.put` blocks while the queue is full.
            fixed_batch: run `batch` slices every time, filled up with copies of the last. Results
                are then equal in every bit, however many slices wait; without it they depend on
                the size of the batch in their last bits.

        Raises:
            InputError: ``capacity`` is not 1 ... ``limits.CAPACITY``.
            SessionClosed: the session is closed.
        """
        if self._closed:
            raise SessionClosed(_CLOSED)
        check_count("capacity", capacity, limits.CAPACITY)
        return Stream(self, capacity, fixed_batch=fixed_batch)

    def describe(self) -> dict[str, Any]:
        """Return the backend, artifact and weights that run, ready for JSON.

        ``verified_here`` is the date of the manifest's record that the artifact passes on this kind
        of GPU or processor, or null; ``self_test_slices`` is the number of golden slices that this
        session ran. ``device`` is the index of the GPU; null on a CPU. ``backend_notes``
        says what the backend does otherwise than planned, such as running without a CUDA graph.
        ``unjudged`` says why no slice is judged to be in domain; null where slices are judged.
        """
        return {
            "bundle": str(self.bundle),
            "clinreadnet_version": self.manifest.clinreadnet_version,
            "preset": self.manifest.model.preset,
            "weights_sha256": self.manifest.model.weights_sha256,
            "verified": self.manifest.verified,
            "backend": self.backend,
            "refused": dict(self.refused),
            "artifact": self.artifact.file,
            "precision": self.artifact.precision,
            "verdict": self.verdict.validity.name,
            "verdict_reason": self.verdict.reason,
            "verified_here": self._verified_here,
            "self_test_slices": self._self_tested,
            "device": self._device,
            "batch": self.batch,
            "backend_notes": list(getattr(self._backend, "notes", ())),
            "novelty_threshold": self.manifest.model.novelty_threshold,
            "unjudged": self.manifest.unjudged,
        }

    def close(self) -> None:
        """Free the backend after running calls have ended. Closing twice is allowed."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._workers):
                self._slots.acquire()
            self._free()
            self._slots.release(self._workers)

    def __reduce__(self) -> NoReturn:
        """Raise TypeError: a copy would free the backend of the original."""
        raise TypeError("a Session cannot be copied or pickled; make another from its bundle")

    def __enter__(self) -> Self:
        """Return the session; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _climb(
        self,
        ladder: tuple[str, ...],
        options: SessionOptions,
        *,
        fastest: bool,
        budget: float | None,
    ) -> LoadedBackend:
        """Return the first backend that loads and passes, or the fastest of all that do.

        The reasons against the others are kept.
        """
        golden = functools.cache(self._golden)
        golden(SELF_TEST_SLICES)  # a damaged file is the bundle's fault, not a backend's
        failure: CheckFailed | BackendError | None = None
        failed = ""
        best: _Working | None = None
        chosen = ""
        seconds: dict[str, float] = {}
        closest: tuple[float, str] | None = None
        tried = self._tried(ladder, options, every_precision=budget is not None)
        try:
            for title, (name, wanted) in tried.items():
                try:
                    one = self._open(name, wanted, golden, timed=fastest, budget=budget)
                except Untrusted:
                    raise
                except _OverBudget as over:
                    self.refused[title] = f"off by {over.error:.1e}, budget={budget:g}"
                    closest = min((over.error, title), closest or (over.error, title))
                    continue
                except (InputError, CheckFailed, BackendError) as error:
                    if len(tried) == 1:
                        raise
                    self.refused[title] = error.full
                    if failure is None and not isinstance(error, InputError):
                        failure, failed = error, title
                    continue
                seconds[title] = one.seconds
                slower = one if best is not None and best.seconds <= one.seconds else best
                if slower is not None:
                    slower.loaded.backend.close()
                if slower is not one:
                    best, chosen = one, title
                if not fastest:
                    break
        except BaseException:
            if best is not None:
                best.loaded.backend.close()
            raise
        if best is None and closest is not None:
            raise InputError(
                f"{self.bundle}: budget={budget:g}: nothing that works here is as exact; the "
                f"closest is {closest[1]}, off by {closest[0]:.1e}"
            )
        if best is None:
            # A message that is too long loses its middle. First comes the backend that ran and
            # failed, or the one that every machine can have.
            foremost = failed or CPU_BACKEND
            reasons = sorted(
                self.refused.items(), key=lambda item: not item[0].startswith(foremost)
            )
            listed = "; ".join(f"{name}: {self._without_folder(why)}" for name, why in reasons)
            kind = BackendUnavailable if failure is None else type(failure)
            raise kind(f"{self.bundle}: no backend works here ({listed})") from failure
        for title, taken in seconds.items():
            if title != chosen:
                self.refused[title] = (
                    f"slower: {1e3 * taken:.3g} ms a slice, {chosen} takes {1e3 * best.seconds:.3g}"
                )
        self.backend, self._self_tested = best.name, best.self_tested
        return best.loaded

    def _tried(
        self, ladder: tuple[str, ...], options: SessionOptions, *, every_precision: bool
    ) -> dict[str, tuple[str, SessionOptions]]:
        """Return what to try, by its title: a backend, or one with each precision it can have."""
        if not every_precision or options.precision is not None:
            return {name: (name, options) for name in ladder}
        tried = {}
        for name in ladder:
            held = dict.fromkeys(a.precision for a in artifacts_of(name, self.manifest))
            for precision in held:
                tried[f"{name} {precision}"] = name, replace(options, precision=precision)
            if not held:
                tried[name] = name, options  # which says what the bundle lacks
        return tried

    def _open(
        self,
        name: str,
        options: SessionOptions,
        golden: Callable[[int | None], dict[str, NDArray[Any]]],
        *,
        timed: bool,
        budget: float | None,
    ) -> _Working:
        """Load a backend and test it; a backend that fails is closed."""
        loaded = open_backend(name, self.bundle, self.manifest, options)
        try:
            # Nobody has verified it on this kind of GPU: then the session does.
            known = loaded.record is not None or (name == CPU_BACKEND and budget is None)
            slices = golden(SELF_TEST_SLICES if known else None)
            with stage(f"self-test {name}"):
                error = self._self_test(name, loaded, slices)
            if loaded.record is not None:
                recorded = loaded.record.relative_error.values()
                error = max((math.inf if one is None else one for one in recorded), default=error)
            if budget is not None and error > budget:
                raise _OverBudget(error)
            run, batch = loaded.backend.run, loaded.batch
            runs = time_runs(run, slices["hu"], batch, runs=TIMED_RUNS, warm=1) if timed else [0.0]
        except BaseException:
            loaded.backend.close()
            raise
        return _Working(name, loaded, len(slices["hu"]), min(runs) / batch)

    def _without_folder(self, reason: str) -> str:
        """Return a reason without the bundle's path, which the whole message names once."""
        return reason.removeprefix(f"{self.bundle}: ").replace(f"{self.bundle}{os.sep}", "")

    def _golden(self, first: int | None) -> dict[str, NDArray[Any]]:
        """Return the first golden slices, or all."""
        return read_golden(self.bundle, self.manifest.golden, self.manifest.outputs, first=first)

    def _self_test(
        self, name: str, loaded: LoadedBackend, golden: dict[str, NDArray[Any]]
    ) -> float:
        """Compare golden slices alone, and in the batch that will run.

        Each slice is compared in both, and the first one at every position of the batch. Returns
        the largest relative error of an output.
        """
        worst = 0.0
        artifact = loaded.artifact
        budgets = PRECISIONS[artifact.precision].limits(SELF_TEST_SLACK)
        smallest = artifact.batch.min
        n = len(golden["hu"])
        plan = [(1, np.arange(n))]
        if loaded.batch > 1:
            plan.append((loaded.batch, np.zeros(loaded.batch, int)))
        if loaded.batch > 1 and n > 1:
            filled = -(-n // loaded.batch) * loaded.batch  # another size would need its own buffers
            plan.append((loaded.batch, np.arange(filled) % n))
        for batch, slices in plan:
            expected = {key: golden[key][slices] for key in self.manifest.output_names}
            try:
                found = reproduce(
                    loaded.backend.run,
                    golden["hu"][slices],
                    expected,
                    budgets,
                    batch=batch,
                    smallest=smallest,
                )
            except OutOfMemory:
                if batch == 1:
                    raise
                continue  # a call that needs this batch halves it
            worst = max(worst, *found.errors.values())
            for failure in found.failures():
                where = f"{name} at batch {batch}" if batch > 1 else name
                raise CheckFailed(
                    f"{self.bundle / artifact.file}: self-test failed on {where}, {failure}; run "
                    f"`clinreadnet verify {self.bundle}` here, or choose another backend"
                )
        return worst

    @property
    def _verified_here(self) -> str | None:
        ran = None if self._record is None else self._record.ran_on
        return None if ran is None else ran.date

    def _run(self, hu: NDArray[Any], least: int) -> Outputs:
        with self._slots:
            if self._closed:
                raise SessionClosed(_CLOSED)
            with stage(f"run {len(hu)} slices"):
                return run_batch(self._backend.run, hu, max(least, self.artifact.batch.min))


def _check_budget(budget: float | None, fastest: bool) -> None:
    if budget is None:
        return
    if not fastest:
        raise InputError(f"budget={budget:g}: only with `fastest`, which chooses a precision")
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"budget={budget:g}: not a relative error above 0, such as 1e-2")


def _time(name: str, value: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}={value!r}: not a time such as 2026-01-31T12:00:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


_CLOSED = "the session is closed; make another"
