"""Find and load the candidates: backends and alternatives with the weights of a bundle.

Artifacts run with backends of the runtime. Peers are alternatives for the same graph or weights.
`missing` contains unavailable backends with reasons.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import device
from bench.run import Inexact
from clinreadnet.errors import ClinReadNetError, InputError, shell_word
from clinreadnet.library import INSTALL, engine_version
from clinreadnet.precision import PRECISIONS, torch_precisions
from clinreadnet.runtime.backends import openvino
from clinreadnet.runtime.backends.loading import (
    BACKENDS,
    SessionOptions,
    artifacts_of,
    open_backend,
)
from clinreadnet.runtime.backends.onnxruntime_cuda import CUDA_SETTINGS
from clinreadnet.runtime.bundle.files import digest, load_manifest, read_listed
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Manifest
from clinreadnet.runtime.comparison import BatchRunner, run_and_compare
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.runtime.records import CPU_BACKENDS, NATIVE_BACKEND
from clinreadnet.spec import OUTPUTS, SIZE

HostSlices = NDArray[np.float32]
"""[B, 1, 512, 512] Hounsfield units in host memory."""
Enqueue = Callable[[], object]
"""Function that enqueues a run on PyTorch's current stream."""

COMPILED = ("torch-compile", "torch-triton-compile")
"""Names of the candidates with PyTorch's compiler."""
TRITON = ("torch-triton", "torch-triton-compile")
"""Names of the candidates with this package's kernels: eager and compiled."""
COMPILED_BATCHES = (1, 8, 64)
"""Batches for PyTorch's compiler, which takes a minute per batch."""
GOLDEN = 4
"""Number of golden slices that a candidate must reproduce before timing. Peers, which have no other
verification, must reproduce all."""
SLACK = 2.0
"""Factor on the budget, because a few slices average over fewer values."""


@dataclass(frozen=True)
class Candidate:
    """Backend and precision of a row.

    Attributes:
        name: name of the backend or peer.
        precision: precision of weights and products.
        role: "artifact", "reference" or "peer".
        artifact: file in the bundle, or None.
        open: function that loads the candidate for a batch and returns a function from slices to
            outputs in host memory.
        bind: function that loads the candidate on the GPU and returns a function that runs on
            slices at a fixed device address; None if not supported.
    """

    name: str
    precision: str
    role: str
    artifact: str | None
    open: Callable[[int], BatchRunner] = field(repr=False)
    bind: Callable[[Any], Enqueue] | None = field(default=None, repr=False)

    def runs(self, batch: int) -> bool:
        """Return whether this batch is measured."""
        return self.name not in COMPILED or batch in COMPILED_BATCHES

    @property
    def title(self) -> str:
        """Name and precision, as in benchmark IDs."""
        return f"{self.name}-{self.precision}"


@dataclass(frozen=True)
class Candidates:
    """Candidates of this machine, and missing ones with reasons."""

    candidates: tuple[Candidate, ...]
    missing: Mapping[str, str]


def load_bundle(bundle: Path) -> Manifest:
    """Return the manifest of a verified bundle.

    Raises:
        InputError: the bundle does not exist or is not verified.
    """
    manifest = load_manifest(bundle)
    if not manifest.verified:
        raise InputError(
            f"{bundle}: the bundle is not verified; run `clinreadnet verify {shell_word(bundle)}`"
        )
    return manifest


def find(bundle: Path, *, probe: bool = True) -> Candidates:
    """Find the candidates of this machine.

    Args:
        bundle: folder of the bundle.
        probe: open every GPU engine once, so that unusable engines are listed as missing instead of
            failing later.

    Raises:
        InputError: as in `load_bundle`.
    """
    manifest = load_bundle(bundle)
    candidates: list[Candidate] = []
    missing: dict[str, str] = {}
    _backends(bundle, manifest, candidates, missing, probe)
    for look in (_torch, _default_onnxruntime, _openvino_bf16):
        look(bundle, manifest, candidates, missing)
    return Candidates(tuple(candidates), missing)


def check(run: BatchRunner, candidate: Candidate, bundle: Path, batch: int) -> float:
    """Compare a candidate with the golden outputs at its batch.

    Args:
        run: what runs a batch.
        candidate: candidate.
        bundle: folder of the bundle.
        batch: slices per run. Every position of a batch is compared.

    Returns:
        Worst difference of a slice's score.

    Raises:
        Inexact: an output exceeds the budget of the precision.
    """
    manifest = load_manifest(bundle)
    unverified = candidate.role == "peer" and not device.REHEARSED
    first, slack = (None, 1.0) if unverified else (GOLDEN, SLACK)
    golden = read_golden(bundle, manifest.golden, first=first)
    limits = PRECISIONS[candidate.precision].limits(slack)
    if device.REHEARSED:
        batch = min(batch, GOLDEN)
    # Complete batches, so that no other shape is compiled or allocated.
    n = len(golden["hu"])
    slices = np.arange(-(-n // batch) * batch) % n
    reference = {name: golden[name][slices] for name in OUTPUTS}
    hu = golden["hu"][slices].astype(np.float32)
    comparison = run_and_compare(run, hu, reference, limits, batch=batch)
    if failures := "; ".join(comparison.failures()):
        raise Inexact(f"{candidate.title} is not timed at batch {batch}: {failures}")
    assert comparison.worst_score_difference is not None
    return comparison.worst_score_difference


def _torch(
    bundle: Path, manifest: Manifest, candidates: list[Candidate], missing: dict[str, str]
) -> None:
    from clinreadnet.model.checkpoint import pretrained_path

    names = ("torch-eager", "torch-compile", *TRITON)
    try:
        cuda = device.is_there()
        path = pretrained_path(manifest.model.preset)
    except (ImportError, InputError) as error:
        missing |= dict.fromkeys(names, f"needs PyTorch and the shipped checkpoint ({error})")
        return
    if digest(path.read_bytes()) != manifest.model.weights_sha256:
        missing |= dict.fromkeys(names, f"{bundle} holds other weights than the shipped checkpoint")
        return

    def candidate(name: str, precision: str) -> Candidate:
        role = "peer" if name == "torch-compile" else "reference"
        network = functools.partial(_torch_network, path, name, precision, cuda)

        def bind(x: Any) -> Enqueue:
            return functools.partial(network().predict, x)

        def run(batch: int) -> BatchRunner:
            return network()

        return Candidate(name, precision, role, None, run, bind if cuda else None)

    precisions = torch_precisions(cuda=cuda)
    for name in names:
        if name in TRITON and not cuda:
            missing[name] = "Triton kernels need an NVIDIA GPU"
            continue
        # On a processor only float32 is compiled, because the C++ compiler takes minutes per shape.
        compiled_there = name == "torch-compile" and not cuda
        chosen = precisions[:1] if compiled_there else precisions
        candidates += [candidate(name, precision) for precision in chosen]


@functools.cache
def _torch_network(path: Path, name: str, precision: str, cuda: bool) -> _TorchNetwork:
    """Return the network, which is compiled once per shape for all clocks."""
    return _TorchNetwork(path, name, precision, cuda)


class _TorchNetwork:
    """The network: the reference or with Triton kernels, each eager or compiled."""

    def __init__(self, path: Path, name: str, precision: str, cuda: bool) -> None:
        import torch
        import torch._dynamo

        from clinreadnet.model.checkpoint import load_checkpoint
        from clinreadnet.model.derived import buffer_derived
        from clinreadnet.model.network import ClinReadNet

        row = PRECISIONS[precision]
        self._tf32, self._device = row.tf32, device.device() if cuda else "cpu"
        dtype = getattr(torch, row.torch_dtype)
        model = load_checkpoint(path)
        if name in TRITON:
            weights = model.state_dict()
            model = ClinReadNet(model.config, kernels=device.kernels())
            model.load_state_dict(weights)
        model = model.to(self._device, dtype).eval()
        self._model: Any = model
        if name in COMPILED and not device.REHEARSED:
            buffer_derived(model, torch.zeros(1, 1, SIZE, SIZE, device=self._device))
            # Beyond this limit torch.compile silently falls back to eager mode.
            torch._dynamo.config.recompile_limit = 1024
            torch._dynamo.config.accumulated_recompile_limit = 8192
            mode = device.COMPILE_MODE if cuda else "max-autotune"
            self._model = torch.compile(model, mode=mode, dynamic=False)

    def predict(self, x: Any) -> Any:
        """Run the network on a tensor of HU on the device of the weights."""
        import torch

        torch.set_float32_matmul_precision("high" if self._tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self._tf32
        with torch.inference_mode():
            return self._model(x)

    def __call__(self, hu: HostSlices) -> Mapping[str, NDArray[Any]]:
        import torch

        prediction = self.predict(torch.from_numpy(hu).to(self._device))
        return {name: getattr(prediction, name).float().cpu().numpy() for name in OUTPUTS}


def _backends(
    bundle: Path,
    manifest: Manifest,
    candidates: list[Candidate],
    missing: dict[str, str],
    probe: bool,
) -> None:
    """Add the bundle's artifacts, run through the runtime."""
    gpu = bool(find_gpus())
    for backend in BACKENDS:
        held = artifacts_of(backend, manifest)
        if not held:
            missing[backend] = f"{bundle} holds nothing that {backend} runs"
            continue
        if backend == NATIVE_BACKEND and engine_version() is None:
            missing[backend] = f"the CPU engine was not compiled here; {INSTALL}"
            continue
        if backend == "openvino" and openvino.installed_version() is None:
            missing[backend] = (
                'OpenVINO is not installed; run `pip install "clinreadnet[openvino]"`'
            )
            continue
        if backend.startswith("onnxruntime") and find_spec("onnxruntime") is None:
            missing[backend] = 'onnxruntime is not installed; run `pip install "clinreadnet[cpu]"`'
            continue
        if backend not in CPU_BACKENDS and not gpu:
            missing[backend] = "no NVIDIA GPU on this machine"
            continue
        for precision in dict.fromkeys(a.precision for a in held):
            artifact = next(a for a in held if a.precision == precision)
            if probe and backend not in CPU_BACKENDS:
                try:
                    opened = open_backend(backend, bundle, manifest, SessionOptions(precision))
                except ClinReadNetError as error:
                    missing[f"{backend}-{precision}"] = str(error)
                    continue
                opened.backend.close()
                artifact = opened.artifact  # the engine that fits this GPU

            def make(batch: int, backend: str = backend, precision: str = precision) -> BatchRunner:
                wanted = SessionOptions(precision, batch)
                return open_backend(backend, bundle, manifest, wanted).backend.run

            bind = None
            if backend == "onnxruntime-cuda":
                bind = functools.partial(_bind_onnxruntime, read_listed(bundle, artifact))
            candidates.append(Candidate(backend, precision, "artifact", artifact.file, make, bind))


def _bind_onnxruntime(model: bytes, x: Any) -> Enqueue:
    """Bind the graph with IOBinding to PyTorch's stream, without copies and synchronisation."""
    import onnxruntime
    import torch

    stream = str(torch.cuda.current_stream().cuda_stream)
    settings = CUDA_SETTINGS | {"user_compute_stream": stream}
    session = onnxruntime.InferenceSession(model, providers=[("CUDAExecutionProvider", settings)])
    binding = session.io_binding()
    half = session.get_inputs()[0].type == "tensor(float16)"
    x = x.half() if half else x
    binding.bind_input(
        "hu", "cuda", 0, np.float16 if half else np.float32, list(x.shape), x.data_ptr()
    )
    for name in OUTPUTS:
        binding.bind_output(name, "cuda")
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(keep: Any = x) -> None:
        session.run_with_iobinding(binding, options)

    return enqueue


def _graph(manifest: Manifest, precision: str) -> Any:
    return next(
        (a for a in manifest.artifacts if a.kind == "onnx" and a.precision == precision), None
    )


def _default_onnxruntime(
    bundle: Path, manifest: Manifest, candidates: list[Candidate], missing: dict[str, str]
) -> None:
    """Add ONNX Runtime with default options and its default provider."""
    name = "onnxruntime-default"
    artifact = _graph(manifest, "fp32")
    try:
        import onnxruntime
    except ImportError:
        missing[name] = 'onnxruntime is not installed; run `pip install "clinreadnet[cpu]"`'
        return
    if artifact is None:
        missing[name] = f"{bundle} holds no fp32 graph"
        return

    def make(batch: int) -> BatchRunner:
        content = read_listed(bundle, artifact)
        providers = ["CUDAExecutionProvider"] if find_gpus() else []
        session = onnxruntime.InferenceSession(
            content, providers=[*providers, "CPUExecutionProvider"]
        )
        return lambda hu: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"hu": hu}), strict=True))

    # On a GPU the default is TF32.
    precision = "tf32" if find_gpus() else "fp32"
    candidates.append(Candidate(name, precision, "peer", artifact.file, make))


def _openvino_bf16(
    bundle: Path, manifest: Manifest, candidates: list[Candidate], missing: dict[str, str]
) -> None:
    """Add OpenVINO with its default products on processors with bfloat16 units."""
    artifact = _graph(manifest, "fp32")
    if openvino.installed_version() is None or artifact is None:
        return  # the backend `openvino` is already reported as missing

    def make(batch: int) -> BatchRunner:
        return openvino.OpenVinoBackend(read_listed(bundle, artifact), products="bf16").run

    candidates.append(Candidate("openvino", "bf16", "peer", artifact.file, make))
