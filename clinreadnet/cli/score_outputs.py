"""Outputs of `clinreadnet score`. All outputs are checked before scoring.

The scores are written first: CSV, then JSON or the table. A failing writer affects neither the
scores nor other outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinreadnet.cli.common import check_printed, print_json
from clinreadnet.cli.options import ScoreFiles
from clinreadnet.console import Output, status
from clinreadnet.data.slices import SliceRef
from clinreadnet.errors import CheckFailed, ClinReadNetError, InputError, origin
from clinreadnet.files import check_distinct, check_output, check_output_folder, same_file
from clinreadnet.runtime import Session
from clinreadnet.scoring import pdf, plot, viewer, write
from clinreadnet.scoring.result import SeriesReport
from clinreadnet.scoring.table import print_report

if TYPE_CHECKING:
    from clinreadnet.dicom.sources import Sources

_FILES = {"csv": (".csv",), "plot": (), "html": (".html", ".htm"), "pdf": (".pdf",)}
"""Outputs that are files, with their suffixes; `plot.check_plot` has those of a plot."""
_OBJECTS = ("sr", "map", "secondary_capture")


class ScoreOutputs:
    """Outputs of a run.

    Attributes:
        keep: data elements to pass to `find_slices` as ``keep``.
        failures: reasons for outputs that were not written, in order.
    """

    def __init__(self, files: ScoreFiles, *, as_json: bool) -> None:
        """Check the outputs before slices are searched. InputError: an output cannot be written.

        Args:
            files: file or folder of each output, or None.
            as_json: whether JSON is printed instead of the table.
        """
        places = {name: place for name, place in vars(files).items() if place is not None}
        self._map_resolution = places.pop("map_resolution")
        self._targets, self._as_json = dict(places), as_json
        self._sources: Sources = {}
        self.keep: Sequence[str] = ()
        self.failures: list[OSError | ClinReadNetError] = []
        self._printed = check_printed({name: places.get(name) for name in _FILES}, as_json)
        if "challenge_output" in places:
            places["challenge_output"] /= write.CHALLENGE_FILE
        check_distinct(places)
        self._files = {places[name]: _FILES[name] for name in _FILES if name in places}
        for target, suffixes in self._files.items():
            # A file that exists may be an input, which `check_slices` says.
            check_output(target, suffixes=() if same_file(target) else suffixes)
        if "plot" in places:
            plot.check_plot(places["plot"])
        if "pdf" in places:
            plot.check_matplotlib()
        if "challenge_output" in places:
            write.check_challenge_output(self._targets["challenge_output"])
            self._files[places["challenge_output"]] = ()
        folders = [places[name] for name in _OBJECTS if name in places]
        if folders:
            # Import all of them, so that a missing package is reported before scoring.
            from clinreadnet.dicom import quality_map, sources, structured_report  # noqa: F401

            quality_map.check_resolution(self._map_resolution)
            self.keep = sources.SOURCE_TAGS
        for folder in folders:
            check_output_folder(folder, force=None)

    def check_slices(self, refs: Sequence[SliceRef], inputs: Iterable[Path]) -> None:
        """Check the outputs that depend on the slices. Impossible outputs are omitted.

        Args:
            refs: all slices, from `find_slices` with ``keep``.
            inputs: other input files.

        Raises:
            InputError: an output is an input, the page would be too large, or a DICOM object is
                requested of a slice that is not DICOM.
        """
        read = [*{ref.path for ref in refs}, *inputs]
        for target, suffixes in self._files.items():
            check_output(target, inputs=read, suffixes=suffixes)
        if "html" in self._targets:
            viewer.check_html(len(refs))
        if not self.keep:
            return
        from clinreadnet.dicom import quality_map, sources

        try:
            self._sources = sources.make_sources(refs)
        except sources.NotDicom:
            raise
        except InputError as error:
            self._leave_out(_OBJECTS, f"no DICOM object is written: {error.full}")
        if "map" in self._targets:
            try:
                quality_map.check_geometry(refs, self._sources)
            except InputError as error:
                self._leave_out(("map",), f"no map is written; {error.full}")

    def write(self, report: SeriesReport, session: Session) -> None:
        """Write all outputs, the scores first. Errors are added to ``failures``.

        The session can be closed.
        """
        facts = session.describe()
        self._attempt("csv", write.write_csv, report)
        try:
            if self._as_json:
                print_json(report.to_dict(session))
            elif not self._printed:
                print_report(report, Output(), facts)
        except OSError as failure:
            self.failures.append(failure)
        self._attempt("plot", plot.write_plot, report)
        self._attempt("html", viewer.write_html, report)
        if "pdf" in self._targets:
            with status("Drawing the pages"):
                self._attempt("pdf", pdf.write_pdf, report, facts)
        self._attempt("challenge_output", write.write_challenge_output, report)
        if self.keep:
            from clinreadnet.dicom import quality_map, structured_report

            given = report, self._sources, facts
            self._attempt("sr", structured_report.write_reports, *given)
            write_maps = partial(quality_map.write_maps, resolution=self._map_resolution)
            self._attempt("map", write_maps, *given)
            self._attempt("secondary_capture", quality_map.write_captures, *given)

    def _leave_out(self, names: Iterable[str], reason: str) -> None:
        self.failures.append(CheckFailed(reason))
        for name in names:
            self._targets.pop(name, None)

    def _attempt(self, name: str, write: Callable[..., object], *given: Any) -> None:
        """Write an output if requested. An error becomes one line.

        The exit status is 2 if the output cannot be written, 1 if a library fails.
        """
        place = self._targets.get(name)
        if place is None:
            return
        try:
            write(*given, place)
        except (OSError, ClinReadNetError) as failure:
            self.failures.append(failure)
        except Exception as error:  # errors of libraries can repeat header values
            reason = f"{place}: not written ({origin(error)}); the scores are complete"
            self.failures.append(CheckFailed(reason))
