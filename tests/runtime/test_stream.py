"""Streams: order, back-pressure, faults and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bodies import body
from support.tiny_bundle import reference, write_bundle

from clinreadnet.errors import BackendError, InputError, SessionClosed, StreamFull
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.onnxruntime import OnnxRuntimeBackend


@pytest.fixture
def session(bundle: Path) -> Iterator[Session]:
    with Session(bundle, "onnxruntime-cpu", batch=4) as session:
        yield session


class Gate:
    """Blocks every run until it is opened, and records the batch sizes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.opened = threading.Semaphore(0), threading.Event()
        self.sizes: list[int] = []
        run = OnnxRuntimeBackend.run

        def held(backend: OnnxRuntimeBackend, hu: Any) -> Any:
            self.sizes.append(len(hu))
            self.begun.release()
            assert self.opened.wait(60)
            return run(backend, hu)

        monkeypatch.setattr(OnnxRuntimeBackend, "run", held)


def slices(n: int) -> list[np.ndarray]:
    return [body(10.0 * i) for i in range(n)]


def test_results_come_in_order_with_the_references_scores(session: Session) -> None:
    with session.stream(capacity=3) as stream:
        assert [stream.put(hu) for hu in slices(10)] == list(range(10))
    results = list(stream)
    assert [result.index for result in results] == list(range(10))
    scores = [result.scores.score[0] for result in results if result.scores]
    np.testing.assert_allclose(scores, reference(np.stack(slices(10)))["score"], rtol=1e-5)
    assert results[3].error is None and results[3].scores.quality_map.shape == (1, 16, 16)
    assert list(stream) == []


def test_each_slice_is_judged(session: Session) -> None:
    with session.stream() as stream:
        for hu in (*slices(2), body(390.0)):
            stream.put(hu)
    judged = [result.scores.in_domain for result in stream if result.scores is not None]
    assert [flags.tolist() for flags in judged if flags is not None] == [[True], [True], [False]]


def test_a_bundle_without_threshold_streams(tmp_path: Path) -> None:
    unjudged = write_bundle(tmp_path / "unjudged", threshold=None)
    with Session(unjudged, batch=4) as session, session.stream() as stream:
        for hu in slices(6):
            stream.put(hu)
    results = list(stream)
    assert len(results) == 6
    assert all(r.scores is not None and r.scores.in_domain is None for r in results)


def test_a_reader_gets_results_while_the_scanner_goes_on(session: Session) -> None:
    with session.stream() as stream:
        for index, hu in enumerate(slices(3)):
            stream.put(hu)
            assert next(stream).index == index


def test_a_slice_is_copied_so_that_the_scanner_may_reuse_its_buffer(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    buffer = slices(6)[5]
    expected = reference(buffer[None])["score"]
    with session.stream() as stream:
        stream.put(buffer)
        stream.put(buffer)
        buffer[:] = -1000
        gate.opened.set()
    scores = [result.scores.score[0] for result in stream if result.scores]
    np.testing.assert_allclose(scores, np.repeat(expected, 2), rtol=1e-5)


def test_a_full_queue_holds_the_scanner_back_and_slices_that_wait_are_scored_together(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    with session.stream(capacity=5) as stream, ThreadPoolExecutor(1) as pool:
        stream.put(slices(1)[0])
        assert gate.begun.acquire(timeout=60)  # the first one has left the queue
        for hu in slices(5):
            stream.put(hu)
        with pytest.raises(StreamFull, match="5 slices waited for 0.01 s"):
            stream.put(slices(1)[0], timeout=0.01)
        waiting = pool.submit(stream.put, slices(1)[0])
        time.sleep(0.05)
        assert not waiting.done()
        gate.opened.set()
        assert waiting.result(60) == 6
    assert len(list(stream)) == 7
    assert gate.sizes[:2] == [1, 4] and sum(gate.sizes) == 7


@pytest.mark.parametrize(
    ("hu", "message"),
    [
        (np.zeros((512, 256)), "shape"),
        (np.full((512, 512), np.nan), "NaN"),
        (np.zeros((512, 512), complex), "dtype"),
        (np.zeros((1, 512, 512)), "shape"),
    ],
    ids=["shape", "nan", "dtype", "series"],
)
def test_a_bad_slice_is_refused_at_once_and_takes_no_number(
    session: Session, hu: np.ndarray, message: str
) -> None:
    with session.stream() as stream:
        stream.put(slices(1)[0])
        with pytest.raises(InputError, match=message):
            stream.put(hu)
        assert stream.put(slices(1)[0]) == 1
    assert [result.error for result in stream] == [None, None]


@pytest.mark.parametrize("kind", [BackendError, RuntimeError], ids=["typed", "unknown"])
def test_a_slice_that_fails_names_itself_and_the_others_are_scored(
    session: Session, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    run = OnnxRuntimeBackend.run

    def fail_on_20(backend: OnnxRuntimeBackend, hu: Any) -> Any:
        if (hu == 20).any():
            raise kind("no luck")
        return run(backend, hu)

    monkeypatch.setattr(OnnxRuntimeBackend, "run", fail_on_20)
    session.batch = 1
    with session.stream() as stream:
        for hu in slices(5):
            stream.put(hu)
    results = list(stream)
    assert [result.index for result in results if result.error] == [2]
    assert isinstance(results[2].error, BackendError) and "no luck" in str(results[2].error)
    assert [result.index for result in results if result.scores] == [0, 1, 3, 4]


def test_leaving_by_an_error_drops_what_waits_and_ends_the_thread(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), session.stream() as stream:
        for hu in slices(9):
            stream.put(hu)
        assert gate.begun.acquire(timeout=60)
        threading.Timer(0.05, gate.opened.set).start()
        raise ZeroDivisionError
    results = list(stream)
    assert len(results) == sum(gate.sizes) < 9
    stream.close()
    time.sleep(0.05)
    assert threading.active_count() == threads


def test_a_closed_stream_takes_no_slice(session: Session) -> None:
    stream = session.stream()
    stream.close()
    with pytest.raises(SessionClosed, match="the stream is closed"):
        stream.put(slices(1)[0])
    assert list(stream) == []
    with pytest.raises(InputError, match="capacity=0"):
        session.stream(0)


def test_closing_wakes_a_scanner_that_waits(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    stream = session.stream(capacity=1)
    stream.put(slices(1)[0])
    assert gate.begun.acquire(timeout=60)
    stream.put(slices(1)[0])
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(stream.put, slices(1)[0])
        closing = pool.submit(stream.close)
        assert isinstance(waiting.exception(60), SessionClosed)
        gate.opened.set()
        closing.result(60)
    assert len(list(stream)) == 2


def test_a_session_closed_under_a_stream_is_reported_for_each_slice(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(bundle, "onnxruntime-cpu", batch=1)
    stream = session.stream()
    session.close()
    stream.put(slices(1)[0])
    stream.close()
    assert [type(result.error) for result in stream] == [SessionClosed]


def test_many_scanners_and_readers_lose_nothing(session: Session) -> None:
    with ThreadPoolExecutor(8) as pool, session.stream(capacity=2) as stream:
        readers = [pool.submit(list, stream) for _ in range(4)]
        writers = [pool.submit(lambda: [stream.put(hu) for hu in slices(6)]) for _ in range(4)]
        put = [index for writer in writers for index in writer.result(60)]
        stream.close()
        indices = [result.index for reader in readers for result in reader.result(60)]
    assert sorted(put) == sorted(indices) == list(range(24))
