"""Score a complete series and make its report and map."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.dicom import quality_map, sources, structured_report
from clinreadnet.dicom.object_files import ObjectFile
from clinreadnet.errors import (
    BackendError,
    ClinReadNetError,
    InputError,
    SessionClosed,
    counted,
    origin,
)
from clinreadnet.node.config import NodeConfig
from clinreadnet.node.log import HASH_DIGITS, log
from clinreadnet.node.metrics import Metrics
from clinreadnet.node.spool import Series, SetAside, Spool
from clinreadnet.runtime import Session
from clinreadnet.scoring.result import SeriesReport, summary_line
from clinreadnet.scoring.run import score_slices

LATER = (BackendError, SessionClosed, OSError, sqlite3.Error, MemoryError)
"""Errors that a series does not cause: it is kept and retried."""

_MOST_MEMORY_ERRORS = 5
_MOST_DEATHS = 2


class _NoSlice(InputError):
    """No slice of a series can be scored."""


@dataclass
class Worker:
    """Scores series with one session.

    Attributes:
        session: session of the loaded bundle.
        spool: spool for series and objects.
        metrics: metrics of the node.
        config: settings of the node: what to measure and to make, and the rules of the site.
    """

    session: Session
    spool: Spool
    metrics: Metrics
    config: NodeConfig
    _doing: str = field(default="", init=False)

    def score(self, series: Series) -> None:
        """Score a series and replace its objects by a report, and a map if wanted.

        A series of which no slice can be scored is given up. Whatever else its headers or pixels
        make a library raise, the series is set aside, and so it is if the process ended twice while
        it was scored.

        Raises:
            BackendError: the backend failed; the series is kept.
            OSError: the disk is full; the series is kept.
            sqlite3.Error: the database cannot be written; the series is kept.
            MemoryError: memory is full; the series is kept, but set aside the fifth time.
            SessionClosed: the node is stopping.
        """
        name = f"series {series.key[:HASH_DIGITS]}"
        if series.part > 1:
            name += f", part {series.part}"
        if series.deaths >= _MOST_DEATHS:
            reason = f"the process ended {series.deaths} times in a row while it scored this series"
            self._set_aside(series, name, SetAside(reason, reason))
            return
        start = time.perf_counter()
        folder = Path(tempfile.mkdtemp(dir=self.spool.work))
        self._doing = "reading"
        try:
            made, scored, aside = self._make(series, name, folder)
            self._doing = "finishing"
            self.spool.finish(series, made, aside)
        except _NoSlice as error:
            reason = self._without_paths(error.full)
            self.spool.fail(series, reason)
            self.metrics.series.labels("failed").inc()
            gone = f"{counted(len(series.files), 'object', verb='is')} removed"
            log(f"{name}: not scored, and its {gone}: {reason}")
            return
        except Exception as error:
            often = isinstance(error, MemoryError) and series.attempts >= _MOST_MEMORY_ERRORS
            if isinstance(error, LATER) and not often:
                raise
            self._set_aside(series, name, self._why(error))
            return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        seconds = time.perf_counter() - start
        self.metrics.series.labels("scored" if aside is None else "aside").inc()
        self.metrics.slices.inc(scored)
        self.metrics.score_seconds.observe(seconds)
        log(
            f"{name}: {counted(scored, 'slice')} scored in {seconds:.1f} s, "
            f"{counted(len(made), 'object')} to send"
        )
        if aside is not None:
            self._tell(name, aside)

    def _make(
        self, series: Series, name: str, folder: Path
    ) -> tuple[list[tuple[str, ObjectFile]], int, SetAside | None]:
        """Return the objects to send, the number of scored slices, and why the map is missing."""
        damaged = 0
        aside = None

        def leave_out(ref: SliceRef, error: InputError) -> None:
            nonlocal damaged
            damaged += 1
            log(f"{name}: a slice is left out: {self._without_paths(error.full)}", kind="left out")

        wanted = {"report", "map"} if self.config.maps else {"report"}
        wanted -= self.spool.made(series)
        try:
            refs = find_slices(
                list(series.files), resample=self.config.resample, keep=sources.SOURCE_TAGS
            )
            refs = [replace(ref, named=False) for ref in refs]  # a peer sends whole series
            self._doing = "scoring"
            report = score_slices(
                self.session,
                refs,
                figures=self.config.figures,
                rules=self.config.rules,
                left_out=leave_out,
            )
        except InputError as error:
            raise _NoSlice(error.full) from None
        self.metrics.left_out.labels("damaged").inc(damaged)
        if empty := len(report.skipped):
            self.metrics.left_out.labels("no body").inc(empty)
            log(f"{name}: left out at its ends: {counted(empty, 'slice')} without a body")
        if report.site_map is not None:
            log(f"{name}: {summary_line(report.series)} ({report.site_map.name})")
        self._doing = "report"
        headers = sources.make_sources(report.refs)
        facts = self.session.describe()
        made: list[tuple[str, ObjectFile]] = []
        if "report" in wanted:
            reports = structured_report.write_reports(report, headers, facts, folder / "report")
            made += [("report", written) for written in reports]
        if "map" in wanted:
            self._doing = "map"
            maps, aside = self._write_maps(report, headers, facts, name, folder / "map")
            made += [("map", written) for written in maps]
        self._doing = "finishing"
        for _, written in made:
            _flush(written.path)
        if report.limits is not None and "report" in wanted:  # not again for a map that failed
            for breach in report.limits.breaches:
                self.metrics.limits_exceeded.labels(breach.limit.key).inc()
                log(f"{name}: limit exceeded: {breach.values}")
        return made, len(report.slices), aside

    def _write_maps(
        self,
        report: SeriesReport,
        headers: sources.Sources,
        facts: dict[str, Any],
        name: str,
        folder: Path,
    ) -> tuple[list[ObjectFile], SetAside | None]:
        """Return the maps, and why they cannot be written; slices without positions get none."""
        try:
            quality_map.check_geometry(report.refs, headers)
        except InputError as error:
            log(f"{name}: only a report, without a map: {self._without_paths(error.full)}")
            return [], None
        except Exception as error:
            return [], self._why(error)
        try:
            return quality_map.write_maps(
                report, headers, facts, folder, self.config.map_resolution
            ), None
        except LATER:
            raise
        except Exception as error:  # the report is sent anyway
            return [], self._why(error)

    def _set_aside(self, series: Series, name: str, aside: SetAside) -> None:
        self.spool.set_aside(series, aside)
        self.metrics.series.labels("aside").inc()
        self._tell(name, aside)

    def _tell(self, name: str, aside: SetAside) -> None:
        log(f"{name}: set aside ({aside.reason}); `clinreadnet spool` lists it")
        for key in self.spool.make_room():
            log(f"series {key[:HASH_DIGITS]}: was set aside, and is removed to make room")

    def _why(self, error: Exception) -> SetAside:
        if isinstance(error, ClinReadNetError):
            reason = self._without_paths(error.full)
        else:  # an error of a library, whose message may repeat a header
            reason = origin(error)
        reason = f"{self._doing}: {reason}"
        return SetAside(reason, "".join([reason, "\n\n", *traceback.format_exception(error)]))

    def _without_paths(self, text: str) -> str:
        return text.replace(f"{self.spool.folder}{os.sep}objects{os.sep}", "")


def _flush(path: Path) -> None:
    """Flush a file to disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
