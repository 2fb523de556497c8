"""`clinreadnet simulate`: an LDCTIQA folder, or a DICOM series, of simulated low-dose slices.

Everything an anatomy needs comes from random streams of (seed, anatomy): neither the number of
images asked for nor the number of processes changes an image.

The parts that need numba and scipy are imported when something is simulated, so that the rest of
the package works without them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet import __version__
from clinreadnet.data import ldctiqa
from clinreadnet.errors import InputError
from clinreadnet.output import whole_folder
from clinreadnet.progress import progress_bar

DEGRADATIONS = 12
"""Images of one anatomy: four noise levels times three view counts."""

# Keys of the random streams beside the phantom's own, which are small numbers. Never renumber.
_DEGRADE_STREAM = 1000
_READERS_STREAM = 1001
_SERIES_STREAM = 1002

_PATIENT = 0
_SLICE_SPACING_MM = 5.0
# A series starts within the upper third of the patient, wherever it ends.
_HIGHEST_START = 0.35


@dataclass(frozen=True)
class SimulatedSlice:
    """One degraded slice with its label.

    Attributes:
        hu: ``[512, 512]`` float32 Hounsfield units.
        score: mean of the five simulated readers, a multiple of 0.2 in 0...4.
        votes: the readers' whole grades.
        quality: noiseless quality 0...4 behind the votes.
        noise_level: 0 (highest exposure) ... 3.
        exposure: photons per detector cell.
        views: number of views.
        noise_hu: measured noise in even soft tissue.
        streak_hu: measured sparse-view error.
        edge_loss: measured share of lost edge strength.
    """

    hu: NDArray[np.float32]
    score: float
    votes: tuple[int, ...]
    quality: float
    noise_level: int
    exposure: float
    views: int
    noise_hu: float
    streak_hu: float
    edge_loss: float

    def record(self) -> dict[str, object]:
        """Return everything but the image, ready for JSON."""
        return {
            "score": self.score,
            "votes": list(self.votes),
            "quality": round(self.quality, 4),
            "noise_level": self.noise_level,
            "exposure": round(self.exposure),
            "views": self.views,
            "noise_hu": round(self.noise_hu, 2),
            "streak_hu": round(self.streak_hu, 2),
            "edge_loss": round(self.edge_loss, 4),
        }


@dataclass(frozen=True)
class SimulatedAnatomy:
    """One clean slice and its degraded versions.

    Attributes:
        clean: ``[512, 512]`` float32 Hounsfield units, before projection.
        pixel_mm: width of a pixel in millimetres.
        phase: contrast phase.
        level: place along the patient, 0 liver dome ... 1 lower abdomen.
        slices: for each noise level, each view count: up to twelve.
    """

    clean: NDArray[np.float32]
    pixel_mm: float
    phase: str
    level: float
    slices: tuple[SimulatedSlice, ...]


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _require_simulator() -> None:
    try:
        import numba  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"simulating needs {error.name}, which is not installed; "
            'pip install "clinreadnet[simulate]"'
        ) from error


def simulate_anatomy(seed: int, anatomy: int, count: int = DEGRADATIONS) -> SimulatedAnatomy:
    """Draw one slice, degrade it and have it read.

    Args:
        seed: seed of the whole simulation, not negative.
        anatomy: number of the anatomy, from 0.
        count: how many of the twelve degradations to make; the first ones never depend on it.

    Returns:
        The clean slice with its degraded versions; the same arguments give the same bytes.

    Raises:
        InputError: numba or scipy is not installed.
    """
    _require_simulator()
    from clinreadnet.data import readers
    from clinreadnet.data.degrade import VIEWS, degrade, draw_protocol
    from clinreadnet.data.phantom import draw_phantom

    phantom = draw_phantom(seed, anatomy)
    degraded = degrade(
        phantom,
        draw_protocol(_stream(seed, anatomy, _DEGRADE_STREAM)),
        lambda k: _stream(seed, anatomy, _DEGRADE_STREAM, k),
        range(count),
    )
    ballots = _stream(seed, anatomy, _READERS_STREAM)
    slices = []
    for k, made in enumerate(degraded):
        quality = readers.quality(made.noise_hu, made.streak_hu, made.edge_loss)
        votes = readers.votes(quality, ballots)
        slices.append(
            SimulatedSlice(
                hu=made.hu,
                score=readers.mean_opinion(votes),
                votes=tuple(int(v) for v in votes),
                quality=quality,
                noise_level=k // len(VIEWS),
                exposure=made.exposure,
                views=made.views,
                noise_hu=made.noise_hu,
                streak_hu=made.streak_hu,
                edge_loss=made.edge_loss,
            )
        )
    return SimulatedAnatomy(
        phantom.hu, phantom.pixel_mm, phantom.phase, phantom.level, tuple(slices)
    )


def _write_anatomy(folder: Path, seed: int, count: int, anatomy: int) -> list[dict[str, object]]:
    """Write the images of one anatomy; return their records, each with its file's name."""
    first = anatomy * DEGRADATIONS
    simulated = simulate_anatomy(seed, anatomy, min(DEGRADATIONS, count - first))
    records: list[dict[str, object]] = []
    for k, made in enumerate(simulated.slices):
        name = f"{first + k:04d}.tif"
        ldctiqa.write_tif(folder / ldctiqa.IMAGES_FOLDER / name, made.hu)
        records.append(
            {
                "name": name,
                "anatomy": anatomy,
                "phase": simulated.phase,
                "level": round(simulated.level, 4),
                "pixel_mm": round(simulated.pixel_mm, 4),
                **made.record(),
            }
        )
    return records


def _in_order(work: Callable[[int], Any], items: range, jobs: int) -> Iterator[Any]:
    """Yield ``work(item)`` for each item in order, in ``jobs`` processes."""
    if jobs == 1 or len(items) == 1:
        yield from map(work, items)
        return
    # Spawned, not forked: a parent that has started threads must not be forked.
    # An interrupt is the parent's to handle: it stops the pool, and prints one line.
    pool = ProcessPoolExecutor(
        min(jobs, len(items)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check(count: int, seed: int, jobs: int) -> None:
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("jobs", jobs, 1)):
        if value < least:
            raise InputError(f"--{name} {value}: must be {least} or more")


def simulate_folder(
    out: str | os.PathLike[str], count: int, seed: int, *, jobs: int = 1, force: bool = False
) -> list[float]:
    """Write a simulated LDCTIQA folder: ``image/*.tif``, ``train.json``, ``simulation.json``.

    Args:
        out: folder to create.
        count: number of images; twelve to an anatomy, the last anatomy cut where it must be.
        seed: seed of the simulation; the same seed gives the same bytes.
        jobs: processes.
        force: replace the folder where it exists.

    Returns:
        The scores, in the order of the files.

    Raises:
        InputError: a value out of range, ``out`` exists without ``force``, or numba or scipy is
            not installed.
    """
    _check(count, seed, jobs)
    _require_simulator()
    anatomies = range((count + DEGRADATIONS - 1) // DEGRADATIONS)
    with whole_folder(out, force=force) as folder, progress_bar() as progress:
        (folder / ldctiqa.IMAGES_FOLDER).mkdir()
        task = progress.add_task("simulating slices", total=count)
        images: dict[str, dict[str, object]] = {}
        labels: dict[str, float] = {}
        for records in _in_order(partial(_write_anatomy, folder, seed, count), anatomies, jobs):
            for record in records:
                name = str(record.pop("name"))
                images[name] = record
                labels[name] = float(record["score"])
            progress.advance(task, len(records))
        simulation = {
            "generator": f"clinreadnet {__version__} simulate",
            "note": "simulated phantoms and simulated readers: research use only",
            "seed": seed,
            "count": count,
            "images": images,
        }
        ldctiqa.write_labels(folder, labels, simulation)
    return list(labels.values())


def _write_series_slice(folder: Path, seed: int, count: int, index: int) -> float:
    """Write one slice of a simulated patient; return its noiseless quality."""
    from clinreadnet.data import readers
    from clinreadnet.data.degrade import DEGRADATIONS, degrade, draw_protocol
    from clinreadnet.data.dicom_writer import write_ct_slice
    from clinreadnet.data.phantom import PATIENT_LENGTH_MM, draw_phantom

    choice = _stream(seed, _PATIENT, _SERIES_STREAM)
    degradation = int(choice.integers(DEGRADATIONS))
    protocol = draw_protocol(choice)
    start = float(choice.uniform(0.0, _HIGHEST_START)) * PATIENT_LENGTH_MM
    # A routine 5 mm apart, closer where the patient is too short for that.
    room = (1.0 - _HIGHEST_START) * PATIENT_LENGTH_MM
    spacing = min(_SLICE_SPACING_MM, room / max(count - 1, 1))
    phantom = draw_phantom(seed, _PATIENT, (start + index * spacing) / PATIENT_LENGTH_MM)
    (made,) = degrade(
        phantom,
        protocol,
        lambda k: _stream(seed, _PATIENT, _SERIES_STREAM, index, k),
        [degradation],
    )
    write_ct_slice(
        folder / f"IM{index:04d}.dcm",
        made.hu,
        series=f"{seed}/{spacing:.4f}",
        patient_id=f"SIM{seed}",
        index=index,
        pixel_mm=phantom.pixel_mm,
        spacing_mm=spacing,
    )
    return readers.quality(made.noise_hu, made.streak_hu, made.edge_loss)


def simulate_series(
    out: str | os.PathLike[str], count: int, seed: int, *, jobs: int = 1, force: bool = False
) -> list[float]:
    """Write a simulated DICOM CT series: one patient at one dose, ``IM0000.dcm`` the topmost slice.

    Args:
        out: folder to create.
        count: number of slices; 5 mm apart, or closer where more than 47 must fit the patient.
        seed: draws the patient, the dose and the views; the same seed gives the same bytes.
        jobs: processes.
        force: replace the folder where it exists.

    Returns:
        The noiseless quality 0...4 of each slice.

    Raises:
        InputError: a value out of range, ``out`` exists without ``force``, or numba or scipy is
            not installed.
    """
    _check(count, seed, jobs)
    _require_simulator()
    qualities: list[float] = []
    with whole_folder(out, force=force) as folder, progress_bar() as progress:
        task = progress.add_task("simulating a series", total=count)
        work = partial(_write_series_slice, folder, seed, count)
        for value in _in_order(work, range(count), jobs):
            qualities.append(value)
            progress.advance(task)
    return qualities
