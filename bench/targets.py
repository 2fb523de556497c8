"""Targets of the kernels on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from bench.rows import KernelRow

TARGET_GPU, TARGET_DTYPE = "H200", "float16"


@dataclass(frozen=True)
class Compared:
    """A kernel, or the network with kernels, and baselines; ``ms`` by implementation."""

    gpu: str
    dtype: str
    batch: int
    stage: int
    ms: dict[str, float]
    percent: float | None = None

    @classmethod
    def of(cls, row: KernelRow) -> Self:
        """Return the comparison of a row."""
        percent = row.percent_of_copy_bandwidth
        return cls(row.gpu, row.dtype, row.batch, row.stage or 1, dict(row.ms), percent)

    def over(self, *names: str) -> float | None:
        """Return the time of the fastest of some baselines relative to the kernel.

        None if one of them was not measured.
        """
        if not set(names) <= set(self.ms):
            return None
        return min(self.ms[name] for name in names) / self.ms["kernel"]


@dataclass(frozen=True)
class Target:
    """Target of a kernel: its share of a copy's bandwidth, or its speed relative to baselines.

    Attributes:
        what: description.
        op: name of the op, or "network".
        least: least value of the worst row: a percentage, or a ratio if there are baselines.
        baselines: implementations of which the fastest is compared; empty for a copy.
        batches: batches of the target; empty for 8 and more.
    """

    what: str
    op: str
    least: float
    baselines: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()

    @property
    def form(self) -> str:
        """Format of the value."""
        return "{:.2f} ×" if self.baselines else "{:.0f} %"

    def value(self, row: Compared) -> float | None:
        """Return the value of a row, or None if it was not measured."""
        return row.over(*self.baselines) if self.baselines else row.percent

    def speaks_of(self, row: Compared) -> bool:
        """Return whether the target applies to a row."""
        if TARGET_GPU not in row.gpu or row.dtype != TARGET_DTYPE:
            return False
        return row.batch in self.batches if self.batches else row.batch >= 8 and row.stage <= 2


_ALL = (1, 8, 64)

TARGETS = (
    Target("Sobel stem, batch ≥ 8: of copy bandwidth", "sobel_stem", 60),
    Target("Sobel stem, batch ≥ 8: over compiled reference", "sobel_stem", 3, ("compile",)),
    Target("window attention, stages 1–2, batch ≥ 8: of copy bandwidth", "window_attention", 60),
    Target(
        "window attention, stages 1–2, batch ≥ 8: over the better of compiled reference and SDPA",
        "window_attention",
        2,
        ("compile", "sdpa", "sdpa-compile"),
    ),
    Target("fused attention block: over unfused", "attention_block", 1, ("unfused",)),
    Target("fused MLP: over unfused", "mlp", 1, ("unfused",)),
    Target(
        "fused linear layers, batch ≥ 8: over their parts one by one",
        "fused_linear",
        1,
        ("eager",),
        (8, 64),
    ),
    Target("ordinal head: over its operations one by one", "ordinal_head", 1, ("eager",), _ALL),
    Target(
        "statistics: over their operations one by one", "region_statistics", 1, ("eager",), _ALL
    ),
    Target(
        "network, batch 64: throughput over compiled reference",
        "network",
        1.5,
        ("compile",),
        (64,),
    ),
    Target(
        "network, batch 1: latency, compiled reference's over ours (1 / 0.67)",
        "network",
        1 / 0.67,
        ("compile",),
        (1,),
    ),
)
