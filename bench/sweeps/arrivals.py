"""Slices that arrive as MLPerf Inference's scenarios say, through a session's stream.

SingleStream sends the next slice when the last one is scored, Offline sends all at once, Server
sends them at random times (a Poisson process) of a given rate. MLPerf's own LoadGen makes the
arrivals and takes the times (package ``mlcommons-loadgen``, extra ``bench``):
https://github.com/mlcommons/inference/tree/master/loadgen
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from bench.rows import TAIL, ArrivalRow
from clinreadnet.data.plausibility import implausible
from clinreadnet.errors import BackendUnavailable, ClinReadNetError, InputError
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.inputs import check_slices

SCENARIOS = ("SingleStream", "Offline", "Server")
CAPACITY = 1024
"""Slices that may wait in the stream. LoadGen must not be held up when it sends one."""
SHARES = (0.25, 0.5, 0.7, 0.8, 0.9)
"""Rates of Server's arrivals, over the rate that Offline reaches."""
_RATES = {
    "SingleStream": "result_qps_with_loadgen_overhead",
    "Offline": "result_samples_per_second",
    "Server": "result_completed_samples_per_sec",
}
_DETAIL = ":::MLLOG "


class Arrivals:
    """The scenarios of one bundle; each runs once.

    Args:
        bundle: folder of the bundle.
        quick: send few slices, only to try it.
    """

    def __init__(self, bundle: Path, *, quick: bool) -> None:
        self._session = Session(bundle)
        manifest = self._session.manifest
        golden = read_golden(bundle, manifest.golden)["hu"]
        # Air and noise are refused.
        self._hu = golden[[implausible(image) is None for image in golden]]
        self._seconds, self._least = (0.5, 4) if quick else (40.0, TAIL)
        self._rows: dict[str, ArrivalRow] = {}

    def row(self, scenario: str, share: float | None = None) -> ArrivalRow:
        """Return the row of a scenario.

        Args:
            scenario: one of ``SCENARIOS``.
            share: of Server, the rate of arrivals over that which Offline reaches.
        """
        if share is None and scenario in self._rows:
            return self._rows[scenario]
        alone = None if scenario == "SingleStream" else self.row("SingleStream")
        row = run_scenario(
            self._session,
            self._hu,
            scenario,
            seconds=self._seconds,
            least=self._least,
            rate=None if share is None else share * self.row("Offline").slices_per_second,
            expected=10.0 if alone is None else alone.slices_per_second,
        )
        if share is None:
            self._rows[scenario] = row
        return row


def missing(bundle: Path) -> str | None:
    """Return why no arrivals can be measured here, or None."""
    if not bundle.is_dir():
        return f"no bundle at {bundle}: run `clinreadnet export --out bundle`"
    try:
        load_generator()
    except BackendUnavailable as error:
        return str(error)
    return None


def load_generator() -> ModuleType:
    """Return LoadGen's module.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        import mlperf_loadgen
    except ImportError:
        raise BackendUnavailable(
            "mlcommons-loadgen is not installed (Linux on x86-64 only); "
            'run `pip install "clinreadnet[bench]"`'
        ) from None
    module: ModuleType = mlperf_loadgen
    return module


def run_scenario(
    session: Session,
    hu: NDArray[Any],
    scenario: str,
    *,
    seconds: float,
    least: int,
    rate: float | None = None,
    expected: float = 10.0,
) -> ArrivalRow:
    """Send slices to a session as a scenario says.

    Args:
        session: the one that is measured.
        hu: [n, 512, 512], Hounsfield units; drawn at random, with the same seed every time.
        scenario: one of ``SCENARIOS``.
        seconds: the least time of the run.
        least: the least number of slices.
        rate: slices per second that arrive; for Server alone.
        expected: slices per second that Offline can be expected to reach; sets how many it sends.

    Returns:
        The row of this run; its times are LoadGen's, from the time at which a slice should arrive.

    Raises:
        BackendUnavailable: LoadGen is not installed.
        InputError: no slices; an unknown scenario; a rate that is missing, not above zero, or not
            for this scenario.
        BackendError: a slice was not scored.
    """
    if scenario not in SCENARIOS:
        raise InputError(f"scenario={scenario!r}: none of {', '.join(SCENARIOS)}")
    if (rate is not None) != (scenario == "Server"):
        raise InputError(f"rate={rate}: Server needs the rate of arrivals, and it alone")
    if rate is not None and not 0 < rate < 1e6:
        raise InputError(f"rate={rate}: slices per second; give a number above 0")
    hu = check_slices(hu)  # an error while LoadGen sends would end the process
    lg = load_generator()
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * seconds)
    settings.min_query_count = 1 if scenario == "Offline" else least
    if scenario == "Offline":  # LoadGen sends 1.1 x expected x duration at once
        settings.offline_expected_qps = max(expected, least / (1.1 * seconds))
    if rate is not None:
        settings.server_target_qps = rate
        settings.server_target_latency_ns = 10**15  # no limit here: the row holds the percentiles
    sent = _Sent(lg, session, hu)
    results = sent.run(settings)
    return ArrivalRow(
        candidate=session.backend,
        precision=session.artifact.precision,
        batch=session.batch,
        scenario=scenario,
        rate=rate,
        n=sent.scored,
        slices_per_second=float(results[_RATES[scenario]]),
        p50=results["result_50.00_percentile_latency_ns"] / 1e9,
        p90=results["result_90.00_percentile_latency_ns"] / 1e9,
        p99=results["result_99.00_percentile_latency_ns"] / 1e9,
        weights_sha256=session.manifest.model.weights_sha256,
    )


class _Sent:
    """What LoadGen sends, on its way through the stream of a session."""

    def __init__(self, lg: ModuleType, session: Session, hu: NDArray[Any]) -> None:
        self._lg = lg
        self._hu = hu
        self._stream = session.stream(CAPACITY)
        self._ids: deque[int] = deque()  # LoadGen's, in the order in which the slices wait
        self._failure: ClinReadNetError | None = None
        self.scored = 0

    def run(self, settings: Any) -> dict[str, Any]:
        """Send what the settings say; return LoadGen's results by name."""
        lg = self._lg
        reader = threading.Thread(target=self._read, name="arrivals")
        reader.start()
        sut = lg.ConstructSUT(self._send, lambda: None)
        count = len(self._hu)
        library = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
        try:
            with tempfile.TemporaryDirectory() as folder:
                logs, output = lg.LogSettings(), lg.LogOutputSettings()
                output.outdir, output.copy_summary_to_stdout = folder, False
                logs.log_output, logs.enable_trace = output, False
                lg.StartTestWithLogSettings(sut, library, settings, logs)
                results = _results(Path(folder) / "mlperf_log_detail.txt")
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(sut)
            self._stream.close()
            reader.join()
        if self._failure is not None:
            raise self._failure
        return results

    def _send(self, samples: Sequence[Any]) -> None:
        for sample in samples:
            self._ids.append(sample.id)
            self._stream.put(self._hu[sample.index])

    def _read(self) -> None:
        for result in self._stream:
            self._failure = self._failure or result.error
            self.scored += result.error is None
            response = self._lg.QuerySampleResponse(self._ids.popleft(), 0, 0)
            self._lg.QuerySamplesComplete([response])


def _results(log: Path) -> dict[str, Any]:
    lines = log.read_text(encoding="utf-8").splitlines()
    said = [json.loads(line.removeprefix(_DETAIL)) for line in lines if line.startswith(_DETAIL)]
    return {entry["key"]: entry["value"] for entry in said}
