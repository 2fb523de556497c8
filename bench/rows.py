"""Types of the rows of a recorded run, with their JSON.

A row is stored in the ``extra_info`` of a benchmark of pytest-benchmark, with its kind as ``op``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import msgspec

TAIL = 600
"""Least number of slices for a 99th percentile of arrivals: six of them are slower. With fewer, it
is nearly the maximum."""

Ratio = tuple[float, float, float]
"""A ratio and the bounds of its 95 % interval."""


@dataclass(frozen=True)
class RecordedRow:
    """A row of any kind."""

    OP: ClassVar[str]
    """Kind of the row, ``op`` in the JSON."""

    @classmethod
    def holds(cls, facts: Mapping[str, Any]) -> bool:
        """Return whether ``facts`` are a row of this kind."""
        return facts.get("op") == cls.OP

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Return the row of plain JSON values.

        Raises:
            ValueError: ``facts`` are not a row.
        """
        return msgspec.convert(facts, cls)

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return {"op": self.OP, **asdict(self)}


@dataclass(frozen=True)
class WarmUp:
    """Warm-up: number of runs, seconds, and whether the times had settled."""

    runs: int
    seconds: float
    stable: bool


@dataclass(frozen=True)
class BenchRow(RecordedRow):
    """Times of the network with a backend and a batch.

    Attributes:
        candidate: backend or alternative.
        role: "artifact" of the bundle, "reference" network in PyTorch, or a "peer".
        precision: precision as in a manifest.
        batch: slices per run.
        clock: "host" (slices and outputs in host memory), "device" (CUDA events) or "device graph"
            (the same in a CUDA graph).
        n: number of timed runs.
        p50: median time in seconds.
        p90: 90th percentile in seconds.
        p99: 99th percentile in seconds.
        interval: 95 % interval of ``p50``.
        variation: coefficient of variation.
        marks: reasons not to trust the row; empty if there are none.
        flops: least number of operations of a run.
        bytes: least number of bytes to move.
        percent_of_limit: reached share of the machine's roofline.
        score_difference: worst difference of a score from the float64 reference on golden slices.
        baseline: title of the baseline of ``ratio``, or None.
        ratio: time of the baseline relative to this row with its interval, or None.
        artifact: file in the bundle, or None.
        sha256: SHA-256 of that file.
        weights_sha256: SHA-256 of the bundle's checkpoint.
        warm_up: warm-up, or None.
        before: clocks, temperature and throttling of the GPU before the timing; empty without a
            GPU.
        after: the same after the timing.
        others_busy: share of the processors that other processes used, or None.
        joules_per_slice: energy of the GPU's board per slice; None without a GPU.
        gpu_memory_mib: peak memory on the GPU, of all programs together.
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
        """Name of the benchmark, the key for `bench-check`."""
        return f"test_network[{row_id(self.candidate, self.precision, self.batch, self.clock)}]"

    @property
    def throughput(self) -> float:
        """Slices per second."""
        return self.batch / self.p50


def row_id(candidate: str, precision: str, batch: int, clock: str) -> str:
    """Return the ID of a row."""
    return f"{candidate}-{precision}-batch-{batch}-{clock.replace(' ', '-')}"


@dataclass(frozen=True)
class ColdStartRow(RecordedRow):
    """Times of loading a candidate and running a slice in a new process.

    Attributes:
        candidate: as in `BenchRow`.
        precision: precision as in a manifest.
        n: number of processes. Times are those of the fastest.
        load: seconds of import, checks and loading.
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
    """Times of slices that arrive at a stream in a scenario of MLPerf Inference.

    Attributes:
        candidate: backend of the session.
        precision: precision as in a manifest.
        batch: largest batch of the session.
        scenario: "SingleStream" (next slice after each result), "Offline" (all at once) or "Server"
            (random times).
        rate: arrivals per second for "Server"; otherwise None.
        n: number of slices.
        slices_per_second: scored slices per second.
        p50: median time from arrival to score in seconds.
        p90: 90th percentile in seconds.
        p99: 99th percentile in seconds.
        weights_sha256: SHA-256 of the bundle's checkpoint.
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
        """The 99th percentile; None with too few slices."""
        return self.p99 if self.n >= TAIL else None

    @property
    def title(self) -> str:
        """Candidate and precision."""
        return f"{self.candidate} {self.precision}"


@dataclass(frozen=True)
class OpRow(RecordedRow):
    """Time and roofline of an op of the network on the processor.

    Attributes:
        what: name of the op and the stage.
        flops: least number of operations.
        bytes: least number of bytes to move.
        limit: least time on the machine in seconds.
        p50: median time of the reference in seconds; None if not timed.
        percent_of_limit: ``limit`` over ``p50`` in percent.
        precision: precision as in a manifest.
        batch: slices per call.
        n: number of timed calls.
        interval: 95 % interval of ``p50``.
        variation: coefficient of variation.
        marks: reasons not to trust the row.
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
    """Times of a kernel on a GPU and of PyTorch baselines.

    Attributes:
        op: name of the op.
        dtype: torch's name of the type of the products.
        batch: slices per call.
        gpu: name of the GPU.
        ms: milliseconds of a call by implementation: "kernel", "copy" (a copy of as many bytes) and
            baselines.
        bytes: bytes that the op must read and write.
        percent_of_copy_bandwidth: time of a copy of as many bytes relative to the kernel, in
            percent.
        stage: stage of the network, from 1; None for the stem.
        layer: linear layer, if the op is a linear layer; kind of spread, if it is statistics.
        copy_bytes_per_second: rate of that copy in bytes/s.
        shapes: shapes of the tensors, in order.
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
        """Return whether ``facts`` are a row of this kind."""
        return "percent_of_copy_bandwidth" in facts

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain JSON values."""
        return asdict(self)
