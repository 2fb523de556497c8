"""Options, selection, output and JSON of `pytest bench` (docs/benchmarking.md)."""

from __future__ import annotations

import copy
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.utils import safe_dumps

from bench import devices, plan
from bench.measure import machine
from bench.measure.rates import known_rates, measure_rates
from bench.recording import ROOT, current_commit
from bench.results import SCHEMA
from bench.rows import BenchRow
from bench.run import BRIEF, FULL, QUICK, TimedRow, Timing
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.default import default_bundle

KEPT = ROOT / ".benchmarks" / "last.json"
"""Default path for the results of `pytest bench`."""
MEASURED = pytest.StashKey[list[BenchRow]]()
INTERRUPTED = pytest.StashKey[bool]()
FACTS = pytest.StashKey[dict[str, Any]]()
"""Machine and commit in the JSON, which are read once."""


IN_PLACE = (
    "pytest runs this checkout, which is not installed in place: run "
    '`pip install -e ".[bench,export,cpu,kernels]"` here, with -e'
)
"""Said where `clinreadnet` is the folder, which has no `clinreadnet.kernels` beside it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="run each row once, only to try the benchmarks; nothing is measured and no limit of "
        "time is checked",
    )
    parser.addoption(
        "--thorough",
        action="store_true",
        help="measure every row, as `make bench-record` does; without it `pytest bench` measures "
        "what decides which backend to deploy",
    )
    parser.addoption("--rounds", type=int, help="time each row at least this often")
    parser.addoption("--device", type=int, help="GPU to use, by its number among the visible ones")


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    if importlib.util.find_spec("clinreadnet.kernels") is None:
        raise pytest.UsageError(IN_PLACE)
    config.stash[MEASURED] = []
    if config.getoption("--quick") and not config.getoption("benchmark_json"):
        config.option.benchmark_disable = True
    elif plan.is_brief(config) and not config.getoption("benchmark_json"):
        KEPT.parent.mkdir(exist_ok=True)
        config.option.benchmark_json = str(KEPT)
    if (device := config.getoption("--device")) is not None:
        try:
            devices.use(device)
        except InputError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect rows that do not affect the choice of a backend, unless the user selected rows.

    Rows of the network follow each other by group, so that each group is measured once. pytest
    before this hook also orders them by candidate.
    """
    if plan.is_brief(config):
        left_out = [item for item in items if not plan.decides(item)]
        items[:] = [item for item in items if plan.decides(item)]
        config.hook.pytest_deselected(items=left_out)
    plan.order_by_group(items)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    return plan.announcement(items) if plan.is_brief(config) else []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Do not record the measurements of a failed benchmark."""
    outcome: Any = yield
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    if outcome.get_result().failed and benchmark is not None:
        benchmark.has_error = True


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Write the file of ``--benchmark-json`` after each benchmark: a killed run keeps its rows."""
    config = item.config
    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.json or not session.benchmarks:
        return
    if FACTS not in config.stash:
        config.stash[FACTS] = {
            "machine_info": session.get_machine_info(),
            "commit_info": config.hook.pytest_benchmark_generate_commit_info(config=config),
        }
    document = config.hook.pytest_benchmark_generate_json(
        config=config,
        benchmarks=session.benchmarks,
        include_data=True,
        **copy.deepcopy(config.stash[FACTS]),
    )
    pytest_benchmark_update_json(config, document)
    path = Path(session.json)
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(safe_dumps(document, indent=4), encoding="utf-8")
    temporary.replace(path)


@pytest.hookimpl(trylast=True)  # below pytest-benchmark's table
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which backend to deploy."""
    config = terminalreporter.config
    if config.stash[MEASURED] and not config.getoption("--quick"):
        terminalreporter.section("which backend to deploy")
        for line in plan.answer(config.stash[MEASURED], default_bundle()):
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(INTERRUPTED, False):
        session.exitstatus = pytest.ExitCode.INTERRUPTED


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add machine, commit and command, without file paths."""
    output_json["machine_info"].pop("node", None)
    output_json["machine_info"] |= machine.describe()
    if rates := known_rates():
        output_json["machine_info"]["rates"] = rates
    if (commit := current_commit()) is not None:
        output_json["commit_info"]["id"] = commit
    arguments = [
        argument for argument in sys.argv[1:] if not argument.startswith("--benchmark-json")
    ]
    output_json["command"] = " ".join(["pytest", *arguments])
    output_json["results_schema"] = SCHEMA


@pytest.fixture(autouse=True)
def not_interrupted(request: pytest.FixtureRequest) -> None:
    """Skip rows after Ctrl-C, so that earlier measurements are kept."""
    asked = "group" in request.fixturenames
    if request.config.stash.get(INTERRUPTED, False) and not asked:
        pytest.skip("interrupted")


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def timing(request: pytest.FixtureRequest, quick: bool) -> Timing:
    timing = QUICK if quick else BRIEF if plan.is_brief(request.config) else FULL
    rounds = request.config.getoption("--rounds")
    return timing if rounds is None else timing.at_least(rounds)


@pytest.fixture(scope="session")
def rates() -> dict[str, float]:
    return measure_rates()


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest, quick: bool) -> Callable[[str], None]:
    """Return a function that prints a line immediately; with ``--quick`` it does nothing."""
    manager = request.config.pluginmanager
    reporter, capture = manager.get_plugin("terminalreporter"), manager.get_plugin("capturemanager")

    def line(text: str) -> None:
        if quick:
            return
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(text)
            reporter.flush()

    return line


@pytest.fixture(scope="session")
def group(
    request: pytest.FixtureRequest, timing: Timing, say: Callable[[str], None]
) -> Mapping[str, TimedRow | Exception]:
    """Measure the selected candidates of a batch and a clock in alternation."""
    from bench.sweeps.network import measure_group

    if request.config.stash.get(INTERRUPTED, False):
        pytest.skip("interrupted")
    batch, clock = request.param
    # Only selected candidates: `pytest bench -k openvino` loads nothing else.
    selected = [row for item in request.session.items if (row := plan.row_of(item)) is not None]
    chosen = [candidate for group, candidate in selected if group == request.param]
    outcomes, interrupted = measure_group(
        chosen,
        batch=batch,
        clock=clock,
        bundle=default_bundle().resolve(),
        timing=timing,
        nvml=machine.import_nvml(),
        say=say,
    )
    request.config.stash[INTERRUPTED] = interrupted
    return outcomes


@pytest.fixture
def record(
    request: pytest.FixtureRequest, benchmark: BenchmarkFixture
) -> Callable[[TimedRow], None]:
    """Pass a measured row and its times to pytest-benchmark for its table and JSON."""

    def keep(timed: TimedRow) -> None:
        benchmark.pedantic(int)  # creates the statistics, whose times are then replaced
        if benchmark.stats is not None:
            benchmark.stats.stats.data[:] = timed.seconds
        benchmark.extra_info |= timed.row.to_json()
        if isinstance(timed.row, BenchRow):
            request.config.stash[MEASURED].append(timed.row)

    return keep
