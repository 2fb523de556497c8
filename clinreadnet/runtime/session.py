"""Score slices with a bundle, without PyTorch.

from clinreadnet.runtime import Session

session = Session("bundle")
scores = session.score(hu)  # [n, 512, 512], Hounsfield units
scores.score                # [n], 0 bad ... 4 excellent; research use only
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.grading import FINE_GRADES, SIZE
from clinreadnet.runtime.gpu import find_gpus
from clinreadnet.runtime.manifest import Artifact, Manifest, load_manifest, read_golden, read_listed
from clinreadnet.runtime.onnxruntime_backend import CPU, CUDA, OnnxRuntimeBackend, offers_cuda
from clinreadnet.runtime.parity import BUDGETS, OUTPUTS, relative_error

BACKENDS = ("auto", "onnxruntime-cpu", "onnxruntime-cuda")
"""Accepted values of ``Session(backend=...)``."""

CPU_BATCH = 1
"""Slices per run on a CPU. Larger batches gain nothing there and cost memory."""

SELF_TEST_SLICES = 2
SELF_TEST_SLACK = 2.0
"""Factor on the budget at start-up: two slices average less than the golden set does, and another
processor sums in another order. A wrong graph or provider is off by far more."""

_PROVIDERS = {"onnxruntime-cpu": CPU, "onnxruntime-cuda": CUDA}


@dataclass(frozen=True)
class Scores:
    """What the network says about n slices.

    Attributes:
        score: float32 [n], 0 bad ... 4 excellent.
        probs: float32 [n, 21], probability of the grades 0, 0.2 ... 4.
        quality_map: float32 [n, 16, 16], the score of each 32×32 patch.
    """

    score: NDArray[np.float32]
    probs: NDArray[np.float32]
    quality_map: NDArray[np.float32]


class Session:
    """A loaded and self-tested bundle.

    Attributes:
        bundle: the bundle's folder.
        manifest: what its manifest says.
        backend: the backend that runs, never ``auto``.
        artifact: the manifest's entry of the file that runs.
        batch: slices per run.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        backend: str = "auto",
        precision: str | None = None,
        *,
        batch: int | None = None,
        threads: int | None = None,
        allow_unverified: bool = False,
    ) -> None:
        """Load a bundle and run its self-test.

        Args:
            bundle: folder made by `clinreadnet export`.
            backend: one of ``BACKENDS``. ``auto`` takes CUDA where ONNX Runtime and the machine
                have it, else the CPU; any other choice runs as asked or not at all.
            precision: precision of the artifact; the most accurate one by default, so that two
                machines give the same scores.
            batch: slices per run, inside the artifact's profile; by default ``CPU_BATCH`` on a
                CPU and the profile's own choice on a GPU.
            threads: CPU threads; all by default.
            allow_unverified: load a bundle that has not passed `clinreadnet verify`.

        Raises:
            InputError: a bundle, backend or precision that cannot be had, saying what to do.
            CheckFailed: the artifact does not reproduce the bundle's golden outputs here.
        """
        if backend not in BACKENDS:
            raise InputError(f"backend {backend!r} is none of {', '.join(BACKENDS)}")
        self.bundle = Path(bundle)
        self.manifest: Manifest = load_manifest(bundle)
        if not self.manifest.verified and not allow_unverified:
            raise InputError(
                f"{self.bundle}: the bundle is not verified; run `clinreadnet verify {self.bundle}`"
            )
        self.artifact: Artifact = _choose_artifact(self.manifest, self.bundle, precision)
        profile = self.artifact.batch
        if batch is not None and not profile.min <= batch <= profile.max:
            raise InputError(
                f"batch {batch} is outside the profile of {self.artifact.file}, "
                f"{profile.min} to {profile.max}"
            )
        content = read_listed(self.bundle, self.artifact)
        self.backend, self._runner = self._start(backend, content, threads)
        usual = CPU_BATCH if self.backend == "onnxruntime-cpu" else profile.opt
        self.batch = batch or min(max(usual, profile.min), profile.max)
        self._self_test()

    def score(self, hu: NDArray[Any]) -> Scores:
        """Score slices, `batch` at a time.

        Args:
            hu: [n, 512, 512], Hounsfield units (not encoded, not windowed), any integer or float
                dtype, finite.

        Returns:
            The scores of the n slices, in order.

        Raises:
            InputError: another shape or dtype, NaN or infinity.
        """
        hu = np.asarray(hu)
        if hu.ndim != 3 or hu.shape[1:] != (SIZE, SIZE):
            raise InputError(
                f"hu has shape {list(hu.shape)}, expected [n, {SIZE}, {SIZE}] Hounsfield units"
            )
        if hu.dtype.kind not in "iuf":
            raise InputError(f"hu has dtype {hu.dtype}, expected integers or floats")
        finite = np.isfinite(hu).all(axis=(1, 2))
        if not finite.all():
            raise InputError(f"hu[{int(np.argmin(finite))}] holds NaN or infinity")
        parts = [self._run(hu[i : i + self.batch]) for i in range(0, len(hu), self.batch)]
        if not parts:
            side = SIZE // 32
            return Scores(
                np.zeros(0, np.float32),
                np.zeros((0, FINE_GRADES), np.float32),
                np.zeros((0, side, side), np.float32),
            )
        return Scores(**{name: np.concatenate([part[name] for part in parts]) for name in OUTPUTS})

    def describe(self) -> dict[str, Any]:
        """Return what runs, ready for JSON."""
        return {
            "bundle": str(self.bundle),
            "clinreadnet_version": self.manifest.clinreadnet_version,
            "preset": self.manifest.model.preset,
            "weights_sha256": self.manifest.model.weights_sha256,
            "verified": self.manifest.verified,
            "backend": self.backend,
            "artifact": self.artifact.file,
            "precision": self.artifact.precision,
            "batch": self.batch,
        }

    def _start(
        self, backend: str, content: bytes, threads: int | None
    ) -> tuple[str, OnnxRuntimeBackend]:
        file = str(self.bundle / self.artifact.file)

        def load(name: str) -> tuple[str, OnnxRuntimeBackend]:
            return name, OnnxRuntimeBackend(
                content, provider=_PROVIDERS[name], threads=threads, file=file
            )

        if backend != "auto":
            return load(backend)
        # Without a GPU the CUDA provider writes its own errors to standard error: do not try it.
        if offers_cuda() and find_gpus():
            try:
                return load("onnxruntime-cuda")
            except InputError:
                pass  # a CUDA or cuDNN library is missing: `auto` may take the next best
        return load("onnxruntime-cpu")

    def _run(self, hu: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Run one batch [n, 512, 512], filled up to the profile's smallest with its last slice."""
        n = len(hu)
        missing = self.artifact.batch.min - n
        if missing > 0:
            hu = np.concatenate([hu, np.repeat(hu[-1:], missing, axis=0)])
        return {name: value[:n] for name, value in self._runner.run(hu[:, None]).items()}

    def _self_test(self) -> None:
        golden = read_golden(self.bundle, self.manifest.golden, first=SELF_TEST_SLICES)
        limit = SELF_TEST_SLACK * BUDGETS[self.artifact.precision]
        outputs = [self._run(hu[None]) for hu in golden["hu"]]
        for name in OUTPUTS:
            error = relative_error(np.concatenate([o[name] for o in outputs]), golden[name])
            if not error <= limit:
                raise CheckFailed(
                    f"{self.bundle / self.artifact.file}: self-test failed on {self.backend}, "
                    f"{name} is off by {error:.1e} (limit {limit:.0e}); run `clinreadnet verify "
                    f"{self.bundle}` here, or choose another --backend"
                )


def _choose_artifact(manifest: Manifest, bundle: Path, precision: str | None) -> Artifact:
    """Return the graph of ``precision``, or the most accurate one."""
    graphs = {a.precision: a for a in manifest.artifacts if a.kind == "onnx"}
    if not graphs:
        raise InputError(
            f"{bundle}: holds no ONNX graph; make one with `clinreadnet export --out {bundle}`"
        )
    if precision is None:
        return min(graphs.values(), key=lambda a: BUDGETS[a.precision])
    for name, artifact in graphs.items():
        if name == precision:
            return artifact
    raise InputError(
        f"{bundle}: no ONNX graph in precision {precision!r}; it holds {', '.join(graphs)}"
    )
