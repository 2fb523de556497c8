"""`--plugins auto`: engines with and without the kernels of each op, measured in one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clinreadnet.runtime.backends.ladder import SessionOptions, open_artifact
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest
from clinreadnet.runtime.reproduce import time_runs
from clinreadnet.verify.run import golden_evidence, verify_artifact

GAIN = 0.02
"""Share of the time that plugins must save: a smaller one is within what two runs differ by."""

RUNS = 50
"""Timed runs of an engine, after a tenth as many to warm up."""


@dataclass(frozen=True)
class Trial:
    """An engine with the plugins of some ops.

    Attributes:
        ops: that are plugins; none is the engine of TensorRT's own layers.
        milliseconds: median of a run of the profile's best batch.
        passed: whether it keeps the parity budget.
        relative_error: of each output, against the float64 reference.
        reason: why it did not pass, or None.
    """

    ops: tuple[str, ...]
    milliseconds: float
    passed: bool
    relative_error: dict[str, float | None]
    reason: str | None = None


@dataclass(frozen=True)
class Choice:
    """The ops to keep, and everything that was measured."""

    ops: tuple[str, ...]
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as the manifest keeps it."""
        trials = [asdict(one) | {"ops": list(one.ops)} for one in self.trials]
        return {"kept": list(self.ops), "gain": GAIN, "trials": trials}

    def line(self) -> str:
        """Return the result in one line."""
        measured = ", ".join(
            f"{'+'.join(one.ops) or 'none'} {one.milliseconds:.2f} ms"
            + ("" if one.passed else " (misses the budget)")
            for one in self.trials
        )
        return f"plugins kept: {', '.join(self.ops) or 'none'} ({measured})"


def choose(ops: Sequence[str], trial: Callable[[tuple[str, ...]], Trial]) -> Choice:
    """Measure each op's plugins alone, then those that won together.

    An op is kept if its engine passes the budget and is faster than the one without plugins by more
    than ``GAIN``. All that are kept must also win together; else the fastest one alone is kept.

    Args:
        ops: that can be plugins.
        trial: builds, verifies and times an engine.
    """
    plain = trial(())
    alone = [trial((op,)) for op in ops]
    won = [one for one in alone if _wins(one, plain)]
    trials = [plain, *alone]
    if not won:
        return Choice((), tuple(trials))
    best = min(won, key=lambda one: one.milliseconds)
    if len(won) > 1:
        together = trial(tuple(op for one in won for op in one.ops))
        trials.append(together)
        if together.passed and together.milliseconds <= best.milliseconds:
            best = together
    return Choice(best.ops, tuple(trials))


def _wins(one: Trial, plain: Trial) -> bool:
    return one.passed and one.milliseconds < (1 - GAIN) * plain.milliseconds


def try_engine(ops: tuple[str, ...], bundle: Path, manifest: Manifest, engine: Artifact) -> Trial:
    """Verify an engine on the golden slices of its folder, and time it on this machine's GPU.

    Args:
        ops: its plugins.
        bundle: folder of the engine, its graph and the golden slices.
        manifest: of the folder.
        engine: the engine's entry.

    Raises:
        BackendUnavailable: this machine cannot load it.
    """
    golden = read_golden(bundle, manifest.golden, manifest.outputs)
    evidence = golden_evidence(golden, manifest.model.novelty_threshold)
    parity = verify_artifact(bundle, engine, evidence, manifest)
    options = SessionOptions(batch=engine.batch.opt)
    loaded = open_artifact(str(engine.flavour), bundle, manifest, engine, options)
    try:
        seconds = time_runs(
            loaded.backend.run, golden["hu"], loaded.batch, runs=RUNS, warm=RUNS // 10
        )
    finally:
        loaded.backend.close()
    passed = parity.status == "passed"
    return Trial(
        ops, 1000 * statistics.median(seconds), passed, dict(parity.relative_error), parity.reason
    )
