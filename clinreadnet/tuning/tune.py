"""Tune the launch configuration of every kernel on this machine's GPU.

The result is a file ``kernels/configs/<gpu>.json``, which every launch reads. There is no tuning at
run time. A candidate is timed only if it compiles without spilling and agrees with the float64
reference.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from rich.console import Console
from torch import Tensor

from clinreadnet.console import Column, fitted_table, progress_bar, status
from clinreadnet.errors import CheckFailed, InputError, first_line
from clinreadnet.files import whole_file
from clinreadnet.kernels.launch import (
    CONFIGS,
    config_file,
    fenced,
    file_name,
    gpu_of,
    multiprocessors_of,
    trial,
)
from clinreadnet.kernels.spec import Case, Config
from clinreadnet.precision import Limits
from clinreadnet.runtime.comparison import compare_outputs
from clinreadnet.tuning.shortlist import shortlist
from clinreadnet.tuning.tunable import TUNABLE, Example, Tunable, compile_obstacle

Clock = Callable[[Callable[[], object]], float]
"""Function that returns the milliseconds of a call on the GPU."""


@dataclass(frozen=True)
class Trial:
    """Result of a candidate: its times, or why it was dropped."""

    config: Config
    milliseconds: tuple[float, ...] = ()
    """Time of each example in milliseconds."""
    dropped: str | None = None

    @property
    def mean(self) -> float:
        """Geometric mean of the times; infinite if the candidate was dropped."""
        if self.dropped is not None:
            return math.inf
        return math.exp(sum(map(math.log, self.milliseconds)) / len(self.milliseconds))


@dataclass(frozen=True)
class EntryTrials:
    """Trials of an entry. The configuration in use comes first.

    ``library`` has the times of PyTorch's libraries, and the layers on which they are faster
    than the best configuration, if the entry can name such layers.
    """

    keys: tuple[str, ...]
    examples: tuple[str, ...]
    trials: tuple[Trial, ...]
    library: Trial | None = None

    @property
    def best(self) -> Trial:
        """The fastest trial; in a tie, the first."""
        return min(self.trials, key=lambda trial: trial.mean)

    @property
    def chosen(self) -> dict[str, Any]:
        """The fastest configuration, with the layers that go to PyTorch's libraries."""
        layers = self.library.config if self.library and self.library.config["library"] else {}
        return {**self.best.config, **layers}


@dataclass(frozen=True)
class Tuning:
    """Result of `tune`.

    Attributes:
        document: content of the configuration file.
        tuned: trials of each timed entry.
    """

    document: dict[str, Any]
    tuned: tuple[EntryTrials, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the document and every trial as plain JSON values."""
        entries = [
            {
                "keys": list(entry.keys),
                "examples": list(entry.examples),
                "best": entry.chosen,
                "trials": [asdict(t) for t in entry.trials],
            }
            | ({"library": asdict(entry.library)} if entry.library else {})
            for entry in self.tuned
        ]
        return {"configuration": self.document, "entries": entries}


def entries(tree: Mapping[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Config]]:
    """Yield the keys and the configuration of every entry below ``above``."""
    for key, inner in tree.items():
        if all(isinstance(value, dict) for value in inner.values()):
            yield from entries(inner, *above, key)
        else:
            yield (*above, key), inner


def _first_slice(example: Example) -> tuple[Tensor, ...]:
    return (example.tensors[0][:1].contiguous(), *example.tensors[1:])


def wrong(example: Example, expected: Tensor) -> str | None:
    """Return the difference from the float64 reference if it exceeds the budget, or None."""
    # The whole batch, because its size can decide which configuration is used.
    output = example.op(example.tensors, "triton")[:1]
    comparison = compare_outputs(
        {example.name: output.double().cpu().numpy()},
        {example.name: expected.cpu().numpy()},
        Limits(example.budget),
    )
    if not comparison.failures():
        return None
    error = comparison.errors[example.name]
    return (
        f"wrong on {example.name}: relative error {error:.2g}, budget {comparison.limits.error:.0e}"
    )


def search(
    tunable: Tunable,
    keys: tuple[str, ...],
    in_use: Config,
    *,
    capability: int,
    device: torch.device,
    clock: Clock,
    obstacle: Callable[[Sequence[Case]], str | None] = compile_obstacle,
    tried: Callable[[Trial], None] = lambda trial: None,
) -> EntryTrials:
    """Try every candidate of an entry.

    Args:
        tunable: candidates and examples of the entry.
        keys: path of the entry in the file.
        in_use: the configuration in use, tried first.
        capability: compute capability to compile for, 90 for 9.0.
        device: device of the examples.
        clock: function that times a call.
        obstacle: function that returns why cases cannot be launched, or None.
        tried: called with the trial of each candidate, and with that of the libraries.

    Returns:
        All trials.

    Raises:
        CheckFailed: no candidate is correct and fits.
    """
    examples = tunable.examples(device)
    expected = [
        item.op([tensor.double() for tensor in _first_slice(item)], "reference")
        for item in examples
    ]

    def attempt(config: Config) -> Trial:
        with trial(config, *keys):
            reason = obstacle(tunable.cases(capability))
            if reason is not None:
                return Trial(config, dropped=reason)
            try:
                for example, right in zip(examples, expected, strict=True):
                    if (reason := wrong(example, right)) is not None:
                        return Trial(config, dropped=reason)
                times = [clock(partial(item.op, item.tensors, "triton")) for item in examples]
            except triton.OutOfResources as error:
                return Trial(config, dropped=f"does not launch: {error}")
        return Trial(config, milliseconds=tuple(times))

    trials = []
    in_use = {key: value for key, value in in_use.items() if key != "library"}
    for config in [in_use, *(c for c in tunable.candidates if c != in_use)]:
        trials.append(attempt(config))
        tried(trials[-1])
    if all(item.dropped for item in trials):
        raise CheckFailed(f"{' '.join(keys)}: no candidate can be used; {trials[0].dropped}")
    names = tuple(item.name for item in examples)
    result = EntryTrials(keys, names, tuple(trials))
    if not tunable.library:
        return result
    times = tuple(clock(partial(item.op, item.tensors, "reference")) for item in examples)
    layers = _won(tunable.library, times, result.best.milliseconds)
    library = Trial({"library": layers}, times)
    tried(library)
    return replace(result, library=library)


def _won(
    layers: Sequence[tuple[str, int]], library: Sequence[float], kernel: Sequence[float]
) -> dict[str, int]:
    """Return the least number of tokens by sides from which the library is always faster."""
    least: dict[str, int] = {}
    lost = set()
    rows = zip(layers, library, kernel, strict=True)
    for (sides, tokens), theirs, ours in sorted(rows, key=lambda row: -row[0][1]):
        if theirs < ours and sides not in lost:
            least[sides] = tokens
        else:
            lost.add(sides)
    return least


def gpu_clock(run: Callable[[], object]) -> float:
    """Time a call in a CUDA graph, without the launch by Python; return milliseconds."""
    milliseconds: float = triton.testing.do_bench_cudagraph(run, return_mode="median")
    return milliseconds


@torch.inference_mode()
def tune(
    *,
    only: Sequence[str] = (),
    most: int | None = None,
    base: str | os.PathLike[str] | None = None,
    device: torch.device | None = None,
    clock: Clock = gpu_clock,
    tried: Callable[[tuple[str, ...], Trial], None] = lambda keys, trial: None,
) -> Tuning:
    """Tune every entry of the configuration file in use, or some of them.

    Args:
        only: ops or parts of them, such as "sobel_stem" or "window_attention/float16"; default
            all. The other entries are kept.
        most: number of candidates of an entry to time, chosen by `shortlist`; default all.
        base: file to continue from instead of the one in use.
        device: default the current GPU.
        clock: function that times a call.
        tried: called with the entry and the trial of each candidate.

    Returns:
        The new file's content, and the trials of every candidate.

    Raises:
        InputError: no NVIDIA GPU, ``only`` names no entry, or ``base`` is not a file of this
            GPU.
        CheckFailed: an entry has no candidate that is correct and fits.
    """
    device = device or torch.device("cuda")
    gpu, capability = gpu_of(device)
    if not gpu:
        raise InputError(
            "tune needs an NVIDIA GPU that PyTorch can use; `clinreadnet doctor` says what is here"
        )
    if base is None:
        in_use = json.loads(config_file(gpu, capability).read_text())
    else:
        in_use = _read_base(base, gpu)
    header = {
        "gpu": gpu,
        "compute_capability": capability,
        "triton": triton.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    configs = {op: tree for op, tree in in_use.items() if isinstance(tree, dict)}
    document = {**header, **copy.deepcopy(configs)}
    known = {keys: config for keys, config in entries(configs) if keys[0] in TUNABLE}
    chosen = [tuple(name.split("/")) for name in only] or [()]
    for name in chosen:
        if not any(keys[: len(name)] == name for keys in known):
            names = ", ".join("/".join(keys) for keys in known)
            raise InputError(f"only={'/'.join(name)}: unknown; known: {names}")
    wanted = [
        (keys, fenced(config, capability), _fenced(TUNABLE[keys[0]](*keys[1:]), capability))
        for keys, config in known.items()
        if any(keys[: len(name)] == name for name in chosen)
    ]
    if most is not None:
        wanted = [
            (keys, config, _shortened(tunable, keys, most, capability, device))
            for keys, config, tunable in wanted
        ]
    tuned = []
    with progress_bar() as bar:
        total = sum(1 + len(t.candidates) + bool(t.library) for _, _, t in wanted)
        task = bar.add_task(f"Tuning on {gpu}", total=total)
        for keys, config, tunable in wanted:

            def each(trial: Trial, keys: tuple[str, ...] = keys) -> None:
                bar.advance(task)
                tried(keys, trial)

            trials = search(
                tunable,
                keys,
                config,
                capability=capability,
                device=device,
                clock=clock,
                tried=each,
            )
            tuned.append(trials)
            place = document
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = trials.chosen
    return Tuning(document, tuple(tuned))


def _read_base(path: str | os.PathLike[str], gpu: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name another file as `out`") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({first_line(error)}); name another as `out`") from None
    of = (isinstance(content, dict) and content.get("gpu")) or "no GPU"
    if of != gpu:
        raise InputError(f"{path}: is of {of}, not of {gpu}; name another file as `out`")
    return dict(content)


def _fenced(tunable: Tunable, capability: int) -> Tunable:
    candidates = tuple(c for c in tunable.candidates if fenced(c, capability) == c)
    return replace(tunable, candidates=candidates)


def _shortened(
    tunable: Tunable, keys: tuple[str, ...], most: int, capability: int, device: torch.device
) -> Tunable:
    with status(f"Compiling candidates of {'/'.join(keys)}"):
        candidates = shortlist(
            keys,
            tunable.candidates,
            most,
            capability=capability,
            multiprocessors=multiprocessors_of(device),
        )
    return replace(tunable, candidates=tuple(candidates))


def write_tuning(tuning: Tuning, out: str | os.PathLike[str] | None = None) -> Path:
    """Write the configuration file atomically. Default: the file of this GPU.

    Raises:
        InputError: ``out`` cannot be written.
    """
    path = Path(out) if out is not None else CONFIGS / file_name(tuning.document["gpu"])
    try:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(tuning.document, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; name a file that can be written as `out`"
        ) from None
    return path


def print_tuning(tuning: Tuning, console: Console) -> None:
    """Print one line for each entry."""
    entries = tuning.tuned
    before = [entry.trials[0].mean for entry in entries]
    dropped = [sum(trial.dropped is not None for trial in entry.trials) for entry in entries]
    columns = [
        Column(
            "best",
            ["\n".join(f"{k} {v}" for k, v in e.chosen.items()) for e in entries],
            1,
            "left",
        ),
        Column("ms\nbefore", [f"{ms:.4f}" if math.isfinite(ms) else "dropped" for ms in before]),
        Column("ms\nbest", [f"{entry.best.mean:.4f}" for entry in entries]),
        Column("tried", [str(len(entry.trials)) for entry in entries], 3),
        Column("dropped", list(map(str, dropped)), 2),
    ]
    names = [" ".join(entry.keys) for entry in entries]
    console.print(fitted_table(console, "entry", names, columns, most=12))
