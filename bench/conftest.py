"""Fixtures of the benchmarks, and the metadata of a recorded run (docs/benchmarking.md)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench import devices
from bench.measure import machine
from bench.measure.rates import known_rates, measure_rates
from bench.measure.timing import FULL, QUICK, REPLAY, Timing
from bench.recording import current_commit
from bench.results import SCHEMA
from bench.rows import RecordedRow
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.default import default_bundle

if TYPE_CHECKING:
    from bench.measure.groups import Groups
    from bench.measure.networks import Candidate


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="run each row once, only to try the benchmarks; nothing is measured and no limit of "
        "time is checked",
    )
    parser.addoption("--rounds", type=int, help="time each row at least this often")
    parser.addoption("--device", type=int, help="GPU to use, by its number among the visible ones")


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick") and not config.getoption("benchmark_json"):
        config.option.benchmark_disable = True
    if (device := config.getoption("--device")) is not None:
        try:
            devices.use(device)
        except InputError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.fixture(scope="session")
def timing(request: pytest.FixtureRequest) -> Timing:
    timing = QUICK if request.config.getoption("--quick") else FULL
    rounds = request.config.getoption("--rounds")
    return timing if rounds is None else timing.at_least(rounds)


@pytest.fixture(scope="session")
def rates() -> dict[str, float]:
    return measure_rates()


@pytest.fixture(scope="session")
def groups(request: pytest.FixtureRequest, timing: Timing) -> Groups:
    from bench.measure.groups import Groups

    # Only the selected ones: `pytest bench -k openvino` loads nothing else.
    chosen: dict[tuple[int, str], list[Candidate]] = {}
    for item in request.session.items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if {"batch", "clock", "candidate"} <= set(parameters):
            key = parameters["batch"], parameters["clock"]
            chosen.setdefault(key, []).append(parameters["candidate"])
    return Groups(chosen, default_bundle().resolve(), timing)


@pytest.fixture
def record(benchmark: BenchmarkFixture) -> Callable[[RecordedRow, Sequence[float]], None]:
    """Hand a measured row to pytest-benchmark, with its times.

    pytest-benchmark times runs itself and takes no times that are known already: the bench's timer
    is `REPLAY`, on which each run takes what it took when the row was measured.
    """

    def keep(row: RecordedRow, seconds: Sequence[float]) -> None:
        benchmark.pedantic(REPLAY.through(seconds), rounds=len(seconds))
        benchmark.extra_info |= row.to_json()

    return keep


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    machine_info.pop("node", None)
    machine_info |= machine.describe()
    if rates := known_rates():
        machine_info["rates"] = rates


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
    # Do not record the path that pytest-benchmark writes to.
    arguments = [one for one in sys.argv[1:] if not one.startswith("--benchmark-json")]
    output_json["command"] = " ".join(["pytest", *arguments])
    output_json["results_schema"] = SCHEMA
