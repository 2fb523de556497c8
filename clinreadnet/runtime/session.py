"""Score slices with a bundle, without PyTorch.

from clinreadnet.runtime import Session

with Session("bundle") as session:
    scores = session.score(hu)  # [n, 512, 512], Hounsfield units
    scores.score                # [n], 0 bad ... 4 excellent; research use only
    scores.in_domain            # [n], whether each slice is like the training data
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

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
    check_backends,
    open_backend,
)
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, load_manifest
from clinreadnet.runtime.bundle.trust import KeyFile
from clinreadnet.runtime.inputs import check_slices
from clinreadnet.runtime.reproduce import reproduce, run_batch
from clinreadnet.runtime.scores import Outputs, Scores
from clinreadnet.runtime.stream import Stream
from clinreadnet.runtime.verdict import Verdict

SELF_TEST_SLICES = 1
SELF_TEST_SLACK = 2.0
"""Factor on the budget at start-up: one slice averages less than the golden set does, and another
processor sums in another order. A wrong graph or provider is off by far more."""


class Session:
    """A loaded and self-tested bundle. Any number of threads may use one.

    Attributes:
        bundle: the bundle's folder; it is not read again once the session is ready.
        manifest: what its manifest says.
        backend: name of the backend that runs.
        artifact: the manifest's entry of the file that runs.
        verdict: how well that file fits this machine: VALID, or SUBOPTIMAL with the reason.
        refused: the backends that were tried before, each with the reason it does not run.
        batch: slices per run; smaller from the time on that memory was short.
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
        trusted_keys: Sequence[KeyFile] | None = None,
        allow_unverified: bool = False,
    ) -> None:
        """Load a bundle with the first backend that works here and passes the self-test.

        Args:
            bundle: folder made by `clinreadnet export`.
            backends: names out of ``BACKENDS``, tried in turn. One alone never falls back.
            precision: precision of the artifact; the most accurate one of a backend by default.
            batch: slices per run, inside the artifact's profile; by default one on a CPU and the
                profile's own choice on a GPU.
            workers: runs at a time; on a GPU each has its stream, buffers and context.
            threads: CPU threads of a run; all by default.
            trusted_keys: Ed25519 public keys, PEM files; one of them must have signed the bundle.
            allow_unverified: load a bundle that has not passed `clinreadnet verify`.

        Raises:
            InputError: a bundle or an argument that cannot be used, saying what to do.
            BackendUnavailable: none of the backends runs here, with the reason of each.
            Untrusted: a file of the bundle is not the one that was signed or listed; nothing of it
                was loaded.
            CheckFailed: an artifact does not reproduce the bundle's golden outputs here.
        """
        ladder = check_backends(backends)
        if workers < 1:
            raise InputError(f"workers is {workers}, must be 1 or more")
        self.bundle = Path(bundle)
        self.manifest: Manifest = load_manifest(bundle, trusted_keys)
        if not self.manifest.verified and not allow_unverified:
            raise InputError(
                f"{self.bundle}: the bundle is not verified; run `clinreadnet verify {self.bundle}`"
            )
        self.refused: dict[str, str] = {}
        golden = read_golden(
            self.bundle, self.manifest.golden, self.manifest.outputs, first=SELF_TEST_SLICES
        )
        loaded = self._climb(ladder, SessionOptions(precision, batch, workers, threads), golden)
        self._backend = loaded.backend
        # Also where nobody closes the session: before the interpreter takes CUDA's modules apart.
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

        Where memory runs short, the batch is halved, down to the smallest that the artifact takes.

        Args:
            hu: [n, 512, 512], n at least 1, Hounsfield units (not encoded, not windowed), any
                integer or float dtype, finite.

        Returns:
            The scores of the n slices, in order.

        Raises:
            InputError: another shape or dtype, no slice, NaN or infinity.
            PartialResult: some slices failed; it holds the scores of the others.
            BackendError: all slices failed: `OutOfMemory`, `DeviceLost`, or the backend's reason.
            SessionClosed: after `close`.
        """
        hu = check_slices(hu)
        parts: list[Outputs] = []
        done: list[int] = []
        failure: BackendError | None = None
        start = 0
        while start < len(hu):
            stop = min(start + self.batch, len(hu))
            try:
                parts.append(self._run(hu[start:stop]))
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

    def stream(self, capacity: int = 16) -> Stream:
        """Return a stream for a scanner that delivers one slice at a time.

        Args:
            capacity: slices that may wait to be scored; `Stream.put` waits where they are more.

        Raises:
            InputError: a capacity below 1.
            SessionClosed: after `close`.
        """
        if self._closed:
            raise SessionClosed(_CLOSED)
        return Stream(self, capacity)

    def describe(self) -> dict[str, Any]:
        """Return what runs, ready for JSON.

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
            "batch": self.batch,
            "novelty_threshold": self.manifest.model.novelty_threshold,
            "unjudged": self.manifest.unjudged,
        }

    def close(self) -> None:
        """Free the backend once the runs under way have ended; closing twice does no harm."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._workers):
                self._slots.acquire()
            self._free()
            self._slots.release(self._workers)

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
        self, ladder: tuple[str, ...], options: SessionOptions, golden: dict[str, NDArray[Any]]
    ) -> LoadedBackend:
        """Return the first backend that opens and passes; note why those before it do not."""
        failure: CheckFailed | BackendError | None = None
        for name in ladder:
            try:
                loaded = open_backend(name, self.bundle, self.manifest, options)
                try:
                    self._self_test(name, loaded, golden)
                except BaseException:
                    loaded.backend.close()
                    raise
            except Untrusted:
                raise
            except (InputError, CheckFailed, BackendError) as error:
                if len(ladder) == 1:
                    raise
                self.refused[name] = str(error)
                if not isinstance(error, InputError):
                    failure = failure or error
                continue
            self.backend = name
            return loaded
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
        kind = BackendUnavailable if failure is None else type(failure)
        raise kind(f"{self.bundle}: no backend works here ({reasons})") from failure

    def _self_test(self, name: str, loaded: LoadedBackend, golden: dict[str, NDArray[Any]]) -> None:
        artifact = loaded.artifact
        limits = PRECISIONS[artifact.precision].limits(SELF_TEST_SLACK)
        found = reproduce(
            loaded.backend.run, golden["hu"], golden, limits, smallest=artifact.batch.min
        )
        for failure in found.failures():
            raise CheckFailed(
                f"{self.bundle / artifact.file}: self-test failed on {name}, {failure}; run "
                f"`clinreadnet verify {self.bundle}` here, or choose another backend"
            )

    def _run(self, hu: NDArray[Any]) -> Outputs:
        with self._slots:
            if self._closed:
                raise SessionClosed(_CLOSED)
            return run_batch(self._backend.run, hu, self.artifact.batch.min)


_CLOSED = "the session is closed; make another"
