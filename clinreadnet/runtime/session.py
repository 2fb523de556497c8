"""Score slices with a bundle, without PyTorch.

from clinreadnet.runtime import Session

with Session("bundle") as session:
    scores = session.score(hu, pixel_mm=0.7)  # [n, 512, 512], Hounsfield units
    scores.score                # [n], 0 bad ... 4 excellent; research use only
    scores.in_domain            # [n], whether it is an abdomen and like the training data
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.region import Region, find_cells, find_region
from clinreadnet.errors import (
    BackendError,
    DeviceLost,
    InputError,
    OutOfMemory,
    PartialResult,
    SessionClosed,
    Untrusted,
    counted,
    shell_word,
)
from clinreadnet.physics import SliceFigures, measure_figures
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.backends.loading import BACKENDS, SessionOptions, check_backends
from clinreadnet.runtime.bundle.default import find_bundle
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest
from clinreadnet.runtime.bundle.trust import KeyFile
from clinreadnet.runtime.choice import choose
from clinreadnet.runtime.comparison import run_batch
from clinreadnet.runtime.inputs import (
    check_budget,
    check_count,
    check_device,
    check_pixel_mm,
    check_slices,
    check_whole,
    slice_threads,
)
from clinreadnet.runtime.profiling import stage
from clinreadnet.runtime.records import CPU_BACKENDS
from clinreadnet.runtime.scores import Outputs, Scores
from clinreadnet.runtime.stream import Stream
from clinreadnet.runtime.verdict import Verdict

if TYPE_CHECKING:
    from pydicom import Dataset

    from clinreadnet.data.slices import SliceRef, Source


class Session:
    """A loaded and self-tested bundle. A session is thread-safe.

    Attributes:
        bundle: folder of the bundle. It is not read after construction.
        manifest: manifest of the bundle.
        backend: name of the backend.
        artifact: manifest entry of the file that runs.
        verdict: compatibility of that file with this machine: VALID, or SUBOPTIMAL with a reason.
        refused: reason against each other backend that was tried, by name; with ``budget`` by name
            and precision.
        batch: slices per run. It is halved if memory runs out.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        backends: str | Sequence[str] = BACKENDS,
        precision: str | None = None,
        *,
        batch: int | None = None,
        workers: int = 1,
        threads: int | None = None,
        device: int = 0,
        fastest: bool = False,
        budget: float | None = None,
        trusted_keys: Sequence[KeyFile] | None = None,
        not_before: str | None = None,
        allow_unverified: bool = False,
    ) -> None:
        """Load a bundle with the first backend that works here and passes the self-test.

        The self-test runs one golden slice. It runs all golden slices on a GPU, and with OpenVINO,
        if the manifest has no verification record of the artifact for this kind of machine.

        Args:
            bundle: folder of `clinreadnet export`. Default: ``CLINREADNET_BUNDLE`` if set,
                otherwise ``bundle`` in the current folder, otherwise the bundle inside the package.
            backends: names from ``BACKENDS``, tried in this order. With a single name there is no
                fallback.
            precision: precision of the artifact; default the most accurate of a backend.
            batch: slices per run, inside the artifact's profile. Default: 1 on a CPU, the optimum
                of the profile on a GPU.
            workers: number of concurrent runs. On a GPU each has its own stream, buffers and
                context.
            threads: CPU threads per run; default one for each processor, which is also the most
                that the CPU engine uses. In a container, its share of the processors counts.
            device: index of the GPU among the visible ones.
            fastest: load all ``backends`` that work here, time them on golden slices, and keep the
                fastest. Construction takes a few seconds longer.
            budget: with ``fastest``, try every precision of the bundle instead of the most
                accurate, and exclude artifacts with a larger error. The error is the largest
                relative error of an output on the golden slices, recorded for this kind of machine
                or measured now.
            trusted_keys: PEM files of Ed25519 public keys. The bundle must be signed by one of
                them.
            not_before: oldest accepted creation time of the bundle, ISO 8601 such as "2026-01-31"
                (UTC without a zone). The signature of an old bundle never expires.
            allow_unverified: also load a bundle that has not passed `clinreadnet verify`.

        Raises:
            InputError: the bundle or an argument cannot be used.
            BackendUnavailable: no backend can run here. The message gives the reason for each.
            Untrusted: a file of the bundle differs from the manifest or the signature or needs
                another file, or the bundle is too old. It was not loaded.
            CheckFailed: an artifact does not reproduce the bundle's golden outputs on this machine.
        """
        names = check_backends(backends)
        check_count("workers", workers, limits.WORKERS)
        if threads is not None:
            check_count("threads", threads, limits.THREADS)
        if batch is not None:
            check_whole("batch", batch)
        check_device(device)
        if budget is not None:
            check_budget(budget, fastest)
        if device and set(names) <= set(CPU_BACKENDS):
            raise InputError(f"device={device}: {names[0]} runs on no GPU; leave it out")
        if precision is not None and precision not in PRECISIONS:
            raise InputError(f"precision={precision!r}: none of {', '.join(PRECISIONS)}")
        oldest = None if not_before is None else _time("not_before", not_before)
        self.bundle = find_bundle(bundle)
        self.manifest: Manifest = load_manifest(self.bundle, trusted_keys)
        if oldest is not None and _time("created", self.manifest.created) < oldest:
            raise Untrusted(
                f"{self.bundle}: created {self.manifest.created}, not_before={not_before}; "
                "get the newest bundle from its signer"
            )
        if not self.manifest.verified and not allow_unverified:
            raise InputError(
                f"{self.bundle}: the bundle is not verified; "
                f"run `clinreadnet verify {shell_word(self.bundle)}`"
            )
        options = SessionOptions(precision, batch, workers, threads, device, fastest, budget)
        loaded, self.refused = choose(self.bundle, self.manifest, names, options)
        self._loaded, self._backend = loaded, loaded.backend
        self._device = None if loaded.name in CPU_BACKENDS else device
        # If the caller does not close the session, free it before CUDA's modules are unloaded.
        self._free = weakref.finalize(self, loaded.backend.close)
        self.backend: str = loaded.name
        self.artifact: Artifact = loaded.artifact
        self.verdict: Verdict = loaded.verdict
        self.batch: int = loaded.batch
        self._slots = threading.Semaphore(workers)
        self._workers, self._threads = workers, threads
        self._closing = threading.Lock()
        self._closed = False

    def score(
        self,
        hu: NDArray[Any] | Dataset | Sequence[Dataset],
        pixel_mm: float | Sequence[float | None] | None = None,
        *,
        regions: bool = True,
        figures: bool = False,
        checked: bool = False,
    ) -> Scores:
        """Score slices, `batch` at a time.

        If memory runs out, the batch is halved. The call fails only if the smallest allowed batch
        does not fit.

        Args:
            hu: [n, 512, 512] with n >= 1, or a slice [512, 512]: finite Hounsfield units (not
                encoded, not windowed) of any integer or float dtype. Or one or more CT datasets of
                pydicom, whose stored values are rescaled and checked like those of a file.
            pixel_mm: width of a pixel in mm, a number or [n]. Without it, the body part is less
                reliable. Datasets state their own.
            regions: whether to classify the body part of each slice. Without it only ``novelty``
                marks slices, which misses most heads and chests.
            figures: whether to measure noise, size and other figures of each slice, which takes a
                few milliseconds. Without ``pixel_mm`` most of them are None. Of 16 slices or
                more, regions and figures are computed on threads while the network runs.
            checked: whether all slices are from `SliceRef.load` or `load_compact`, which check
                their values.

        Returns:
            The scores of the n slices, in order.

        Raises:
            InputError: shape or dtype is wrong, there is no slice, a value is NaN or infinite,
                ``pixel_mm`` is not positive, or a dataset is no CT slice.
            PartialResult: some slices failed. It contains the scores of the others.
            BackendError: all slices failed: `OutOfMemory`, `DeviceLost`, or another error of the
                backend.
            SessionClosed: the session is closed.
        """
        images: Any = hu
        if datasets := _datasets(hu):
            from clinreadnet.data.slices import find_slices

            slices = [ref for dataset in datasets for ref in find_slices([dataset])]
            images, checked = np.stack([ref.load_compact() for ref in slices]), True
            pixel_mm = [ref.loaded_mm for ref in slices] if pixel_mm is None else pixel_mm
        images = check_slices(images, values=not checked)
        sizes = check_pixel_mm(pixel_mm, len(images))
        if not regions and not figures:
            return self._run_all(images).scores(None, None)
        look = partial(_look, regions=regions, figures=figures)
        with slice_threads(len(images), self._threads) as each_slice:
            looks = each_slice(look, images, sizes)
            ran = self._run_all(images)
            with stage(f"look at {len(images)} slices"):
                shown, measured = zip(*looks, strict=True)
        return ran.scores(shown if regions else None, measured if figures else None)

    def score_files(
        self,
        paths: Source | Iterable[Source],
        *,
        resample: bool = False,
        figures: bool = False,
    ) -> tuple[list[SliceRef], Scores]:
        """Score the CT slices in files and folders, like `clinreadnet score`.

        Args:
            paths: one or more files or folders: DICOM, LDCTIQA ``.tif``, ``.npy`` (HU), ``.mha``.
                A CT dataset of pydicom counts as a file.
            resample: accept sizes other than 512x512.
            figures: as in `score`.

        Returns:
            The n slices in the order of `find_slices`, and their n scores.

        Raises:
            InputError: a path is missing or contains no CT slice, or a slice is damaged.
            BackendError, SessionClosed: as in `score`.
        """
        from pydicom import Dataset  # not needed for arrays

        from clinreadnet.data.slices import find_slices

        several: Any = [paths] if isinstance(paths, str | os.PathLike | Dataset) else paths
        slices = find_slices(several, resample=resample)
        parts: list[Scores] = []
        start = 0
        while start < len(slices):
            batch = slices[start : start + self.batch]
            hu = np.stack([ref.load_compact() for ref in batch])
            sizes = [ref.loaded_mm for ref in batch]
            parts.append(self.score(hu, sizes, figures=figures, checked=True))
            start += len(batch)
        return slices, Scores.concatenate(parts)

    def score_checked(
        self,
        hu: NDArray[Any],
        shown: Sequence[Region] | None,
        figures: Sequence[SliceFigures] | None = None,
        *,
        fill: bool = False,
    ) -> Scores:
        """Score slices without the checks of `score`.

        Args:
            hu: [n, 512, 512], checked by `clinreadnet.runtime.inputs.check_slices`.
            shown: body part of each slice; None if not computed.
            figures: figures of each slice; None if not measured.
            fill: whether to fill the last batch with copies of the last slice.
        """
        return self._run_all(hu, fill=fill).scores(shown, figures)

    def _run_all(self, hu: NDArray[Any], *, fill: bool = False) -> _Ran:
        """Run checked slices, `batch` at a time."""
        ran = _Ran(len(hu), self.manifest.model.novelty_threshold)
        start = 0
        while start < len(hu):
            stop = min(start + self.batch, len(hu))
            try:
                ran.parts.append(self._run(hu[start:stop], self.batch if fill else 1))
                ran.done += range(start, stop)
            except OutOfMemory as error:
                smaller = max((stop - start) // 2, self.artifact.batch.min)
                if smaller < stop - start:
                    self.batch = min(self.batch, smaller)
                    continue
                ran.failure = error
            except DeviceLost as error:
                ran.failure = error
                break
            except BackendError as error:
                ran.failure = error
            start = stop
        return ran

    def stream(self, capacity: int = 16, *, fixed_batch: bool = False) -> Stream:
        """Return a stream for a scanner that delivers one slice at a time.

        Args:
            capacity: length of the queue. `Stream.put` blocks while it is full.
            fixed_batch: always run `batch` slices, filled with copies of the last. Results are then
                bitwise reproducible. Otherwise their last bits depend on the number of waiting
                slices.

        Raises:
            InputError: ``capacity`` is not 1 ... ``limits.CAPACITY``.
            SessionClosed: the session is closed.
        """
        if self._closed:
            raise SessionClosed(_CLOSED)
        check_count("capacity", capacity, limits.CAPACITY)
        return Stream(self, capacity, fixed_batch=fixed_batch)

    def describe(self) -> dict[str, Any]:
        """Return the backend, artifact and weights in use as plain JSON values.

        ``verified_here`` is the date of the record that the artifact passed on this kind of GPU or
        processor, or null. ``self_test_slices`` is the number of golden slices in the self-test.
        ``device`` is the index of the GPU; null on a CPU. ``backend_notes`` lists deviations from
        the default execution, such as running without a CUDA graph. ``unjudged`` is the reason why
        slices cannot be classified as in domain; null if they can.
        """
        record = self._loaded.record
        ran = None if record is None else record.ran_on
        return {
            "bundle": str(self.bundle),
            "clinreadnet_version": self.manifest.clinreadnet_version,
            "preset": self.manifest.model.preset,
            "weights_sha256": self.manifest.model.weights_sha256,
            "verified": self.manifest.verified,
            "backend": self.backend,
            "refused": dict(self.refused),
            "artifact": self.artifact.file,
            "precision": self.artifact.precision,
            "verdict": self.verdict.validity.name,
            "verdict_reason": self.verdict.reason,
            "verified_here": None if ran is None else ran.date,
            "self_test_slices": self._loaded.self_tested,
            "device": self._device,
            "batch": self.batch,
            "backend_notes": list(getattr(self._backend, "notes", ())),
            "novelty_threshold": self.manifest.model.novelty_threshold,
            "unjudged": self.manifest.unjudged,
        }

    def close(self) -> None:
        """Free the backend after active calls have ended. Closing twice is allowed."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            for _ in range(self._workers):
                self._slots.acquire()
            self._free()
            self._slots.release(self._workers)

    def __reduce__(self) -> NoReturn:
        """Raise TypeError. A copy would free the backend of the original."""
        raise TypeError("a Session cannot be copied or pickled; make another from its bundle")

    def __enter__(self) -> Self:
        """Return the session; leaving the block closes it."""
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, hu: NDArray[Any], least: int) -> Outputs:
        with self._slots:
            if self._closed:
                raise SessionClosed(_CLOSED)
            with stage(f"run {len(hu)} slices"):
                return run_batch(self._backend.run, hu, max(least, self.artifact.batch.min))


@dataclass
class _Ran:
    """Outputs of a call, and the slices that failed."""

    n: int
    threshold: float | None
    parts: list[Outputs] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    """Slices with outputs, in order."""
    failure: BackendError | None = None

    def scores(
        self, shown: Sequence[Region] | None, figures: Sequence[SliceFigures] | None
    ) -> Scores:
        """Return the scores with the body part and the figures of each of the n slices.

        Raises:
            PartialResult: some slices failed.
            BackendError: all slices failed.
        """
        if self.failure is None:
            return Scores.join(self.parts, self.threshold, shown, figures)
        if not self.done:
            raise self.failure
        failed = sorted(set(range(self.n)) - set(self.done))
        raise PartialResult(
            f"{counted(len(failed), 'slice', self.n, verb='was')} not scored, the first is "
            f"hu[{failed[0]}]: {self.failure}",
            Scores.join(
                self.parts,
                self.threshold,
                None if shown is None else [shown[i] for i in self.done],
                None if figures is None else [figures[i] for i in self.done],
            ),
            self.done,
            failed,
        ) from self.failure


def _look(
    hu: NDArray[Any], pixel_mm: float | None, *, regions: bool, figures: bool
) -> tuple[Region | None, SliceFigures | None]:
    """Return the body part and the figures of a slice; None where they are not wanted."""
    cells = find_cells(hu) if figures else None
    return (
        find_region(hu, pixel_mm, cells) if regions else None,
        measure_figures(hu, pixel_mm, cells) if figures else None,
    )


def _datasets(given: Any) -> list[Dataset]:
    """Return the datasets of pydicom that are given, one or several; none of anything else."""
    pydicom = sys.modules.get("pydicom")  # not imported here: arrays do not need it
    if pydicom is None:
        return []
    if isinstance(given, pydicom.Dataset):
        return [given]
    some = isinstance(given, list | tuple) and given
    return list(given) if some and all(isinstance(item, pydicom.Dataset) for item in given) else []


def _time(name: str, value: str) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InputError(f"{name}={value!r}: not a time such as 2026-01-31T12:00:00Z") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


_CLOSED = "the session is closed; make another"
