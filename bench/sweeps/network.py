"""Time the whole network: check and time the candidates of a batch and a clock in alternation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import device, machine, roofline
from bench.measure.rates import measure_rates
from bench.recording import ROOT
from bench.rows import BenchRow, ColdStartRow, WarmUp
from bench.run import (
    Interrupted,
    NotTimed,
    OutsideProfile,
    Sample,
    TimedRow,
    Timing,
    copies_past_the_cache,
    host_sample,
    interleave,
    marks,
    summary,
    warm_up,
)
from bench.statistics import paired_ratio, percentile
from bench.sweeps.candidates import COMPILED, Candidate, check, load_bundle
from clinreadnet.errors import BackendUnavailable
from clinreadnet.kernels.spec import Work
from clinreadnet.model.network import ClinReadNetConfig
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.manifest import Manifest
from clinreadnet.runtime.comparison import BatchRunner
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.spec import SIZE

GPU_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CPU_BATCHES = (1, 2, 4, 8)
"""Larger batches are not faster on a processor and take longer to measure."""

Group = tuple[int, str]
"""Batch and clock. The candidates of a group alternate."""


def rows(candidates: Sequence[Candidate]) -> list[tuple[Group, Candidate]]:
    """Return all rows of this machine (group and candidate), by group."""
    batches = GPU_BATCHES if find_gpus() or device.REHEARSED else CPU_BATCHES
    groups = [(batch, clock) for batch in batches for clock in ("host", "device", "device graph")]
    return [
        (group, candidate)
        for group in groups
        for candidate in candidates
        if candidate.runs(group[0]) and (group[1] == "host" or candidate.bind is not None)
    ]


def measure_group(
    candidates: Sequence[Candidate],
    *,
    batch: int,
    clock: str,
    bundle: Path,
    timing: Timing,
    nvml: Any | None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, TimedRow | Exception], bool]:
    """Check, warm up and time candidates in alternation.

    Args:
        candidates: candidates of the batch and clock.
        batch: slices of one run.
        clock: "host", "device" or "device graph".
        bundle: folder of the bundle.
        timing: duration of the measurement.
        nvml: module of nvidia-ml-py, or None without a GPU.
        say: function that prints a line about progress.

    Returns:
        The row of each candidate by title, or an exception if there is none (`NotTimed`,
        `BackendUnavailable` or an error); and whether Ctrl-C ended the rounds.
    """
    manifest, rates = load_bundle(bundle), measure_rates()
    by_title = {candidate.title: candidate for candidate in candidates}
    outcomes: dict[str, TimedRow | Exception] = {}
    samples: dict[str, Sample] = {}
    differences: dict[str, float] = {}
    warm: dict[str, WarmUp] = {}
    for number, (title, candidate) in enumerate(by_title.items(), 1):
        where = f"{number} of {len(by_title)}: {title}, batch {batch}, {clock}"
        try:
            check_profile(candidate, manifest, batch)
            run = candidate.open(batch)
            differences[title] = check(run, candidate, bundle, batch)
            sample = sample_of(candidate, run, batch, clock)
            warm[title] = warm_up(sample, **timing.warm_up)
            samples[title] = sample
            say(f"{where}: exact enough, warm after {warm[title].runs} runs")
        except Exception as error:
            outcomes[title] = error
            say(f"{where}: {error}")
    watch, interrupted = machine.Watch(nvml), False
    try:
        times = interleave(samples, **timing.interleave)
    except Interrupted as stop:
        times, interrupted = stop.times, True
    watch.stop()
    for title, seconds in times.items():
        candidate = by_title[title]
        work = network_work(manifest, batch, candidate.precision)
        baseline = baseline_of(title, by_title, times)
        artifact = None if candidate.artifact is None else manifest.artifact(candidate.artifact)
        energy = None if interrupted else machine.usage(nvml, samples[title])
        least = roofline.limit(work, rates, candidate.precision)
        reasons = marks(seconds, warm[title], throttled=watch.throttled, busy=watch.busy)
        row = BenchRow(
            candidate=candidate.name,
            role=candidate.role,
            precision=candidate.precision,
            batch=batch,
            clock=clock,
            **summary(seconds),
            p90=percentile(seconds, 90),
            p99=percentile(seconds, 99),
            marks=(*(["interrupted"] if interrupted else []), *reasons),
            flops=work.flops,
            bytes=work.bytes,
            percent_of_limit=100 * least / percentile(seconds, 50),
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
        outcomes[title] = TimedRow(row, seconds)
        low, high = (1e3 * end for end in row.interval)
        say(f"{title}, batch {batch}, {clock}: {1e3 * row.p50:.4g} ms ({low:.4g} … {high:.4g})")
    return outcomes, interrupted


def is_skipped(error: Exception, candidate: Candidate) -> bool:
    """Return whether to skip the row of an exception; otherwise it is an error."""
    if isinstance(error, OutsideProfile | BackendUnavailable):
        return True
    return candidate.role == "peer" and isinstance(error, NotTimed)


def check_profile(candidate: Candidate, manifest: Manifest, batch: int) -> None:
    """Check a batch against the profile of the candidate's artifact.

    Raises:
        OutsideProfile: the artifact does not support the batch.
    """
    if candidate.role != "artifact" or candidate.artifact is None:
        return
    profile = manifest.artifact(candidate.artifact).batch
    if not profile.min <= batch <= profile.max:
        raise OutsideProfile(
            f"batch {batch} is outside the profile of {candidate.artifact}, "
            f"{profile.min} to {profile.max}"
        )


def baseline_of(
    title: str, candidates: Mapping[str, Candidate], times: Mapping[str, Sequence[float]]
) -> str | None:
    """Return the title of a candidate's baseline; None for the baseline itself.

    This is the fastest peer of at least equal precision; otherwise the first candidate that is not
    an artifact, or the first.
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
    baseline = fastest or next(iter(others or times))
    return None if baseline == title else baseline


def network_work(manifest: Manifest, batch: int, precision: str) -> Work:
    """Return the work of a run, from the preset of the manifest."""
    config = ClinReadNetConfig.from_preset(manifest.model.preset)
    return roofline.network(config, batch, precision, manifest.model.parameters)


def sample_of(candidate: Candidate, run: BatchRunner, batch: int, clock: str) -> Sample:
    """Return a sample that times a run by the wall clock or CUDA events."""
    if clock == "host":
        shape = (batch, 1, SIZE, SIZE)
        noise = np.random.default_rng(batch).normal(40, 300, shape).astype(np.float32)
        copies = copies_past_the_cache(noise.nbytes, machine.cache_bytes())
        return host_sample(run, [noise + float(i) for i in range(copies)])
    from bench.measure.cuda_clock import device_sample

    assert candidate.bind is not None
    return device_sample(candidate.bind, batch, graph=clock == "device graph")


def cold_start(bundle: Path, candidate: Candidate, *, quick: bool) -> TimedRow:
    """Time import, loading and a run of a slice in new processes with empty compiler caches."""
    rounds = 1 if quick or candidate.name in COMPILED else 3
    starts: list[dict[str, float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            child = subprocess.run(
                [sys.executable, "-m", "bench.sweeps.cold_start", bundle, candidate.title],
                stdout=subprocess.PIPE,
                check=True,
                cwd=ROOT,
                env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache},
            )
        starts.append(json.loads(child.stdout.splitlines()[-1]))
    fastest = min(starts, key=lambda start: start["load"] + start["first"])
    row = ColdStartRow(candidate.name, candidate.precision, rounds, **fastest)
    return TimedRow(row, [start["load"] + start["first"] for start in starts])
