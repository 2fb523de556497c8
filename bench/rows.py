"""The rows of a recorded run, each with the JSON it is written as.

A row stands in the ``extra_info`` of a benchmark of pytest-benchmark, under the names of its fields
and with its kind as ``op``. What measures makes a row, what reports reads the same row back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

TAIL = 600
"""Slices from which a 99th percentile of arrivals is given: six of them are then slower. With fewer
it is nearly the slowest slice."""

Ratio = tuple[float, float, float]
"""A ratio and the ends of its 95 % interval."""


@dataclass(frozen=True)
class RecordedRow(ABC):
    """A row of any kind."""

    OP: ClassVar[str]
    """The kind, as ``op`` in the JSON."""

    @classmethod
    def holds(cls, facts: Mapping[str, Any]) -> bool:
        """Whether the facts are of this kind."""
        return facts.get("op") == cls.OP

    @classmethod
    @abstractmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read a row back.

        Raises:
            KeyError, TypeError, ValueError: the facts are not those of a row.
        """

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

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read a row back; raises as `RecordedRow.from_json`."""
        low, high = facts["interval"]
        ratio, warm_up, busy = (facts.get(key) for key in ("ratio", "warm_up", "others_busy"))
        joules, memory = (facts.get(key) for key in ("joules_per_slice", "gpu_memory_mib"))
        return cls(
            candidate=str(facts["candidate"]),
            role=str(facts["role"]),
            precision=str(facts["precision"]),
            batch=int(facts["batch"]),
            clock=str(facts["clock"]),
            n=int(facts["n"]),
            p50=float(facts["p50"]),
            p90=float(facts["p90"]),
            p99=float(facts["p99"]),
            interval=(float(low), float(high)),
            variation=float(facts["variation"]),
            marks=tuple(facts["marks"]),
            flops=float(facts["flops"]),
            bytes=float(facts["bytes"]),
            percent_of_limit=float(facts["percent_of_limit"]),
            score_difference=float(facts["score_difference"]),
            baseline=facts.get("baseline"),
            ratio=None if ratio is None else (float(ratio[0]), float(ratio[1]), float(ratio[2])),
            artifact=facts.get("artifact"),
            sha256=facts.get("sha256"),
            weights_sha256=facts.get("weights_sha256"),
            warm_up=None if warm_up is None else WarmUp(**warm_up),
            before=facts.get("before", {}),
            after=facts.get("after", {}),
            others_busy=None if busy is None else float(busy),
            joules_per_slice=None if joules is None else float(joules),
            gpu_memory_mib=None if memory is None else float(memory),
        )


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

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read a row back; raises as `RecordedRow.from_json`."""
        return cls(
            candidate=str(facts["candidate"]),
            precision=str(facts["precision"]),
            n=int(facts["n"]),
            load=float(facts["load"]),
            first=float(facts["first"]),
        )


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

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read a row back; raises as `RecordedRow.from_json`."""
        return cls(
            candidate=str(facts["candidate"]),
            precision=str(facts["precision"]),
            batch=int(facts["batch"]),
            scenario=str(facts["scenario"]),
            rate=None if facts["rate"] is None else float(facts["rate"]),
            n=int(facts["n"]),
            slices_per_second=float(facts["slices_per_second"]),
            p50=float(facts["p50"]),
            p90=float(facts["p90"]),
            p99=float(facts["p99"]),
            weights_sha256=facts.get("weights_sha256"),
        )


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

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read a row back; raises as `RecordedRow.from_json`."""
        p50, percent, interval = (facts.get(key) for key in ("p50", "percent_of_limit", "interval"))
        return cls(
            what=str(facts["what"]),
            flops=float(facts["flops"]),
            bytes=float(facts["bytes"]),
            limit=float(facts["limit"]),
            p50=None if p50 is None else float(p50),
            percent_of_limit=None if percent is None else float(percent),
            precision=str(facts.get("precision", "fp32")),
            batch=int(facts.get("batch", 1)),
            n=int(facts.get("n", 0)),
            interval=None if interval is None else (float(interval[0]), float(interval[1])),
            variation=float(facts.get("variation", 0.0)),
            marks=tuple(facts.get("marks", ())),
        )


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

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """Read a row back; raises as `RecordedRow.from_json`."""
        stage, rate = facts.get("stage"), facts.get("copy_bytes_per_second")
        return cls(
            op=str(facts["op"]),
            dtype=str(facts["dtype"]),
            batch=int(facts["batch"]),
            gpu=str(facts["gpu"]),
            ms={name: float(ms) for name, ms in facts["ms"].items()},
            bytes=float(facts["bytes"]),
            percent_of_copy_bandwidth=float(facts["percent_of_copy_bandwidth"]),
            stage=None if stage is None else int(stage),
            layer=str(facts.get("layer", "")),
            copy_bytes_per_second=None if rate is None else float(rate),
            shapes=tuple(tuple(map(int, shape)) for shape in facts.get("shapes", ())),
        )
