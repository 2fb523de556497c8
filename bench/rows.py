"""The rows of a recorded run, each with the JSON it is written as.

A row stands in the ``extra_info`` of a benchmark of pytest-benchmark, under the names of its fields
and with its kind as ``op``. What measures makes a row, what reports reads the same row back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import msgspec

TAIL = 600
"""Slices from which a 99th percentile of arrivals is given: six of them are then slower. With fewer
it is nearly the slowest slice."""

Ratio = tuple[float, float, float]
"""A ratio and the ends of its 95 % interval."""


@dataclass(frozen=True)
class RecordedRow:
    """A row of any kind."""

    OP: ClassVar[str]
    """The kind, as ``op`` in the JSON."""

    @classmethod
    def holds(cls, facts: Mapping[str, Any]) -> bool:
        """Whether the facts are of this kind."""
        return facts.get("op") == cls.OP

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read a row back.

        Raises:
            ValueError: the facts are not those of a row.
        """
        return msgspec.convert(facts, cls)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {"op": self.OP, **asdict(self)}


@dataclass(frozen=True)
class WarmUp:
    """What came before the timing: how often, how long, and whether the times had settled."""

    runs: int
    seconds: float
    stable: bool


@dataclass(frozen=True)
class BenchRow(RecordedRow):
    """One way to run the network, at one batch.

    Attributes:
        candidate: backend, or what a user would pick instead of it.
        role: "artifact" of the bundle, "reference" network in PyTorch, or a "peer".
        precision: as in a manifest.
        batch: slices of one run.
        clock: "host" (slices and outputs in host memory), "device" (CUDA events) or "device graph"
            (the same in a CUDA graph).
        n: runs that were timed.
        p50: median of their times, in seconds, with p90 and p99.
        p90: as p50.
        p99: as p50.
        interval: 95 % interval of ``p50``.
        variation: coefficient of variation.
        marks: what speaks against trusting the row; empty where nothing does.
        flops: operations that one run must compute at least.
        bytes: bytes that it must move at least.
        percent_of_limit: share of the machine's roofline that was reached.
        score_difference: worst difference of one slice's score from the float64 reference, on the
            golden slices that were run before the timing.
        baseline: title of what ``ratio`` compares with, or None.
        ratio: the baseline's time over this one's, with its interval, or None.
        artifact: file in the bundle, or None.
        sha256: digest of that file.
        weights_sha256: digest of the checkpoint that the bundle was made from.
        warm_up: what came before the timing, or None.
        before: the GPU's clocks, temperature and throttling before the timing; empty without one.
        after: the same after it.
        others_busy: share of the processors that other processes took, or None.
        joules_per_slice: energy of the GPU's board in runs after the timing; None without a GPU.
        gpu_memory_mib: most memory in use on the GPU in these runs, by all programs together.
    """

    candidate: str
    role: str
    precision: str
    batch: int
    clock: str
    n: int
    p50: float
    p90: float
    p99: float
    interval: tuple[float, float]
    variation: float
    marks: tuple[str, ...]
    flops: float
    bytes: float
    percent_of_limit: float
    score_difference: float
    baseline: str | None = None
    ratio: Ratio | None = None
    artifact: str | None = None
    sha256: str | None = None
    weights_sha256: str | None = None
    warm_up: WarmUp | None = None
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    others_busy: float | None = None
    joules_per_slice: float | None = None
    gpu_memory_mib: float | None = None

    OP: ClassVar[str] = "network"

    @property
    def title(self) -> str:
        """Candidate and precision."""
        return f"{self.candidate} {self.precision}"

    @property
    def name(self) -> str:
        """Name of the benchmark, which `bench-check` compares by."""
        return f"test_network[{row_id(self.candidate, self.precision, self.batch, self.clock)}]"

    @property
    def throughput(self) -> float:
        """Slices a second."""
        return self.batch / self.p50


def row_id(candidate: str, precision: str, batch: int, clock: str) -> str:
    """Return what names a row among the benchmarks."""
    return f"{candidate}-{precision}-batch-{batch}-{clock.replace(' ', '-')}"


@dataclass(frozen=True)
class ColdStartRow(RecordedRow):
    """Loading one candidate and running one slice in a new process.

    Attributes:
        candidate: as in `BenchRow`.
        precision: as in a manifest.
        n: processes; the seconds are those of the fastest.
        load: seconds to import, check and load.
        first: seconds of the first run.
    """

    candidate: str
    precision: str
    n: int
    load: float
    first: float

    OP: ClassVar[str] = "cold-start"


@dataclass(frozen=True)
class ArrivalRow(RecordedRow):
    """Slices that arrived as a scenario of MLPerf Inference says, at a session's stream.

    Attributes:
        candidate: backend of the session.
        precision: as in a manifest.
        batch: slices that the session runs at once, at most.
        scenario: "SingleStream" (the next one when the last one is scored), "Offline" (all at once)
            or "Server" (at random times).
        rate: slices per second that arrived; None but for "Server".
        n: slices.
        slices_per_second: that were scored.
        p50: median, in seconds, of the time from a slice's arrival to its score; with p90 and p99.
        p90: as p50.
        p99: as p50.
        weights_sha256: digest of the checkpoint that the bundle was made from.
    """

    candidate: str
    precision: str
    batch: int
    scenario: str
    rate: float | None
    n: int
    slices_per_second: float
    p50: float
    p90: float
    p99: float
    weights_sha256: str | None = None

    OP: ClassVar[str] = "arrivals"

    @property
    def tail(self) -> float | None:
        """The 99th percentile; None where too few slices arrived to tell."""
        return self.p99 if self.n >= TAIL else None

    @property
    def title(self) -> str:
        """Candidate and precision."""
        return f"{self.candidate} {self.precision}"


@dataclass(frozen=True)
class OpRow(RecordedRow):
    """One op of the network on the processor, and the least time that it could take there.

    Attributes:
        what: name of the op and its stage.
        flops: operations that it must compute at least.
        bytes: bytes that it must move at least.
        limit: the least seconds that this takes on the machine.
        p50: median of the reference's time in seconds; None where it was not timed.
        percent_of_limit: ``limit`` over ``p50`` in percent.
        precision: as in a manifest.
        batch: slices of one call.
        n: calls that were timed.
        interval: 95 % interval of ``p50``.
        variation: coefficient of variation.
        marks: what speaks against trusting the row.
    """

    what: str
    flops: float
    bytes: float
    limit: float
    p50: float | None = None
    percent_of_limit: float | None = None
    precision: str = "fp32"
    batch: int = 1
    n: int = 0
    interval: tuple[float, float] | None = None
    variation: float = 0.0
    marks: tuple[str, ...] = ()

    OP: ClassVar[str] = "op"


@dataclass(frozen=True)
class KernelRow(RecordedRow):
    """A kernel on a GPU beside what PyTorch alone can do.

    Attributes:
        op: name of the op.
        dtype: torch's name of the type of the products.
        batch: slices of one call.
        gpu: its name.
        ms: milliseconds of one call, by implementation; the kernel's own is "kernel", that of a
            copy of as many bytes "copy".
        bytes: bytes that the op must read and write once.
        percent_of_copy_bandwidth: time of a copy of as many bytes over the kernel's.
        stage: of the network, from 1; None for the stem.
        layer: of the stage's blocks, where the op runs one linear layer of them.
        copy_bytes_per_second: rate of that copy.
        shapes: of the tensors, in order.
    """

    op: str
    dtype: str
    batch: int
    gpu: str
    ms: Mapping[str, float]
    bytes: float
    percent_of_copy_bandwidth: float
    stage: int | None = None
    layer: str = ""
    copy_bytes_per_second: float | None = None
    shapes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def holds(cls, facts: Mapping[str, Any]) -> bool:
        """Whether the facts are of this kind."""
        return "percent_of_copy_bandwidth" in facts

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return asdict(self)
