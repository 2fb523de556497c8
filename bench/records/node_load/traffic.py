"""Generate series and send them until each object is accepted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, Queue

from support.dicom_files import make_ct, noise
from support.hostile_peer import encoded
from support.raw_peer import RawPeer

_RETRY = 0.2  # seconds
_GIVE_UP = 600.0  # seconds for one object


@dataclass(frozen=True)
class Sent:
    """An object: SOPInstanceUID and data set."""

    instance: str
    content: bytes


@dataclass
class Outcome:
    """Results of the senders.

    Attributes:
        seconds: duration of each successful request.
        refused: number of requests by status other than success.
        broken: number of connections that ended before a response.
        accepted: number of accepted objects.
    """

    seconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    accepted: int = 0


def make_series(
    count: int, length: int, *, side: int = 64, counted: float = 0.5
) -> list[list[Sent]]:
    """Return series of small slices.

    Args:
        count: number of series.
        length: slices per series.
        side: rows and columns.
        counted: share of series whose headers state the number of slices.
    """
    series = []
    for number in range(count):
        tags = {"NumberOfSeriesRelatedInstances": length} if number < counted * count else {}
        own = []
        for i in range(length):
            dataset = make_ct(
                noise(number * length + i, (side, side)),
                SeriesInstanceUID=f"1.2.826.0.1.3680043.8.498.5.{number}",
                SOPInstanceUID=f"1.2.826.0.1.3680043.8.498.6.{number}.{i}",
                ImagePositionPatient=[0, 0, i],
                InstanceNumber=i + 1,
                **tags,
            )
            own.append(Sent(str(dataset.SOPInstanceUID), encoded(dataset)))
        series.append(own)
    return series


def send(
    port: int,
    series: Sequence[Sequence[Sent]],
    associations: int,
    *,
    progress: Callable[[int], None] = lambda count: None,
) -> Outcome:
    """Send series over concurrent associations until every object is accepted.

    Args:
        port: port of the node.
        series: series to send. An association sends all objects of a series in order.
        associations: number of concurrent associations.
        progress: called with the number of accepted objects.

    Raises:
        TimeoutError: an object was not accepted for ten minutes.
    """
    waiting: Queue[Sequence[Sent]] = Queue()
    for dataset in series:
        waiting.put(dataset)
    outcome, mutex, failures = Outcome(), threading.Lock(), []

    def work() -> None:
        try:
            while True:
                _send_series(port, waiting.get_nowait(), outcome, mutex, progress)
        except Empty:
            return
        except BaseException as error:  # raised again by the waiting thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(associations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return outcome


def _send_series(
    port: int,
    series: Sequence[Sent],
    outcome: Outcome,
    mutex: threading.Lock,
    progress: Callable[[int], None],
) -> None:
    peer: RawPeer | None = None
    for dataset in series:
        end = time.monotonic() + _GIVE_UP
        while True:
            if time.monotonic() > end:
                raise TimeoutError(dataset.instance)
            try:
                if peer is None:
                    peer = RawPeer(port, timeout=120)
                    if not peer.associate():
                        raise ConnectionError
                start = time.perf_counter()
                status = peer.store(dataset.instance, dataset.content)
                seconds = time.perf_counter() - start
            except OSError:
                status = None
            if status == 0:
                break
            with mutex:
                if status is None:
                    outcome.broken += 1
                else:
                    outcome.refused[f"{status:04X}"] += 1
            if status is None:
                if peer is not None:
                    peer.__exit__()
                peer = None
            time.sleep(_RETRY)
        with mutex:
            outcome.seconds.append(seconds)
            outcome.accepted += 1
            count = outcome.accepted
        progress(count)
    if peer is not None:
        peer.release()
        peer.__exit__()
