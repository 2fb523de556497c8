"""Score an archive with Ray Data, one `Session` per worker: `clinreadnet score-archive`.

This process reads the headers and the workers read the pixels, so every worker must see the files
and the bundle under the same paths. If a worker dies, its chunk of slices goes to another worker. A
slice that kills several workers becomes a row with an error, like one that cannot be read.
"""

from __future__ import annotations

import json
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow
import ray
import ray.data
from numpy.typing import NDArray
from pyarrow import parquet

from clinreadnet.data.acquisition import Acquisition
from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.errors import (
    CheckFailed,
    ClinReadNetError,
    InputError,
    counted,
    origin,
    visible,
)
from clinreadnet.files import check_output, whole_file
from clinreadnet.physics import SliceFigures
from clinreadnet.processor import processors
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.scoring.breaches import LimitReport
from clinreadnet.scoring.cluster import LOCAL, connected
from clinreadnet.scoring.result import (
    SeriesSummary,
    SliceScore,
    site_map_to_dict,
    summaries_to_dict,
    summarise_by_series,
)
from clinreadnet.scoring.run import SeriesEnds, score_chunk
from clinreadnet.scoring.site_map import SiteMap, site_lines
from clinreadnet.scoring.site_rules import NO_RULES, SiteRules
from clinreadnet.spec import RESEARCH_USE

CHUNK = 32
"""Number of slices that a worker scores at a time; they are scored again if the worker dies."""

TRIES = 2
"""Number of workers that may die on a chunk before its slices are scored one by one. The same
number may then die on a slice before it becomes a row with an error."""


def _columns_of(kind: type[Acquisition | SliceFigures]) -> list[tuple[str, Any]]:
    """Return name and type of the column of each field of a dataclass."""
    return [
        (field.name, pyarrow.string() if "str" in str(field.type) else pyarrow.float64())
        for field in fields(kind)
    ]


def _names(kind: type[Acquisition | SliceFigures]) -> list[str]:
    return [name for name, _ in _columns_of(kind)]


SCHEMA = pyarrow.schema(
    [
        ("path", pyarrow.string()),
        ("frame", pyarrow.int32()),
        ("series", pyarrow.string()),
        ("sop_instance_uid", pyarrow.string()),
        ("position", pyarrow.float64()),
        ("score", pyarrow.float32()),
        ("grade", pyarrow.string()),
        ("low", pyarrow.float32()),
        ("high", pyarrow.float32()),
        ("novelty", pyarrow.float32()),
        ("in_domain", pyarrow.bool_()),
        ("region", pyarrow.string()),
        ("region_reason", pyarrow.string()),
        ("header", pyarrow.string()),
        ("site_score", pyarrow.float32()),
        ("site_map", pyarrow.string()),
        *_columns_of(Acquisition),
        ("error", pyarrow.string()),
    ]
)
"""Columns of the result. ``error`` is null where there is a score, and the columns from ``score``
to ``site_map`` are null where there is an error. ``novelty`` and ``in_domain`` are null where the
bundle cannot judge, ``site_score`` without a site map. The columns from ``ctdi_vol_mgy`` on are
those of `Acquisition`."""

LIMITS = pyarrow.schema([("limits", pyarrow.string())])
"""One more column, if series are compared with limits: those that the slice's series exceeds with
its values, or an empty text."""

FIGURES = pyarrow.schema([*_columns_of(SliceFigures), ("remark", pyarrow.string())])
"""More columns, if figures are measured: those of `SliceFigures`, and `SliceScore.remark`."""

_SCORED = tuple(SCHEMA.names[SCHEMA.names.index("score") : SCHEMA.names.index("site_map") + 1])
"""Columns of a slice that has a score."""


@dataclass(frozen=True)
class ArchiveReport:
    """Result of `score_archive`.

    Attributes:
        out: the Parquet file.
        slices: number of rows.
        not_scored: number of rows with an error, except slices without a body at the ends of a
            series.
        by_series: summary of the scores of each series, in the order of the rows.
        session: `Session.describe` of a worker, or None without slices.
        site_map: map that made the site scores; None without one.
        limits: the series compared with the limits of the site; None without limits.
        notes: lines of text about site scores and limits.
    """

    out: Path
    slices: int
    not_scored: int
    by_series: dict[str, SeriesSummary]
    session: dict[str, Any] | None
    site_map: SiteMap | None = None
    limits: LimitReport | None = None
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints; ``series`` is null unless there is one."""
        return {
            "out": str(self.out),
            "slices": self.slices,
            "not_scored": self.not_scored,
            **summaries_to_dict(self.by_series),
            "session": self.session,
            "site_map": site_map_to_dict(self.site_map),
            "limits": None if self.limits is None else self.limits.to_dict(),
            "research_use": RESEARCH_USE,
        }


class NotWritten(CheckFailed):
    """The scores of an archive could not be written; ``report`` summarises them."""

    def __init__(self, message: str, report: ArchiveReport) -> None:
        super().__init__(message)
        self.report = report


_Outcome = SliceScore | InputError
"""The score of a slice, or the error why it has none."""


@dataclass(frozen=True)
class _Chunk:
    """A worker's result for the slices that start at index ``first``."""

    first: int
    outcomes: list[_Outcome]
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
    figures: bool = False,
    session_options: Mapping[str, Any] | None = None,
    rules: SiteRules = NO_RULES,
    note: Callable[[str], None] = lambda line: None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> ArchiveReport:
    """Score every slice of files and folders and write a Parquet file atomically.

    Rows are in the order of `find_slices`; damaged files of a folder come last. If this process is
    already connected to Ray, that connection is used and left open.

    Args:
        paths: files and folders, as for `find_slices`.
        bundle: the bundle's folder.
        out: file to write; its columns are ``SCHEMA``, ``FIGURES`` if measured, and ``LIMITS`` with
            limits.
        address: address of a Ray cluster (``auto``, ``host:port``), or ``local``.
        workers: number of sessions, each with one CPU thread or one GPU; default the cluster's
            number of GPUs, or of CPUs if it has no GPU.
        gpu: whether to give each worker a GPU if the cluster has GPUs.
        resample: whether to accept sizes other than 512×512.
        figures: whether to measure noise, size, dose and other figures of each slice.
        session_options: arguments of `Session` beyond the bundle and ``threads``.
        rules: rules of the site: a map for a column ``site_score``, and limits, with which each
            series is compared.
        note: called with one line for each file that is skipped or unusual.
        advance: called with the slices done and their total.

    Returns:
        The report.

    Raises:
        InputError: the site map is of other weights, figures are limited that are not measured,
            there are no slices, the cluster does not exist or does not answer, it cannot run so
            many workers, or the bundle cannot be loaded.
        CheckFailed: the bundle does not reproduce its golden outputs on a worker.
        NotWritten: the slices were scored, but the file cannot be written.
    """
    out, bundle = Path(out), Path(bundle).absolute()
    check_output(out)
    weights = None if rules.site_map is None else load_manifest(bundle).model.weights_sha256
    rules.check(figures=figures, weights_sha256=weights)
    most = processors()
    if address == LOCAL and (workers or 1) > most and not ray.is_initialized():
        raise InputError(f"workers={workers}: this machine has {most} processors; ask for fewer")
    refused: list[tuple[Path, str]] = []
    try:
        refs = find_slices(
            [Path(path).absolute() for path in paths],
            resample=resample,
            note=note,
            refused=lambda path, error: refused.append((path, str(error))),
        )
    finally:
        for _, reason in refused:
            note(reason)
    keys = (session_options or {}).get("trusted_keys") or ()
    inputs = [*{ref.path for ref in refs}, *bundle.iterdir()]
    check_output(out, inputs=[*inputs, *keys])
    total = len(refs) + len(refused)
    outcomes: dict[int, _Outcome] = {}
    session: dict[str, Any] | None = None
    done = len(refused)
    with connected(address, workers):
        ledger = ray.remote(_Ledger).options(num_cpus=0).remote()
        constructor = (bundle, {**(session_options or {}), "threads": 1}, ledger, figures)
        for chunk in _run(refs, constructor, _worker_options(workers, gpu)):
            outcomes |= enumerate(chunk.outcomes, start=chunk.first)
            session = chunk.session
            done += len(chunk.outcomes)
            advance(done, total)
    if session is not None and session["unjudged"]:
        note(session["unjudged"])
    rows = [outcomes[index] for index in range(len(refs))]
    good, checked = rules.apply([row for row in rows if isinstance(row, SliceScore)])
    ruled = iter(good)
    rows = [next(ruled) if isinstance(row, SliceScore) else row for row in rows]
    ends = SeriesEnds()
    ends.sort(refs, {i: row for i, row in enumerate(rows) if isinstance(row, InputError)})
    if line := ends.note():
        note(line)
    report = ArchiveReport(
        out=out,
        slices=total,
        not_scored=total - len(good) - len(ends.skipped()),
        by_series=summarise_by_series(good),
        session=session,
        site_map=rules.site_map,
        limits=checked,
        notes=[*site_lines(good, rules.site_map), *([] if checked is None else checked.lines)],
    )
    try:
        _write(out, refs, rows, refused, report, figures)
    except Exception as error:  # of Arrow or the disk: hours of work must not be lost silently
        if isinstance(error, InputError):
            reason = error.full
        elif isinstance(error, OSError) and error.strerror:
            reason = f"{out}: {error.strerror}"
        else:
            reason = f"{out}: not written ({origin(error)})"
        failure = NotWritten(
            f"{reason}; {counted(len(good), 'slice', total, verb='was')} scored",
            report,
        )
        failure.exit_code = 2 if isinstance(error, OSError | InputError) else 1
        raise failure from error
    return report


def _worker_options(workers: int | None, gpu: bool) -> dict[str, Any]:
    """Return the arguments of `map_batches` that set the number of workers and their devices."""
    have = ray.cluster_resources()
    gpus = int(have.get("GPU", 0)) if gpu else 0
    room = gpus or int(have.get("CPU", 0))
    if (workers or 1) > room:
        raise InputError(
            f"workers={workers or 1}: the cluster has {room} {'GPUs' if gpus else 'CPUs'}; "
            "ask for fewer"
        )
    pool = ray.data.ActorPoolStrategy(size=workers or room, max_tasks_in_flight_per_actor=1)
    return {"compute": pool, "num_cpus": 1, "num_gpus": 1 if gpus else 0}


def _run(
    refs: Sequence[SliceRef], constructor: tuple[Any, ...], options: dict[str, Any]
) -> Iterator[_Chunk]:
    """Distribute the slices to workers in chunks and yield their results in any order."""
    chunks = [
        {"first": first, "refs": ray.cloudpickle.dumps(refs[first : first + CHUNK])}
        for first in range(0, len(refs), CHUNK)
    ]
    ray.data.DataContext.get_current().enable_progress_bars = False
    # By default Ray Data repeats the calls of a dead worker on another one.
    results = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
        _Worker, fn_constructor_args=constructor, batch_size=1, **options
    )
    for batch in results.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
        for result in map(pickle.loads, batch["result"]):
            if isinstance(result, ClinReadNetError):
                raise result
            yield result


class _Ledger:
    """Counts the work that began without ending: work that begins again has killed its worker."""

    def __init__(self) -> None:
        self._deaths: Counter[tuple[int, ...]] = Counter()

    def begin(self, work: tuple[int, ...]) -> int:
        """Return the number of workers that ``work`` has killed so far."""
        self._deaths[work] += 1
        return self._deaths[work] - 1

    def end(self, work: tuple[int, ...]) -> None:
        """Record that ``work`` ended."""
        del self._deaths[work]


class _Worker:
    """A session in a worker process."""

    def __init__(
        self, bundle: Path, options: Mapping[str, Any], ledger: Any, figures: bool
    ) -> None:
        self._ledger, self._figures = ledger, figures
        self._session: Session | ClinReadNetError
        # If it were raised here, Ray would wrap it in a traceback and retry on another worker.
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
        outcomes = self._survive((first,), self._session, refs)
        if outcomes is None:
            outcomes = []
            for index, ref in enumerate(refs):
                outcomes += self._survive((first, index), self._session, [ref]) or [
                    InputError(f"{ref.name}: it kills its worker process; score the file alone")
                ]
        return _Chunk(first, outcomes, self._session.describe())

    def _survive(
        self, work: tuple[int, ...], session: Session, refs: Sequence[SliceRef]
    ) -> list[_Outcome] | None:
        """Return `score_chunk`'s result, or None if the work has killed enough workers."""
        if ray.get(self._ledger.begin.remote(work)) >= TRIES:
            return None
        scored = score_chunk(session, refs, figures=self._figures)
        ray.get(self._ledger.end.remote(work))
        return scored


def _write(
    out: Path,
    refs: Sequence[SliceRef],
    rows: Sequence[_Outcome],
    refused: Sequence[tuple[Path, str]],
    report: ArchiveReport,
    figures: bool,
) -> None:
    """Write the Parquet file; its metadata describes the session and the site map."""
    paths = [*(ref.path for ref in refs), *(path for path, _ in refused)]
    scored = [row if isinstance(row, SliceScore) else None for row in rows]
    after = [None] * len(refused)

    def of(owners: Sequence[Any], names: Iterable[str]) -> dict[str, list[Any]]:
        """Return columns of attributes of the slices. The rows of refused files are last."""
        return {name: [getattr(own, name, None) for own in owners] + after for name in names}

    columns = of(refs, ("frame", "position")) | of(scored, _SCORED)
    columns |= of([ref.acquisition for ref in refs], _names(Acquisition))
    columns |= {
        "path": [visible(str(path)) for path in paths],
        "series": [visible(ref.series) for ref in refs] + after,
        "sop_instance_uid": [visible(ref.instance_uid) for ref in refs] + after,
        "error": [
            *(str(row) if isinstance(row, InputError) else None for row in rows),
            *(reason for _, reason in refused),
        ],
    }
    schema = SCHEMA
    if figures:
        schema = pyarrow.unify_schemas([SCHEMA, FIGURES])
        columns |= of([row and row.figures for row in scored], _names(SliceFigures))
        columns |= of(scored, ("remark",))
    if report.limits is not None:
        schema = pyarrow.unify_schemas([schema, LIMITS])
        exceeded = {
            (own.series, own.protocol): "; ".join(breach.values for breach in own.breaches)
            for own in report.limits.series
        }
        columns["limits"] = [
            None if row is None else exceeded[row.series, row.acquisition.protocol]
            for row in scored
        ] + after
    facts = {
        "research_use": RESEARCH_USE,
        "session": json.dumps(report.session),
        "site_map": json.dumps(site_map_to_dict(report.site_map)),
    }
    table = pyarrow.table(columns, schema=schema.with_metadata(facts))
    with whole_file(out) as temporary:
        parquet.write_table(table, temporary)
