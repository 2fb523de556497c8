"""`clinreadnet export`: a checkpoint in, one verified bundle folder out, whole or not at all."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import onnxscript
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from clinreadnet import __version__, weights
from clinreadnet.data.simulate import DEGRADATIONS, simulate_anatomy
from clinreadnet.errors import InputError
from clinreadnet.export.onnx import OPSET, export_onnx, torch_dtype
from clinreadnet.export.tensorrt import (
    DEFAULT_BATCH,
    DEFAULT_TARGETS,
    FLAVOURS,
    EngineBuilder,
    Flavour,
    FlavourMissing,
    check_batch,
    check_targets,
    load_flavour,
)
from clinreadnet.export.verify import (
    GoldenSlices,
    Outputs,
    Report,
    passes,
    reference_outputs,
    verify_golden,
)
from clinreadnet.model import ClinReadNet
from clinreadnet.output import whole_file, whole_folder
from clinreadnet.progress import progress_bar
from clinreadnet.runtime.gpu import driver_version, find_gpus
from clinreadnet.runtime.manifest import (
    GOLDEN_NAME,
    Artifact,
    BatchRange,
    BuiltOn,
    Golden,
    InputInfo,
    Manifest,
    ModelInfo,
    digest,
    write_manifest,
)

DEFAULT_PRECISIONS = ("fp32", "fp16")

GOLDEN_SEED = 977
"""Of the simulator; no training set is drawn from it."""
GOLDEN_ANATOMIES = 2
MIN_GAP = 0.02
"""Least difference of the reference scores of two golden slices, in grades: a tenth of a fine step,
and several times what float16 moves a score. Closer pairs would change places by rounding alone,
and each such pair moves KROCC by more than its tolerance."""
MIN_SLICES = 8
"""Fewer distinct scores than this say nothing about ranks; all slices are kept then."""


def parse_batch(text: str) -> BatchRange:
    """Read a profile ``MIN:OPT:MAX``.

    Raises:
        InputError: not three integers 1 <= MIN <= OPT <= MAX.
    """
    try:
        low, best, high = (int(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"--batch {text}: give MIN:OPT:MAX, such as 1:4:16") from None
    batch = BatchRange(low, best, high)
    check_batch(batch)
    return batch


def export_bundle(
    out: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    preset: str = "small",
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    targets: Sequence[str] | None = None,
    engine_precisions: Sequence[str] | None = None,
    batch: BatchRange = DEFAULT_BATCH,
    force: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> Report:
    """Export, build, verify, and only then put the folder in place.

    A bundle that fails verification is written too, with ``"verified": false``.

    Args:
        out: folder to create.
        checkpoint: default the shipped one of ``preset``.
        preset: what the checkpoint must be.
        precisions: of the ONNX graphs.
        targets: architectures to build engines for, possibly none; default ``DEFAULT_TARGETS``
            where TensorRT-RTX is installed.
        engine_precisions: graphs to build engines of; default fp16 where exported, else all.
        batch: profile of the engines, and the batches the bundle is meant for.
        force: replace ``out`` where it exists.
        note: told, in one line, what was left out and why.

    Returns:
        What verification found; ``bundle`` is ``out``.

    Raises:
        InputError: unknown precision or target, bad profile, an unusable checkpoint, ``out`` exists
            without ``force``, or ``targets`` were named and TensorRT-RTX is missing.
        CheckFailed: an engine's network is not of its precision.
    """
    out = Path(out)
    precisions = tuple(dict.fromkeys(precisions))
    for precision in precisions:
        torch_dtype(precision)
    check_batch(batch)
    flavour = FLAVOURS["tensorrt-rtx"]
    targets = _targets(targets, flavour, note)
    engine_precisions = _engine_precisions(engine_precisions, precisions)
    checkpoint = Path(checkpoint) if checkpoint is not None else weights.pretrained_path(preset)
    model = weights.load_checkpoint(checkpoint, preset=preset)
    built_on = _built_on()

    with whole_folder(out, force=force) as folder, progress_bar() as bar:
        golden = write_golden(folder / GOLDEN_NAME, model, bar, note)
        artifacts: list[Artifact] = []

        def add(file: str, precision: str, toolchain: dict[str, str], target: str | None) -> None:
            content = (folder / file).read_bytes()
            artifacts.append(
                Artifact(
                    file=file,
                    kind="onnx" if target is None else "tensorrt-engine",
                    precision=precision,  # type: ignore[arg-type]  # checked above
                    sha256=digest(content),
                    size=len(content),
                    batch=batch,
                    toolchain=toolchain,
                    built_on=built_on,
                    flavour=None if target is None else flavour.name,  # type: ignore[arg-type]
                    target=target,
                )
            )

        toolchain = {
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            "opset": str(OPSET),
        }
        task = bar.add_task("Exporting ONNX graphs", total=len(precisions))
        for precision in precisions:
            file = f"clinreadnet.{precision}.onnx"
            export_onnx(model, folder / file, precision=precision)
            add(file, precision, toolchain, None)
            bar.advance(task)

        if targets:
            task = bar.add_task("Building engines", total=len(targets) * len(engine_precisions))
            for precision in engine_precisions:
                graph = folder / f"clinreadnet.{precision}.onnx"
                builder = EngineBuilder(graph, precision=precision, flavour=flavour)
                for target in targets:
                    file = f"clinreadnet.{precision}.{target}{flavour.suffix}"
                    engine = builder.build(target, batch, bar)
                    builder.write(engine, folder / file, target, batch)
                    add(file, precision, {flavour.name: builder.version, **toolchain}, target)
                    bar.advance(task)

        manifest = Manifest(
            clinreadnet_version=__version__,
            created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            model=ModelInfo(
                preset=model.config.preset,
                parameters=sum(p.numel() for p in model.parameters()),
                weights_sha256=digest(checkpoint.read_bytes()),
            ),
            input=InputInfo(batch),
            artifacts=tuple(artifacts),
            golden=golden,
            verified=False,
        )
        task = bar.add_task("Verifying", total=golden.slices * passes(manifest, golden=True))
        report = verify_golden(folder, manifest, lambda n: bar.advance(task, n))
        manifest = replace(manifest, artifacts=report.artifacts, verified=report.passed)
        write_manifest(manifest, folder)
    return replace(report, bundle=out)


def write_golden(
    path: Path, model: ClinReadNet, bar: Progress, note: Callable[[str], None] = lambda line: None
) -> Golden:
    """Simulate slices, run the float64 reference on them, and write those with distinct scores.

    Args:
        path: file to write; the same weights give the same bytes.
        model: the float32 network.
        bar: progress display.
        note: told where the network scores the slices almost alike.

    Returns:
        The manifest's entry.
    """
    task = bar.add_task("Simulating golden slices", total=GOLDEN_ANATOMIES * DEGRADATIONS)
    images: list[NDArray[np.int16]] = []
    labels: list[float] = []
    for anatomy in range(GOLDEN_ANATOMIES):
        for made in simulate_anatomy(GOLDEN_SEED, anatomy).slices:
            images.append(np.round(made.hu).astype(np.int16))
            labels.append(made.score)
        bar.advance(task, DEGRADATIONS)
    task = bar.add_task("Computing the float64 reference", total=len(images))
    hu = np.stack(images)
    reference = reference_outputs(model, GoldenSlices(hu), lambda n: bar.advance(task, n))
    kept = distinct(reference["score"], MIN_GAP)
    if len(kept) < MIN_SLICES:
        spread = np.ptp(reference["score"])
        note(
            f"the network scores all golden slices within {spread:.2g} grades: is it trained? "
            "Rank metrics of nearly equal scores mean little"
        )
        kept = np.arange(len(hu))
    return _save_golden(path, hu[kept], np.asarray(labels, np.float32)[kept], reference, kept)


def distinct(scores: NDArray[np.float64], gap: float) -> NDArray[np.intp]:
    """Return the indices of a largest set of scores that all differ by ``gap``, in order."""
    kept: list[np.intp] = []
    for index in np.argsort(scores, kind="stable"):
        if not kept or scores[index] - scores[kept[-1]] >= gap:
            kept.append(index)
    return np.sort(np.asarray(kept, dtype=np.intp))


def _save_golden(
    path: Path,
    hu: NDArray[np.int16],
    labels: NDArray[np.float32],
    reference: Outputs,
    kept: NDArray[np.intp],
) -> Golden:
    outputs = {name: value[kept] for name, value in reference.items()}
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, hu=hu, label=labels, **outputs)
    content = path.read_bytes()
    return Golden(path.name, digest(content), len(content), len(hu))


def _targets(
    wanted: Sequence[str] | None, flavour: Flavour, note: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the targets to build for; a choice that was not asked for may fall back to none."""
    targets = tuple(dict.fromkeys(DEFAULT_TARGETS if wanted is None else wanted))
    check_targets(targets, flavour)
    if targets:
        try:
            load_flavour(flavour)
        except FlavourMissing as error:
            if wanted is not None:
                raise
            note(f"no engines: {error}, then export again")
            return ()
    return targets


def _engine_precisions(wanted: Sequence[str] | None, exported: Sequence[str]) -> tuple[str, ...]:
    if wanted is None:
        return ("fp16",) if "fp16" in exported else tuple(exported)
    for precision in wanted:
        torch_dtype(precision)
        if precision not in exported:
            raise InputError(
                f"--engine-precision {precision}: its graph is not exported; "
                f"add --precision {precision}"
            )
    return tuple(dict.fromkeys(wanted))


def _built_on() -> BuiltOn:
    gpus = find_gpus()
    return BuiltOn(
        platform=f"{platform.system().lower()}-{platform.machine()}",
        gpu=gpus[0].name if gpus else None,
        driver=driver_version(),
    )
