"""The method of every row, and what a recorded run says of itself (docs/benchmarking.md)."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.measure import machine, roofline
from bench.measure.networks import Candidate, check, load_bundle
from bench.measure.timing import (
    REPLAY,
    Sample,
    WarmUp,
    copies_past_the_cache,
    host_sample,
    interleave,
    marks,
    warm_up,
)
from bench.recording import current_commit
from clinreadnet.report.results import SCHEMA
from clinreadnet.report.statistics import median_interval, paired_ratio, percentile, variation
from clinreadnet.runtime.bundle.manifest import Manifest
from clinreadnet.scoring.series import default_bundle

RATES: dict[str, float] = {}
"""Measured once, at the first row of a run."""


class Measured:
    """One group of candidates, timed in turn at one batch by one clock.

    Attributes:
        rows: what is recorded of each candidate, by title, with its ``times`` in seconds.
        failed: why a candidate was not timed, by title.
    """

    def __init__(
        self,
        candidates: Mapping[str, Candidate],
        baseline: str,
        *,
        batch: int,
        clock: str,
        bundle: Path,
        manifest: Manifest,
        rates: Mapping[str, float],
        nvml: Any | None,
        timing: Mapping[str, Any],
    ) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        samples: dict[str, Sample] = {}
        parity: dict[str, float] = {}
        warm: dict[str, WarmUp] = {}
        for title, candidate in candidates.items():
            try:
                run = candidate.open(batch)
                parity[title] = check(run, candidate, bundle)
                samples[title] = sample_of(candidate, run, batch, clock)
                warm[title] = warm_up(samples[title], **timing["warm_up"])
            except Exception as error:
                samples.pop(title, None)
                self.failed[title] = f"{type(error).__name__}: {error}"
        watch = machine.Watch(nvml)
        times = interleave(samples, **timing["interleave"])
        watch.stop()
        for title, seconds in times.items():
            candidate = candidates[title]
            work = network_work(manifest, batch, candidate.precision)
            p50 = percentile(seconds, 50)
            found = marks(seconds, warm[title], throttled=watch.throttled, busy=watch.busy)
            artifact = None if candidate.artifact is None else manifest.artifact(candidate.artifact)
            ratio = None
            if title != baseline and baseline in times:
                ratio = paired_ratio(times[baseline], seconds)
            self.rows[title] = {
                "times": seconds,
                "op": "network",
                "candidate": candidate.name,
                "role": candidate.role,
                "precision": candidate.precision,
                "batch": batch,
                "clock": clock,
                "n": len(seconds),
                "p50": p50,
                "p90": percentile(seconds, 90),
                "p99": percentile(seconds, 99),
                "interval": median_interval(seconds),
                "variation": variation(seconds),
                "marks": found,
                "warm_up": vars(warm[title]),
                "baseline": None if ratio is None else baseline,
                "ratio": ratio,
                "flops": work.flops,
                "bytes": work.bytes,
                "percent_of_limit": 100 * work.limit(rates, candidate.precision) / p50,
                "artifact": candidate.artifact,
                "sha256": None if artifact is None else artifact.sha256,
                "weights_sha256": manifest.model.weights_sha256,
                "score_difference": parity[title],
                "before": watch.before,
                "after": watch.after,
                "others_busy": watch.busy,
            }


def network_work(manifest: Manifest, batch: int, precision: str) -> roofline.Work:
    """Return what one run must compute and move, by the shape the manifest's preset names."""
    from clinreadnet.model.network import ClinReadNetConfig

    config = ClinReadNetConfig.from_preset(manifest.model.preset)
    return roofline.network(config, batch, precision, manifest.model.parameters)


def sample_of(candidate: Candidate, run: Callable[..., Any], batch: int, clock: str) -> Sample:
    """Return what times one run, by the wall clock or by CUDA events."""
    rng, size = np.random.default_rng(batch), batch * 512 * 512 * 4
    if clock == "host":
        copies = copies_past_the_cache(size, machine.cache_bytes())
        noise = rng.normal(40, 300, (batch, 1, 512, 512)).astype(np.float32)
        return host_sample(run, [noise + float(i) for i in range(copies)])
    from bench.measure.cuda_clock import device_sample

    assert candidate.bind is not None
    return device_sample(candidate.bind, batch, graph=clock == "device graph")


class Groups:
    """Measures a group when its first row is asked for; the other rows find it done."""

    def __init__(self, session: pytest.Session, bundle: Path) -> None:
        self._session, self._bundle = session, bundle
        self._nvml = machine.import_nvml()
        self._measure = functools.cache(self._measured)

    def row(self, batch: int, clock: str, title: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return what was measured of one candidate, or why it was not."""
        group = self._measure(batch, clock)
        return group.rows.get(title), group.failed.get(title)

    def _measured(self, batch: int, clock: str) -> Measured:
        # Only the selected ones: `pytest bench -k openvino` loads nothing else.
        found = {
            params["candidate"].title: params["candidate"]
            for item in self._session.items
            if (params := getattr(getattr(item, "callspec", None), "params", {})).get("clock")
            == clock
            and params.get("batch") == batch
        }
        baseline = next((t for t, c in found.items() if c.role != "artifact"), next(iter(found)))
        return Measured(
            found,
            baseline,
            batch=batch,
            clock=clock,
            bundle=self._bundle,
            manifest=load_bundle(self._bundle),
            rates=measured_rates(),
            nvml=self._nvml,
            timing=_timing(self._session.config),
        )


def measured_rates() -> dict[str, float]:
    """Return what the machine can do, measured at the first call."""
    if not RATES:
        RATES.update(roofline.measure_rates())
    return RATES


def _timing(config: pytest.Config) -> dict[str, dict[str, float]]:
    if not config.getoption("--quick"):
        return {"warm_up": {}, "interleave": {}}
    return {"warm_up": {"seconds": 0.0}, "interleave": {"rounds": 6, "seconds": 0.0}}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="few rounds and hardly any warm-up, only to try the benchmarks",
    )


@pytest.fixture(scope="session")
def groups(request: pytest.FixtureRequest) -> Groups:
    return Groups(request.session, default_bundle().resolve())


@pytest.fixture(scope="session")
def rates() -> dict[str, float]:
    return measured_rates()


@pytest.fixture(scope="session")
def timing(request: pytest.FixtureRequest) -> dict[str, dict[str, float]]:
    return _timing(request.config)


@pytest.fixture
def record(benchmark: BenchmarkFixture) -> Callable[[dict[str, Any]], None]:
    """Hand a measured row to pytest-benchmark, times and facts."""

    def row(facts: dict[str, Any]) -> None:
        facts = dict(facts)
        times = facts.pop("times")
        benchmark.pedantic(REPLAY.through(times), rounds=len(times))
        benchmark.extra_info |= facts

    return row


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info.pop("node", None)
    machine_info |= machine.describe() | ({"rates": dict(RATES)} if RATES else {})


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    if (commit := current_commit()) is not None:
        commit_info["id"] = commit


FAILED: set[str] = set()
"""Benches that failed: what they measured is not recorded."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        FAILED.add(report.nodeid)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    output_json["benchmarks"] = [
        one for one in output_json["benchmarks"] if one["fullname"] not in FAILED
    ]
    # No path of this machine: not where pytest-benchmark writes, not where the bundle lies.
    arguments = [one for one in sys.argv[1:] if not one.startswith("--benchmark-json")]
    output_json["command"] = " ".join(["pytest", *arguments])
    bundle = default_bundle().resolve()
    for one in output_json["benchmarks"]:
        facts = json.dumps(one["extra_info"]).replace(str(bundle), bundle.name)
        one["extra_info"] = json.loads(facts)
    output_json["results_schema"] = SCHEMA
