"""Targets of the kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable
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
    """Target of a kernel.

    Attributes:
        what: description.
        op: name of the op, or "network".
        least: least value of the worst row.
        value: function that returns the value of a row.
        form: format of the value.
        batches: batches of the target; empty for 8 and more.
    """

    what: str
    op: str
    least: float
    value: Callable[[Compared], float | None]
    form: str = "{:.2f} ×"
    batches: tuple[int, ...] = ()

    def speaks_of(self, row: Compared) -> bool:
        """Return whether the target applies to a row."""
        if TARGET_GPU not in row.gpu or row.dtype != TARGET_DTYPE:
            return False
        return row.batch in self.batches if self.batches else row.batch >= 8 and row.stage <= 2


TARGETS = (
    Target(
        "Sobel stem, batch ≥ 8: of copy bandwidth",
        "sobel_stem",
        60,
        lambda row: row.percent,
        "{:.0f} %",
    ),
    Target(
        "Sobel stem, batch ≥ 8: over compiled reference",
        "sobel_stem",
        3,
        lambda row: row.over("compile"),
    ),
    Target(
        "window attention, stages 1–2, batch ≥ 8: of copy bandwidth",
        "window_attention",
        60,
        lambda row: row.percent,
        "{:.0f} %",
    ),
    Target(
        "window attention, stages 1–2, batch ≥ 8: over the better of compiled reference and SDPA",
        "window_attention",
        2,
        lambda row: row.over("compile", "sdpa", "sdpa-compile"),
    ),
    Target(
        "fused attention block: over unfused",
        "attention_block",
        1,
        lambda row: row.over("unfused"),
    ),
    Target("fused MLP: over unfused", "mlp", 1, lambda row: row.over("unfused")),
    Target(
        "fused linear layers, batch ≥ 8: over their parts one by one",
        "fused_linear",
        1,
        lambda row: row.over("eager"),
        batches=(8, 64),
    ),
    Target(
        "ordinal head: over its operations one by one",
        "ordinal_head",
        1,
        lambda row: row.over("eager"),
        batches=(1, 8, 64),
    ),
    Target(
        "statistics: over their operations one by one",
        "region_statistics",
        1,
        lambda row: row.over("eager"),
        batches=(1, 8, 64),
    ),
    Target(
        "network, batch 64: throughput over compiled reference",
        "network",
        1.5,
        lambda row: row.over("compile"),
        batches=(64,),
    ),
    Target(
        "network, batch 1: latency, compiled reference's over ours (1 / 0.67)",
        "network",
        1 / 0.67,
        lambda row: row.over("compile"),
        batches=(1,),
    ),
)
