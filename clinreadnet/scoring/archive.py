"""Score an archive with Ray Data, one `Session` a worker: what `clinreadnet score --ray` does.

Headers are read here, pixels by the workers, so every worker must see the files and the bundle
under the same paths. A chunk of slices whose worker dies is given to another; a slice that kills
workers again and again becomes a row with an error, like one that cannot be read.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import ray
import ray.data
from numpy.typing import NDArray
from pyarrow import parquet

from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.errors import ClinReadNetError, InputError, first_line
from clinreadnet.files import whole_file
from clinreadnet.runtime import Session
from clinreadnet.scoring.series import (
    SeriesSummary,
    SliceScore,
    check_target,
    slice_scores,
    summarise,
)
from clinreadnet.spec import RESEARCH_USE

LOCAL = "local"
"""The address that starts Ray on this machine, for this run alone."""

CHUNK = 32
"""Slices a worker takes at a time, and repeats where it dies."""

TRIES = 2
"""Workers a chunk may cost; then its slices are scored alone, and each may cost as many again."""

_OBJECT_STORE = 256 * 2**20  # of a local Ray; only headers and scores pass through it

SCHEMA = pyarrow.schema(
    [
        ("path", pyarrow.string()),
        ("frame", pyarrow.int32()),
        ("series", pyarrow.string()),
        ("position", pyarrow.float64()),
        ("score", pyarrow.float32()),
        ("grade", pyarrow.string()),
        ("low", pyarrow.float32()),
        ("high", pyarrow.float32()),
        ("novelty", pyarrow.float32()),
        ("in_domain", pyarrow.bool_()),
        ("error", pyarrow.string()),
    ]
)
"""Columns of the result: error is null where there is a score, and the columns of `SliceScore` from
score on where there is an error. novelty and in_domain are null where the bundle cannot judge."""

_SCORED = ("score", "grade", "low", "high", "novelty", "in_domain")
"""Columns that a slice has where it was scored."""


@dataclass(frozen=True)
class ArchiveReport:
    """What was scored.

    Attributes:
        out: the Parquet file.
        slices: rows in it.
        not_scored: rows with an error.
        series: summary of the scores, or None where there is none.
        session: what ran, as `Session.describe` says it; None where nothing did.
    """

    out: Path
    slices: int
    not_scored: int
    series: SeriesSummary | None
    session: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return asdict(self) | {"out": str(self.out), "research_use": RESEARCH_USE}


@dataclass(frozen=True)
class _Chunk:
    """What a worker says about the slices ``first`` ... ``first + len(errors) - 1``."""

    first: int
    scores: list[SliceScore | None]
    errors: list[str | None]
    session: dict[str, Any]


def score_archive(
    paths: Sequence[str | os.PathLike[str]],
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    address: str = LOCAL,
    workers: int | None = None,
    gpu: bool = True,
    resample: bool = False,
    session_options: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = lambda line: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> ArchiveReport:
    """Score every slice of files and folders and write a Parquet file, whole or not at all.

    Rows are in the order of `find_slices`; files of a folder that are damaged come last. Where this
    process is connected to Ray already, that connection is used and left open.

    Args:
        paths: files and folders, as for `find_slices`.
        bundle: the bundle's folder.
        out: file to write; its columns are ``SCHEMA``.
        address: of a Ray cluster (``auto``, ``host:port``), or ``local``.
        workers: one session each, with one CPU thread or one GPU; by default as many as the cluster
            has GPUs, or CPUs where it has none.
        gpu: whether to give each worker a GPU where the cluster has any.
        resample: accept other sizes than 512×512.
        session_options: arguments of `Session` beyond the bundle and ``threads``.
        note: told, in one line, about each thing that was left out or is unusual.
        advance: called with the slices done and their total.

    Returns:
        The report.

    Raises:
        InputError: no slices, no such cluster, more workers than it has room for, or a bundle that
            cannot be loaded.
        CheckFailed: the bundle does not reproduce its golden outputs on a worker.
    """
    out, bundle = Path(out), Path(bundle).absolute()
    check_target(out)
    refused: list[tuple[Path, str]] = []
    refs = find_slices(
        [Path(path).absolute() for path in paths],
        resample=resample,
        note=note,
        refused=lambda path, error: refused.append((path, str(error))),
    )
    for _, reason in refused:
        note(reason)
    total = len(refs) + len(refused)
    scores: list[SliceScore | None] = [None] * len(refs)
    errors: list[str | None] = [None] * len(refs)
    session: dict[str, Any] | None = None
    done = len(refused)
    with _cluster(address, workers):
        ledger = ray.remote(_Ledger).options(num_cpus=0).remote()
        constructor = (bundle, {**(session_options or {}), "threads": 1}, ledger)
        for chunk in _run(refs, constructor, _worker_options(workers, gpu)):
            here = slice(chunk.first, chunk.first + len(chunk.errors))
            scores[here], errors[here], session = chunk.scores, chunk.errors, chunk.session
            done += len(chunk.errors)
            advance(done, total)
    _write(out, refs, scores, errors, refused, session)
    if session is not None and session["unjudged"]:
        note(session["unjudged"])
    good = [one for one in scores if one is not None]
    return ArchiveReport(
        out=out,
        slices=total,
        not_scored=total - len(good),
        series=summarise(good) if good else None,
        session=session,
    )


@contextmanager
def _cluster(address: str, workers: int | None) -> Iterator[None]:
    """Connect to Ray, or start it here, and leave no trace of a Ray that was started."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    # Ray's processes in C++ write to standard error by themselves, about restarts among others.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        quiet |= {"num_cpus": max(workers or 0, os.cpu_count() or 1)}
    try:
        with _silent_standard_error():
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray {address}: no Ray cluster there ({first_line(error)}); give "
            f"HOST:PORT of its head, auto, or {LOCAL}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _silent_standard_error() -> Iterator[None]:
    """Ray's C++ says on standard error what its log level is, whatever that level is."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _worker_options(workers: int | None, gpu: bool) -> dict[str, Any]:
    """Return the arguments of `map_batches` that say how many workers there are, and on what."""
    have = ray.cluster_resources()
    gpus = int(have.get("GPU", 0)) if gpu else 0
    room = gpus or int(have.get("CPU", 0))
    if (workers or 1) > room:
        raise InputError(
            f"--workers {workers or 1}: the cluster has {room} {'GPUs' if gpus else 'CPUs'}; "
            "ask for fewer"
        )
    pool = ray.data.ActorPoolStrategy(size=workers or room, max_tasks_in_flight_per_actor=1)
    return {"compute": pool, "num_cpus": 1, "num_gpus": 1 if gpus else 0}


def _run(
    refs: Sequence[SliceRef], constructor: tuple[Any, ...], options: dict[str, Any]
) -> Iterator[_Chunk]:
    """Give the slices to workers in chunks; yield what they say, in any order."""
    chunks = [
        {"first": first, "refs": ray.cloudpickle.dumps(refs[first : first + CHUNK])}
        for first in range(0, len(refs), CHUNK)
    ]
    ray.data.DataContext.get_current().enable_progress_bars = False
    # Ray Data's own choice for the calls of a worker that died: another one makes them again.
    results = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
        _Worker, fn_constructor_args=constructor, batch_size=1, **options
    )
    for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        for result in map(pickle.loads, batch["result"]):
            if isinstance(result, ClinReadNetError):
                raise result
            yield result


class _Ledger:
    """Remembers what was begun and not ended: work that is begun again has killed its worker."""

    def __init__(self) -> None:
        self._deaths: Counter[tuple[int, ...]] = Counter()

    def begin(self, work: tuple[int, ...]) -> int:
        """Return how many workers died of ``work`` so far."""
        self._deaths[work] += 1
        return self._deaths[work] - 1

    def end(self, work: tuple[int, ...]) -> None:
        """Say that a worker lived through ``work``."""
        del self._deaths[work]


class _Worker:
    """A session that lives as long as its process."""

    def __init__(self, bundle: Path, options: Mapping[str, Any], ledger: Any) -> None:
        self._ledger = ledger
        self._session: Session | ClinReadNetError
        # Raised here, Ray would wrap it in a traceback and try again on another worker.
        try:
            self._session = Session(bundle, **options)
        except ClinReadNetError as error:
            self._session = error

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, list[bytes]]:
        return {
            "result": [
                pickle.dumps(self._answer(int(first), pickle.loads(refs)))
                for first, refs in zip(batch["first"], batch["refs"], strict=True)
            ]
        }

    def _answer(self, first: int, refs: Sequence[SliceRef]) -> _Chunk | ClinReadNetError:
        if isinstance(self._session, ClinReadNetError):
            return self._session
        scored = self._survive((first,), self._session, refs)
        if scored is None:
            scored = [None] * len(refs), [None] * len(refs)
            for index, ref in enumerate(refs):
                alone = self._survive((first, index), self._session, [ref])
                if alone is None:
                    scored[1][index] = f"{ref.name}: workers die of it; score the file alone"
                else:
                    scored[0][index], scored[1][index] = alone[0][0], alone[1][0]
        return _Chunk(first, *scored, self._session.describe())

    def _survive(
        self, work: tuple[int, ...], session: Session, refs: Sequence[SliceRef]
    ) -> tuple[list[SliceScore | None], list[str | None]] | None:
        """Return what `score_chunk` does, or None where enough workers have died of it."""
        if ray.get(self._ledger.begin.remote(work)) >= TRIES:
            return None
        scored = score_chunk(session, refs)
        ray.get(self._ledger.end.remote(work))
        return scored


def score_chunk(
    session: Session, refs: Sequence[SliceRef]
) -> tuple[list[SliceScore | None], list[str | None]]:
    """Load and score slices; one that fails stops no other.

    Args:
        session: a loaded bundle.
        refs: n slices.

    Returns:
        The n scores, None where there is none, and why there is none, n lines or None.
    """
    scores: list[SliceScore | None] = [None] * len(refs)
    errors: list[str | None] = [None] * len(refs)
    images: dict[int, NDArray[np.float32]] = {}
    for index, ref in enumerate(refs):
        try:
            images[index] = ref.load()
        except InputError as error:
            errors[index] = str(error)
    try:
        if images:
            together = session.score(np.stack(list(images.values())))
            for index, one in zip(
                images, slice_scores([refs[i] for i in images], together), strict=True
            ):
                scores[index] = one
    except ClinReadNetError:
        for index, image in images.items():  # which of them was it?
            try:
                (scores[index],) = slice_scores([refs[index]], session.score(image[None]))
            except ClinReadNetError as error:
                errors[index] = f"{refs[index].name}: {error}"
    return scores, errors


def _write(
    out: Path,
    refs: Sequence[SliceRef],
    scores: Sequence[SliceScore | None],
    errors: Sequence[str | None],
    refused: Sequence[tuple[Path, str]],
    session: Mapping[str, Any] | None,
) -> None:
    """Write the Parquet file; its metadata says what ran."""
    after = [None] * len(refused)
    columns: dict[str, list[Any]] = {
        "path": [str(ref.path) for ref in refs] + [str(path) for path, _ in refused],
        "frame": [ref.frame for ref in refs] + after,
        "series": [ref.series for ref in refs] + after,
        "position": [ref.position for ref in refs] + after,
        **{
            name: [None if one is None else getattr(one, name) for one in scores] + after
            for name in _SCORED
        },
        "error": [*errors, *(reason for _, reason in refused)],
    }
    facts = {"research_use": RESEARCH_USE, "session": json.dumps(session)}
    table = pyarrow.table(columns, schema=SCHEMA.with_metadata(facts))
    with whole_file(out) as temporary:
        parquet.write_table(table, temporary)
