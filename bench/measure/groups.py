"""Measure rows of the network in groups: the candidates of one batch and clock take turns."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import machine, roofline
from bench.measure.networks import Candidate, check, load_bundle
from bench.measure.rates import measure_rates
from bench.measure.timing import (
    Sample,
    Timing,
    copies_past_the_cache,
    host_sample,
    interleave,
    marks,
    warm_up,
)
from bench.rows import BenchRow, WarmUp
from bench.statistics import median_interval, paired_ratio, percentile, variation
from clinreadnet.kernels.spec import Work
from clinreadnet.model.network import ClinReadNetConfig
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.manifest import Manifest
from clinreadnet.runtime.reproduce import BatchRunner
from clinreadnet.spec import SIZE


@dataclass(frozen=True)
class TimedRow:
    """A row, and the seconds of each run that it sums up."""

    row: BenchRow
    seconds: Sequence[float]


@dataclass(frozen=True)
class GroupResult:
    """What became of the candidates of one group, by title: a timed row, or why there is none."""

    rows: Mapping[str, TimedRow]
    failed: Mapping[str, str]


class Groups:
    """Measures a group when its first row is asked for; the other rows find it done.

    Args:
        candidates: those of each batch and clock that rows will be asked for.
        bundle: folder of the bundle.
        timing: how long to measure.
    """

    def __init__(
        self,
        candidates: Mapping[tuple[int, str], Sequence[Candidate]],
        bundle: Path,
        timing: Timing,
    ) -> None:
        self._candidates, self._bundle, self._timing = candidates, bundle, timing
        self._nvml = machine.import_nvml()
        self._measured = functools.cache(self._measure)

    def row(self, batch: int, clock: str, title: str) -> TimedRow | str:
        """Return what was measured of one candidate, or why nothing was."""
        group = self._measured(batch, clock)
        return group.rows[title] if title in group.rows else group.failed[title]

    def _measure(self, batch: int, clock: str) -> GroupResult:
        return measure_group(
            self._candidates[batch, clock],
            batch=batch,
            clock=clock,
            bundle=self._bundle,
            timing=self._timing,
            nvml=self._nvml,
        )


def measure_group(
    candidates: Sequence[Candidate],
    *,
    batch: int,
    clock: str,
    bundle: Path,
    timing: Timing,
    nvml: Any | None,
) -> GroupResult:
    """Check, warm up and time candidates, in turn.

    Args:
        candidates: those of one batch and clock.
        batch: slices of one run.
        clock: "host", "device" or "device graph".
        bundle: folder of the bundle.
        timing: how long to measure.
        nvml: module of nvidia-ml-py, or None without a GPU.
    """
    manifest, rates = load_bundle(bundle), measure_rates()
    by_title = {candidate.title: candidate for candidate in candidates}
    samples: dict[str, Sample] = {}
    differences: dict[str, float] = {}
    warm: dict[str, WarmUp] = {}
    failed: dict[str, str] = {}
    for title, candidate in by_title.items():
        try:
            run = candidate.open(batch)
            differences[title] = check(run, candidate, bundle, batch)
            samples[title] = sample_of(candidate, run, batch, clock)
            warm[title] = warm_up(samples[title], **timing.warm_up)
        except Exception as error:
            samples.pop(title, None)
            failed[title] = f"{type(error).__name__}: {error}"
    watch = machine.Watch(nvml)
    times = interleave(samples, **timing.interleave)
    watch.stop()
    used = {title: machine.usage(nvml, samples[title]) for title in times}
    rows = {}
    for title, seconds in times.items():
        candidate = by_title[title]
        work = network_work(manifest, batch, candidate.precision)
        p50 = percentile(seconds, 50)
        baseline = baseline_of(title, by_title, times)
        artifact = None if candidate.artifact is None else manifest.artifact(candidate.artifact)
        energy = used[title]
        row = BenchRow(
            candidate=candidate.name,
            role=candidate.role,
            precision=candidate.precision,
            batch=batch,
            clock=clock,
            n=len(seconds),
            p50=p50,
            p90=percentile(seconds, 90),
            p99=percentile(seconds, 99),
            interval=median_interval(seconds),
            variation=variation(seconds),
            marks=tuple(marks(seconds, warm[title], throttled=watch.throttled, busy=watch.busy)),
            flops=work.flops,
            bytes=work.bytes,
            percent_of_limit=100 * roofline.limit(work, rates, candidate.precision) / p50,
            score_difference=differences[title],
            baseline=baseline,
            ratio=None if baseline is None else paired_ratio(times[baseline], seconds),
            artifact=candidate.artifact,
            sha256=None if artifact is None else artifact.sha256,
            weights_sha256=manifest.model.weights_sha256,
            warm_up=warm[title],
            before=watch.before,
            after=watch.after,
            others_busy=watch.busy,
            joules_per_slice=None if energy is None else energy.joules / batch,
            gpu_memory_mib=None if energy is None else energy.memory_mib,
        )
        rows[title] = TimedRow(row, seconds)
    return GroupResult(rows, failed)


def baseline_of(
    title: str, candidates: Mapping[str, Candidate], times: Mapping[str, Sequence[float]]
) -> str | None:
    """Return the title of what a candidate is compared with; None if it is the baseline itself.

    That is the fastest peer whose precision is at least as exact; without one, the first that is
    not an artifact, or the first.
    """
    budget = PRECISIONS[candidates[title].precision].budget
    others = [name for name in times if candidates[name].role != "artifact"]
    peers = [
        name
        for name in others
        if candidates[name].role == "peer"
        and PRECISIONS[candidates[name].precision].budget <= budget
    ]
    fastest = min(peers, key=lambda name: percentile(times[name], 50), default=None)
    found = fastest or next(iter(others or times))
    return None if found == title else found


def network_work(manifest: Manifest, batch: int, precision: str) -> Work:
    """Return what one run must compute and move, by the shape the manifest's preset names."""
    config = ClinReadNetConfig.from_preset(manifest.model.preset)
    return roofline.network(config, batch, precision, manifest.model.parameters)


def sample_of(candidate: Candidate, run: BatchRunner, batch: int, clock: str) -> Sample:
    """Return what times one run, by the wall clock or by CUDA events."""
    if clock == "host":
        shape = (batch, 1, SIZE, SIZE)
        noise = np.random.default_rng(batch).normal(40, 300, shape).astype(np.float32)
        copies = copies_past_the_cache(noise.nbytes, machine.cache_bytes())
        return host_sample(run, [noise + float(i) for i in range(copies)])
    from bench.measure.cuda_clock import device_sample

    assert candidate.bind is not None
    return device_sample(candidate.bind, batch, graph=clock == "device graph")
