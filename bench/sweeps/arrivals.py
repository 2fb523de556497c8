"""Send slices to a session's stream in the scenarios of MLPerf Inference.

SingleStream sends the next slice after each result, Offline sends all at once, Server sends them at
random times (a Poisson process) with a given rate. MLPerf's LoadGen generates the arrivals and
measures the times (package ``mlcommons-loadgen``, extra ``bench``):
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
from clinreadnet.data.plausibility import count_pixels, implausible
from clinreadnet.errors import BackendUnavailable, ClinReadNetError, InputError
from clinreadnet.runtime import Session
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.inputs import check_slices

SCENARIOS = ("SingleStream", "Offline", "Server")
CAPACITY = 1024
"""Capacity of the stream. LoadGen must not block when it sends a slice."""
SHARES = (0.25, 0.5, 0.7, 0.8, 0.9)
"""Rates of Server relative to the rate of Offline."""
_RATES = {
    "SingleStream": "result_qps_with_loadgen_overhead",
    "Offline": "result_samples_per_second",
    "Server": "result_completed_samples_per_sec",
}
_DETAIL = ":::MLLOG "


class Arrivals:
    """Scenarios of a bundle. Each runs once.

    Args:
        bundle: folder of the bundle.
        quick: send only a few slices, as a test.
    """

    def __init__(self, bundle: Path, *, quick: bool) -> None:
        self._session = Session(bundle)
        manifest = self._session.manifest
        golden = read_golden(bundle, manifest.golden)["hu"]
        # Golden slices of air and noise are not plausible.
        self._hu = golden[[implausible(count_pixels(image)) is None for image in golden]]
        self._seconds, self._least = (0.5, 4) if quick else (40.0, TAIL)
        self._rows: dict[str, ArrivalRow] = {}

    def row(self, scenario: str, share: float | None = None) -> ArrivalRow:
        """Return the row of a scenario.

        Args:
            scenario: one of ``SCENARIOS``.
            share: rate of Server relative to that of Offline.
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
    """Return why arrivals cannot be measured here, or None."""
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
        BackendUnavailable: LoadGen is not installed.
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
    """Send slices to a session in a scenario.

    Args:
        session: session to measure.
        hu: [n, 512, 512] Hounsfield units, which are drawn at random with a fixed seed.
        scenario: one of ``SCENARIOS``.
        seconds: least duration of the run.
        least: least number of slices.
        rate: arrivals per second, only for Server.
        expected: expected slices per second of Offline, which sets the number of slices.

    Returns:
        The row of the run. Times are LoadGen's, from the scheduled arrival of a slice.

    Raises:
        BackendUnavailable: LoadGen is not installed.
        InputError: there are no slices, the scenario is unknown, or the rate is missing, not
            positive or not for this scenario.
        BackendError: a slice could not be scored.
    """
    if scenario not in SCENARIOS:
        raise InputError(f"scenario={scenario!r}: none of {', '.join(SCENARIOS)}")
    if (rate is not None) != (scenario == "Server"):
        raise InputError(f"rate={rate}: Server needs the rate of arrivals, and it alone")
    if rate is not None and not 0 < rate < 1e6:
        raise InputError(f"rate={rate}: slices per second; give a number above 0")
    hu = check_slices(hu)  # an error inside LoadGen would end the process
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
        settings.server_target_latency_ns = 10**15  # no limit
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
    """Connects LoadGen to the stream of a session."""

    def __init__(self, lg: ModuleType, session: Session, hu: NDArray[Any]) -> None:
        self._lg = lg
        self._hu = hu
        self._stream = session.stream(CAPACITY)
        self._ids: deque[int] = deque()  # IDs of LoadGen in the order of the waiting slices
        self._failure: ClinReadNetError | None = None
        self.scored = 0

    def run(self, settings: Any) -> dict[str, Any]:
        """Send slices according to the settings; return the results of LoadGen by name."""
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
    details = [json.loads(line.removeprefix(_DETAIL)) for line in lines if line.startswith(_DETAIL)]
    return {entry["key"]: entry["value"] for entry in details}
