"""Score a complete series and make the objects that are sent."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import pydicom

from clinreadnet.data.slices import SliceRef, find_slices
from clinreadnet.dicom import quality_map, sources, structured_report
from clinreadnet.errors import InputError
from clinreadnet.node.log import HASH_DIGITS, log
from clinreadnet.node.metrics import Metrics
from clinreadnet.node.spool import Made, Series, Spool
from clinreadnet.runtime import Session
from clinreadnet.scoring.series import score_slices


class Worker:
    """Scores series with one session."""

    def __init__(
        self, session: Session, spool: Spool, metrics: Metrics, *, maps: bool, resample: bool
    ) -> None:
        """Make it; nothing is scored yet.

        Args:
            session: a loaded bundle.
            spool: where series come from and objects go.
            metrics: to count in.
            maps: whether to make parametric maps.
            resample: whether sizes other than 512x512 are accepted.
        """
        self._session = session
        self._spool = spool
        self._metrics = metrics
        self._maps = maps
        self._resample = resample

    def score(self, series: Series) -> None:
        """Score a series; its objects are then replaced by a report, and a map if wanted.

        A series of which no slice can be scored is given up.

        Raises:
            BackendError: the backend failed; the series stays.
            OSError: the disk is full; the series stays.
        """
        name = f"series {series.key[:HASH_DIGITS]}"
        if series.part > 1:
            name += f", part {series.part}"
        start = time.perf_counter()
        folder = Path(tempfile.mkdtemp(dir=self._spool.work))
        try:
            made, scored = self._make(series, name, folder)
            self._spool.finish(series, made)
        except InputError as error:
            reason = self._without_paths(error.full)
            self._spool.fail(series, reason)
            self._metrics.series.labels("failed").inc()
            log(f"{name}: not scored, and its {len(series.files)} objects are removed: {reason}")
            return
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        seconds = time.perf_counter() - start
        self._metrics.series.labels("scored").inc()
        self._metrics.slices.inc(scored)
        self._metrics.score_seconds.observe(seconds)
        log(f"{name}: {scored} slices scored in {seconds:.1f} s, {len(made)} objects to send")

    def _make(self, series: Series, name: str, folder: Path) -> tuple[list[Made], int]:
        damaged = 0

        def leave_out(ref: SliceRef, error: InputError) -> None:
            nonlocal damaged
            damaged += 1
            log(f"{name}: a slice is left out: {self._without_paths(error.full)}", kind="left out")

        refs = find_slices(list(series.files), resample=self._resample)
        headers = sources.read_sources(refs)
        maps = self._maps
        if maps:
            try:
                quality_map.check_geometry(refs, headers)
            except InputError as error:
                maps = False
                log(f"{name}: no map, the report alone: {self._without_paths(error.full)}")
        report = score_slices(self._session, refs, left_out=leave_out)
        self._metrics.left_out.inc(damaged)
        facts = self._session.describe()
        structured_report.write_reports(report, headers, facts, folder / "report")
        if maps:
            quality_map.write_maps(report, headers, facts, folder / "map")
        made = [
            _describe(path, path.parent.name)
            for path in sorted(folder.glob("*/*.dcm"), reverse=True)
        ]
        return made, len(report.slices)

    def _without_paths(self, text: str) -> str:
        return text.replace(f"{self._spool.folder}{os.sep}objects{os.sep}", "")


def _describe(path: Path, kind: str) -> Made:
    """Flush a file to disk, and return what it is."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    meta = pydicom.filereader.read_file_meta_info(path)
    return Made(path, kind, str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID))
