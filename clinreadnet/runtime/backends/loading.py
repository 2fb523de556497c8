"""Load backends: choose the artifact that each backend runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from numpy.typing import ArrayLike

from clinreadnet import backends as table
from clinreadnet.errors import BackendUnavailable, InputError, OutOfMemory
from clinreadnet.library import engine_version, instructions
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends import native, openvino
from clinreadnet.runtime.backends.flavours import FlavourMissing, load_flavour
from clinreadnet.runtime.backends.kernel_cache import cache_file
from clinreadnet.runtime.backends.onnxruntime import (
    OnnxRuntimeBackend,
    installed_version,
    offers_cuda,
)
from clinreadnet.runtime.bundle.files import read_listed
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, Parity
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.runtime.records import CPU_BACKENDS, record_here, record_verdict
from clinreadnet.runtime.scores import Outputs
from clinreadnet.runtime.verdict import (
    Machine,
    Validity,
    Verdict,
    native_verdict,
    processor_verdict,
    this_machine,
    verdict,
    worst,
)

BACKENDS = tuple(table.BACKENDS)
"""Names of all backends, in the order in which a `Session` tries them."""

CPU_BATCH = 1
"""Slices per run on a CPU. Larger batches are not faster there and need more memory."""


class Backend(Protocol):
    """Interface of a backend: an object that runs one artifact."""

    def run(self, hu: ArrayLike) -> Outputs:
        """Run the network once. This method is thread-safe.

        Args:
            hu: [n, 1, 512, 512] Hounsfield units, any real dtype.

        Returns:
            ``score`` [n], ``probs`` [n, 21], ``quality_map`` [n, 16, 16], ``novelty`` [n], float32.

        Raises:
            OutOfMemory: this batch does not fit in memory.
            DeviceLost: the GPU failed, in this call or before.
            BackendError: the backend failed for another reason; the next run may succeed.
        """

    def close(self) -> None:
        """Free all memory. Do not call this during a run."""


@dataclass(frozen=True)
class LoadedBackend:
    """A loaded backend with its artifact and the machine.

    ``record`` is the artifact's verification record that applies to this machine, or None.
    ``self_tested`` is the number of golden slices in the self-test.
    """

    name: str
    backend: Backend
    artifact: Artifact
    verdict: Verdict
    batch: int
    machine: Machine
    record: Parity | None
    self_tested: int = 0


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session for its backend; see `Session`."""

    precision: str | None = None
    batch: int | None = None
    workers: int = 1
    threads: int | None = None
    device: int = 0
    fastest: bool = False
    budget: float | None = None


def check_backends(backends: str | Sequence[str]) -> tuple[str, ...]:
    """Check names of backends and return them as a tuple. A string is a single backend.

    Raises:
        InputError: there is no name, or a name is unknown.
    """
    if not isinstance(backends, str | Sequence):
        raise InputError(f"backends={backends!r}: not a list; name some of {', '.join(BACKENDS)}")
    names = (backends,) if isinstance(backends, str) else tuple(dict.fromkeys(map(str, backends)))
    for name in names:
        if name not in BACKENDS:
            raise InputError(f"backends={name}: unknown; known: {', '.join(BACKENDS)}")
    if not names:
        raise InputError(f"`backends` is empty; name some of {', '.join(BACKENDS)}")
    return names


def artifacts_of(name: str, manifest: Manifest) -> list[Artifact]:
    """Return the artifacts of a bundle that a backend runs.

    Args:
        name: one of ``BACKENDS``.
        manifest: the bundle's manifest.
    """
    row = table.BACKENDS[name]
    return [
        a
        for a in manifest.artifacts
        if a.kind == row.runs
        and a.flavour in (None, name)
        and (row.on_cpu or not PRECISIONS[a.precision].dynamic)
    ]


def open_backend(
    name: str,
    bundle: str | os.PathLike[str],
    manifest: Manifest,
    options: SessionOptions,
    artifact: Artifact | None = None,
) -> LoadedBackend:
    """Load the artifact that suits a backend best on this machine.

    Args:
        name: one of ``BACKENDS``.
        bundle: the bundle's folder.
        manifest: its manifest.
        options: options of the session. If memory runs out, a smaller batch is used.
        artifact: the artifact to load, without a choice.

    Raises:
        BackendUnavailable: the backend cannot run any artifact of this bundle on this machine.
        Untrusted: a file differs from the manifest. Do not try another backend: the bundle was
            changed or damaged.
        InputError: the bundle does not support ``options``.
    """
    artifacts = artifacts_of(name, manifest) if artifact is None else [artifact]
    return LOADERS[name].open(name, Path(bundle), manifest, options, artifacts)


def _open_checkpoint(
    name: str,
    bundle: Path,
    manifest: Manifest,
    options: SessionOptions,
    checkpoints: list[Artifact],
) -> LoadedBackend:
    artifact = _of_precision(checkpoints, options.precision, "checkpoint", bundle)[0]
    instructions()
    machine = this_machine(engine_version())
    judged = worst(
        (
            verdict(artifact, machine, options.batch),
            native_verdict(artifact, machine, fast=native.is_fast(artifact.precision)),
        )
    )
    _check_verdicts(name, bundle, artifact, machine, judged)
    try:
        backend = native.NativeBackend(
            read_listed(bundle, artifact),
            precision=artifact.precision,
            preset=manifest.model.preset,
            threads=options.threads,
            file=str(bundle / artifact.file),
        )
    except OutOfMemory as error:
        raise BackendUnavailable(str(error)) from None
    batch = _batch(artifact, options, CPU_BATCH)
    return _loaded(name, backend, artifact, judged, batch, machine)


def _open_graph(
    name: str,
    bundle: Path,
    manifest: Manifest,
    options: SessionOptions,
    graphs: list[Artifact],
) -> LoadedBackend:
    cuda = name == "onnxruntime-cuda"
    # Without a GPU the CUDA provider prints to standard error, so it is not tried.
    if cuda and offers_cuda() and not find_gpus():
        raise BackendUnavailable("no NVIDIA GPU is visible; run `clinreadnet doctor`")
    artifact = _of_precision(graphs, options.precision, "ONNX graph", bundle)[0]
    version = openvino.installed_version() if name == "openvino" else installed_version()
    machine = this_machine(version, device=options.device)
    judged = verdict(artifact, machine, options.batch)
    if name in CPU_BACKENDS:
        judged = worst((judged, processor_verdict(artifact, machine)))
    _check_verdicts(name, bundle, artifact, machine, judged)
    content = read_listed(bundle, artifact)
    file = str(bundle / artifact.file)

    batch = _batch(artifact, options, artifact.batch.opt if cuda else CPU_BATCH)
    backend: Backend
    if cuda:
        from clinreadnet.runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend

        load = partial(
            OnnxRuntimeCudaBackend,
            content,
            workers=options.workers,
            device=options.device,
            file=file,
        )
        backend, batch = _fit(load, batch, artifact.batch.min)
    elif name == "openvino":
        backend = openvino.OpenVinoBackend(
            content,
            workers=options.workers,
            threads=options.threads,
            file=file,
        )
    else:
        backend = OnnxRuntimeBackend(content, threads=options.threads, file=file)
    return _loaded(name, backend, artifact, judged, batch, machine)


def _open_engine(
    name: str,
    bundle: Path,
    manifest: Manifest,
    options: SessionOptions,
    engines: list[Artifact],
) -> LoadedBackend:
    engines = _of_precision(engines, options.precision, f"{name} engine", bundle)
    if not find_gpus():
        raise BackendUnavailable("no NVIDIA GPU is visible; run `clinreadnet doctor`")
    lean = False
    try:
        flavour, trt = load_flavour(name)
    except FlavourMissing as missing:
        try:
            flavour, trt = load_flavour(name, lean=True)
        except FlavourMissing:
            raise BackendUnavailable(str(missing)) from None
        lean = True
    machine = this_machine(str(trt.__version__), lean=lean, device=options.device)
    judged = [
        (worst((verdict(e, machine, options.batch), record_verdict(e, name, machine))), e)
        for e in engines
    ]
    judgement, artifact = min(judged, key=lambda pair: pair[0].validity)  # the first of equal ones
    if judgement.validity == Validity.INVALID:
        reasons = "; ".join(f"{engine.file}: {judgement.reason}" for judgement, engine in judged)
        raise BackendUnavailable(f"no engine fits this machine ({reasons})")
    content = read_listed(bundle, artifact)
    weights = None
    if artifact.weights_stripped and artifact.graph is not None:
        weights = read_listed(bundle, manifest.artifact(artifact.graph))

    from clinreadnet.runtime.backends.tensorrt import TensorRTBackend  # no CPU host needs it

    load = partial(
        TensorRTBackend,
        content,
        artifact=artifact,
        flavour=flavour,
        trt=trt,
        workers=options.workers,
        device=options.device,
        weights=weights,
        cache=cache_file(artifact.sha256, machine),
    )
    backend, batch = _fit(load, _batch(artifact, options, artifact.batch.opt), artifact.batch.min)
    return _loaded(name, backend, artifact, worst((judgement, backend.header)), batch, machine)


def _check_verdicts(
    name: str, bundle: Path, artifact: Artifact, machine: Machine, judged: Verdict
) -> None:
    """Raise an error if an artifact does not fit this machine or failed verification there."""
    if judged.validity == Validity.INVALID:
        raise InputError(judged.reason)
    recorded = record_verdict(artifact, name, machine)
    if recorded.validity == Validity.INVALID:
        raise BackendUnavailable(f"{bundle / artifact.file}: {recorded.reason}")


def _loaded(
    name: str,
    backend: Backend,
    artifact: Artifact,
    judgement: Verdict,
    batch: int,
    machine: Machine,
) -> LoadedBackend:
    record = record_here(artifact, name, machine)
    return LoadedBackend(name, backend, artifact, judgement, batch, machine, record)


_Loaded = TypeVar("_Loaded")


def _fit(load: Callable[..., _Loaded], batch: int, smallest: int) -> tuple[_Loaded, int]:
    """Load with the largest batch that fits in memory: ``batch``, then halves of it."""
    while True:
        try:
            return load(batch=batch), batch
        except OutOfMemory as error:
            if batch == smallest:
                raise BackendUnavailable(f"not even a batch of {batch} fits ({error})") from None
            batch = max(batch // 2, smallest)


def _of_precision(
    artifacts: list[Artifact], precision: str | None, what: str, bundle: Path
) -> list[Artifact]:
    """Return the artifacts of ``precision`` (or all), the most accurate first; at least one."""
    if not artifacts:
        raise BackendUnavailable(f"{bundle}: holds no {what}; export it with one")
    matching = [a for a in artifacts if precision in (None, a.precision)]
    if not matching:
        held = ", ".join(dict.fromkeys(a.precision for a in artifacts))
        raise BackendUnavailable(f"{bundle}: no {what} in precision {precision!r}; it holds {held}")
    return sorted(matching, key=lambda a: PRECISIONS[a.precision].budget)


def _batch(artifact: Artifact, options: SessionOptions, usual: int) -> int:
    return options.batch or min(max(usual, artifact.batch.min), artifact.batch.max)


@dataclass(frozen=True)
class Loader:
    """Functions to load a backend.

    Attributes:
        open: loads the most accurate of the given artifacts, as in `open_backend`.
        here: returns whether this machine may be able to run the backend.
    """

    open: Callable[[str, Path, Manifest, SessionOptions, list[Artifact]], LoadedBackend]
    here: Callable[[], bool]


LOADERS = {
    "tensorrt": Loader(_open_engine, lambda: bool(find_gpus())),
    "tensorrt-rtx": Loader(_open_engine, lambda: bool(find_gpus())),
    "onnxruntime-cuda": Loader(_open_graph, lambda: offers_cuda() and bool(find_gpus())),
    "native": Loader(_open_checkpoint, lambda: engine_version() is not None),
    "onnxruntime-cpu": Loader(_open_graph, lambda: installed_version() is not None),
    "openvino": Loader(_open_graph, lambda: openvino.installed_version() is not None),
}
"""Loader of each backend."""
