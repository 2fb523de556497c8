"""Score slices in order through a bounded queue, as a scanner delivers them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from clinreadnet.data.region import Region, find_region
from clinreadnet.errors import (
    BackendError,
    ClinReadNetError,
    InputError,
    PartialResult,
    SessionClosed,
    StreamFull,
)
from clinreadnet.runtime.inputs import check_pixel_mm, check_slices
from clinreadnet.runtime.scores import Scores
from clinreadnet.spec import SIZE


class Scorer(Protocol):
    """Interface of `Session` that a stream uses."""

    batch: int

    def score_checked(
        self, hu: NDArray[Any], shown: Sequence[Region] | None, *, fill: bool = False
    ) -> Scores:
        """Score slices; see `Session.score_checked`."""


@dataclass(frozen=True)
class Scored:
    """Result of a slice that was scored.

    Attributes:
        index: number of the slice, in the order of `Stream.put`, from 0.
        scores: scores of this slice (n = 1).
        error: None.
    """

    index: int
    scores: Scores
    error: None = None


@dataclass(frozen=True)
class NotScored:
    """Result of a slice that failed.

    Attributes:
        index: number of the slice, in the order of `Stream.put`, from 0.
        error: why there are no scores.
        scores: None.
    """

    index: int
    error: ClinReadNetError
    scores: None = None


StreamResult = Scored | NotScored
"""Result of one slice. Where ``error`` is None, ``scores`` are there; type checkers know it."""


class Stream:
    """A queue in front of a session. Iterating yields the results in order.

    `put` and iteration are thread-safe. Waiting slices are scored together, up to the batch of the
    session. The number of unread results is not limited; each takes about 1 kB.

        with session.stream() as stream:
            scanner.on_slice = stream.put   # blocks while `capacity` slices wait
            ...
        for result in stream:
            ...

    Leaving the block waits until all slices are scored. After an exception, waiting slices are
    dropped.
    """

    def __init__(self, session: Scorer, capacity: int, *, fixed_batch: bool = False) -> None:
        """Start the stream's thread. Use `Session.stream`."""
        self._session = session
        self._capacity = capacity
        self._fixed_batch = fixed_batch
        self._waiting: deque[tuple[int, NDArray[Any], Region]] = deque()
        self._results: deque[StreamResult] = deque()
        self._count = 0
        self._closed = False
        self._finished = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="clinreadnet-stream", daemon=True)
        self._thread.start()

    def put(
        self, hu: NDArray[Any], timeout: float | None = None, *, pixel_mm: float | None = None
    ) -> int:
        """Add a slice to the queue; blocks while the queue is full.

        Args:
            hu: [512, 512], Hounsfield units; it is copied.
            timeout: longest wait in seconds; default unlimited.
            pixel_mm: width of a pixel in mm; None if unknown.

        Returns:
            Index of the slice.

        Raises:
            InputError: the slice cannot be scored; the stream continues without it.
            StreamFull: the queue was full for ``timeout``; the slice was not taken.
            SessionClosed: the stream is closed.
        """
        hu = np.asarray(hu)
        if hu.shape != (SIZE, SIZE):
            raise InputError(
                f"hu has shape {list(hu.shape)}, expected a slice at a time, [{SIZE}, {SIZE}]"
            )
        image = check_slices(hu)[0].copy()
        (size,) = check_pixel_mm(pixel_mm, 1)
        region = find_region(image, size)
        with self._changed:
            ready = self._changed.wait_for(
                lambda: self._closed or len(self._waiting) < self._capacity, timeout
            )
            if not ready:
                raise StreamFull(
                    f"{self._capacity} slices waited for {timeout:g} s; put this one again later"
                )
            if self._closed:
                raise SessionClosed("the stream is closed; open another with session.stream()")
            index = self._count
            self._count += 1
            self._waiting.append((index, image, region))
            self._changed.notify_all()
        return index

    def __iter__(self) -> Iterator[StreamResult]:
        """Return the stream itself."""
        return self

    def __next__(self) -> StreamResult:
        """Return the next result; blocks until it is available. Ends after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._results or self._finished)
            if not self._results:
                raise StopIteration
            return self._results.popleft()

    def close(self, *, drop: bool = False) -> None:
        """Close the queue and wait until the waiting slices are scored.

        Args:
            drop: discard the waiting slices; a running batch is still scored.
        """
        with self._changed:
            self._closed = True
            if drop:
                self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the stream; leaving the block closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(drop=kind is not None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    self._finished = True
                    self._changed.notify_all()
                    return
                count = min(self._session.batch, len(self._waiting))
                taken = [self._waiting.popleft() for _ in range(count)]
                self._changed.notify_all()
            results = self._score(taken)
            with self._changed:
                self._results += results
                self._changed.notify_all()

    def _score(self, taken: list[tuple[int, NDArray[Any], Region]]) -> list[StreamResult]:
        indices = [index for index, _, _ in taken]
        done: Sequence[int] = range(len(taken))
        error: ClinReadNetError | None = None
        try:
            scores = self._session.score_checked(
                np.stack([hu for _, hu, _ in taken]),
                [region for _, _, region in taken],
                fill=self._fixed_batch,
            )
        except PartialResult as partial:
            error, scores, done = partial, partial.scores, partial.done
        except ClinReadNetError as failure:
            return [NotScored(index, failure) for index in indices]
        except Exception as failure:  # the thread must continue, otherwise readers would block
            unknown = BackendError(f"{type(failure).__name__}: {failure}")
            unknown.__cause__ = failure
            return [NotScored(index, unknown) for index in indices]
        scored = {i: scores.take(place) for place, i in enumerate(done)}
        return [
            Scored(index, scored[i]) if error is None or i in scored else NotScored(index, error)
            for i, index in enumerate(indices)
        ]
