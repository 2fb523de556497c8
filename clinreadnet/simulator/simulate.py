"""`clinreadnet simulate`: an LDCTIQA folder, or a DICOM series, of simulated low-dose slices.

The random streams of an anatomy depend only on (seed, anatomy): an image does not depend on the
number of images or processes.

numba and scipy are imported on first use, so that the rest of the package works without them.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clinreadnet._version import __version__
from clinreadnet.console import progress_bar, status
from clinreadnet.data import ldctiqa, tif
from clinreadnet.data.region import OUTSIDE, find_region, with_header
from clinreadnet.data.slices import SliceRef
from clinreadnet.data.tiles import write_tiles
from clinreadnet.errors import InputError
from clinreadnet.files import check_output_folder, whole_folder

if TYPE_CHECKING:
    from clinreadnet.simulator.clean import CleanSlice
    from clinreadnet.simulator.metal import Metal
    from clinreadnet.simulator.scan import Degradation

DEGRADATIONS = 16
"""Images of one anatomy: four noise levels times three view counts, and four denoised copies."""

# Keys of further random streams; those of the phantom are small numbers. Do not renumber.
_DEGRADE_STREAM = 1000
_RADIOLOGISTS_STREAM = 1001
_SERIES_STREAM = 1002
_VARIANT_STREAM = 1003
_WIDE_STREAM = 1004

STANDARD, WIDE = BREADTHS = ("standard", "wide")
"""What the images of a folder vary: `clinreadnet.simulator.breadth` describes wide data."""

_PACKAGES = {"skimage": "scikit-image"}

_IMAGE_BYTES = 2**20 + 4096  # float32, with its tiles and labels
_SLICE_BYTES = 2**19 + 4096  # int16, with its header

_PATIENT = 0
_SLICE_SPACING_MM = 5.0
# A series starts in the upper third of the patient.
_HIGHEST_START = 0.35


@dataclass(frozen=True)
class SimulatedSlice:
    """A degraded slice with its label.

    Attributes:
        score: mean of the five simulated radiologists, a multiple of 0.2 in 0...4.
        votes: integer grades of the radiologists.
        quality: noiseless quality 0...4 behind the votes.
        noise_level: 0 (highest exposure) ... 3; that of the source for a denoised copy.
        made: the degradation with its measurements.
    """

    score: float
    votes: tuple[int, ...]
    quality: float
    noise_level: int
    made: Degradation

    @property
    def hu(self) -> NDArray[np.float32]:
        """The image, ``[512, 512]`` float32 Hounsfield units."""
        return self.made.hu

    def record(self) -> dict[str, object]:
        """Return all fields except the image as plain JSON values."""
        return {
            "score": self.score,
            "votes": list(self.votes),
            "quality": round(self.quality, 4),
            "noise_level": self.noise_level,
            "exposure": round(self.made.exposure) if math.isfinite(self.made.exposure) else None,
            "views": self.made.views,
            "noise_hu": round(self.made.noise_hu, 2),
            "streak_hu": round(self.made.streak_hu, 2),
            "edge_loss": round(self.made.edge_loss, 4),
            "detail_loss": round(self.made.detail_loss, 4),
            "denoiser": self.made.denoiser,
        }


@dataclass(frozen=True)
class SimulatedAnatomy:
    """A clean slice and its degraded versions.

    Attributes:
        clean: the slice before projection.
        slices: up to sixteen degradations: scans by noise level and view count, then denoised
            copies.
        wide: what was drawn beyond the standard draws; empty for standard data.
    """

    clean: CleanSlice
    slices: tuple[SimulatedSlice, ...]
    wide: Mapping[str, object] = field(default_factory=dict)


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _require_simulator() -> None:
    try:
        import numba  # noqa: F401
        import scipy  # noqa: F401
        import skimage  # noqa: F401
    except ImportError as error:
        package = _PACKAGES.get(str(error.name), error.name)
        raise InputError(
            f"simulating needs {package}, which is not installed; "
            'run `pip install "clinreadnet[simulate]"`'
        ) from error


def simulate_anatomy(
    seed: int,
    anatomy: int,
    count: int = DEGRADATIONS,
    clean: CleanSlice | None = None,
    device: str = "cpu",
    *,
    original: bool = False,
    breadth: str = STANDARD,
) -> SimulatedAnatomy:
    """Draw a slice, degrade it and simulate its labels.

    Args:
        seed: seed of the whole simulation, not negative.
        anatomy: number of the anatomy, from 0.
        count: number of degradations, up to sixteen. It does not affect the first ones.
        clean: the slice to degrade instead of a drawn one.
        device: "cpu", or a device of PyTorch for the projections.
        original: use the slice without a simulated scan as the first degradation. It gets no metal.
        breadth: one of `BREADTHS`.

    Returns:
        The clean slice with its degraded versions. The result depends only on the arguments.

    Raises:
        InputError: numba, scipy or scikit-image is not installed.
    """
    _require_simulator()
    from clinreadnet.simulator import radiologists
    from clinreadnet.simulator.breadth import draw_wide
    from clinreadnet.simulator.phantom.draw import draw_phantom
    from clinreadnet.simulator.scan import VIEWS, degrade, draw_protocol

    protocol = draw_protocol(_stream(seed, anatomy, _DEGRADE_STREAM))
    metal: Metal | None = None
    wide: dict[str, object] = {}
    if breadth == WIDE:
        drawn = draw_wide(clean, protocol, seed, anatomy, _stream(seed, anatomy, _WIDE_STREAM))
        if original:
            drawn = replace(drawn, metal=None)
        clean, protocol, metal, wide = drawn.clean, drawn.protocol, drawn.metal, drawn.record()
    clean = clean or draw_phantom(seed, anatomy)
    degraded = degrade(
        clean,
        protocol,
        lambda k: _stream(seed, anatomy, _DEGRADE_STREAM, k),
        range(count),
        device,
        original=original,
        metal=metal,
    )
    ballots = _stream(seed, anatomy, _RADIOLOGISTS_STREAM)
    slices: list[SimulatedSlice] = []
    for k, made in enumerate(degraded):
        quality = float(radiologists.quality(*made.measured))
        shown = k if made.source is None else made.source
        if made.source is not None:
            quality = radiologists.copy_quality(quality, slices[made.source].quality)
        votes = radiologists.votes(quality, ballots)
        slices.append(
            SimulatedSlice(
                score=radiologists.mean_opinion(votes),
                votes=tuple(int(v) for v in votes),
                quality=quality,
                noise_level=shown // len(VIEWS),
                made=made,
            )
        )
    return SimulatedAnatomy(clean, tuple(slices), wide)


def _patients(scanned: Sequence[SliceRef]) -> list[int]:
    """Return a number for the patient of each slice, the same for slices of one patient."""
    import pydicom

    first: dict[str, int] = {}
    numbers = []
    for index, ref in enumerate(scanned):
        patient = ""
        if ref.pixel_mm is not None:  # a DICOM file
            header = pydicom.dcmread(ref.path, stop_before_pixels=True, specific_tags=["PatientID"])
            patient = str(header.get("PatientID", ""))
        patient = patient or f"slice {index}"
        numbers.append(first.setdefault(patient, len(first)))
    return numbers


@dataclass(frozen=True)
class _Made:
    """A written image: its record, and the quality and weight of its tiles."""

    record: dict[str, object]
    tiles: tuple[NDArray[np.float32], NDArray[np.float32]]


def _clean_slice(ref: SliceRef, variant: int, rng: np.random.Generator) -> CleanSlice:
    """Read a scanned slice. Variants above 0 are other views of it."""
    from clinreadnet.simulator.clean import scanned_slice
    from clinreadnet.simulator.vary import move_slice, vary_slice

    assert ref.pixel_mm is not None, "checked by check_scanned"
    clean = scanned_slice(ref.load(), ref.pixel_mm)
    if variant > 0:
        columns = np.nonzero(clean.body.any(axis=0))[0]
        width = float(np.ptp(columns) + 1) * ref.pixel_mm if columns.size else 0.0
        if variant % 2 == 1:  # unchanged pixel values, to keep the noise of the scanner
            clean = scanned_slice(move_slice(clean.hu, rng), ref.pixel_mm)
        else:
            clean = scanned_slice(*vary_slice(clean.hu, ref.pixel_mm, width, rng))
    if not clean.tissue.any():
        raise InputError(f"{ref.name}: no even soft tissue to measure noise in; leave it out")
    return clean


def _write_anatomy(
    folder: Path,
    seed: int,
    count: int,
    scanned: Sequence[SliceRef],
    groups: Sequence[int],
    variants: int,
    device: str,
    breadth: str,
    anatomy: int,
) -> dict[str, _Made]:
    """Write the images of an anatomy; return their records by file name."""
    from clinreadnet.simulator.phantom.draw import Phantom

    def name(k: int) -> str:
        return f"{first + k:04d}.tif"

    first = anatomy * DEGRADATIONS
    clean, variant = None, 0
    if scanned:
        number, variant = divmod(anatomy, variants)
        ref = scanned[number]
        clean = _clean_slice(ref, variant, _stream(seed, anatomy, _VARIANT_STREAM))
    simulated = simulate_anatomy(
        seed,
        anatomy,
        min(DEGRADATIONS, count - first),
        clean,
        device,
        original=variant % 2 == 1,
        breadth=breadth,
    )
    about: dict[str, object] = {"anatomy": anatomy}
    if isinstance(simulated.clean, Phantom):
        about |= {"phase": simulated.clean.phase, "level": round(simulated.clean.level, 4)}
    else:
        about |= {"slice": Path(ref.name).name, "variant": variant, "group": groups[number]}
        about["own_noise_hu"] = round(simulated.clean.own_noise_hu, 2)
    about |= {"pixel_mm": round(simulated.clean.pixel_mm, 4), **simulated.wide}
    made: dict[str, _Made] = {}
    for k, simulated_slice in enumerate(simulated.slices):
        tif.write_tif(folder / ldctiqa.IMAGES_FOLDER / name(k), simulated_slice.hu)
        source = simulated_slice.made.source
        from_name = None if source is None else name(source)
        tiles = simulated_slice.made.tiles
        made[name(k)] = _Made(
            {**about, **simulated_slice.record(), "denoised_from": from_name},
            (tiles.quality, tiles.weight),
        )
    return made


def _in_order(work: Callable[[int], Any], items: range, jobs: int) -> Iterator[Any]:
    """Yield ``work(item)`` for each item in order, in ``jobs`` processes."""
    if jobs == 1 or len(items) == 1:
        yield from map(work, items)
        return
    # Spawn, because a process with threads must not be forked.
    context = multiprocessing.get_context("spawn")
    alive, held = context.Pipe(duplex=False)
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        min(jobs, len(items)), mp_context=context, initializer=_end_with_parent, initargs=(alive,)
    )
    try:
        yield from pool.map(work, items)
    except BaseException:
        # After an interrupt, do not wait until the workers finish their slices.
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        held.close()
        alive.close()


def _end_with_parent(alive: Connection) -> None:
    """Ignore interrupts in a worker, and end it with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        alive.poll(None)  # returns when the parent closes its end or dies
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _check(count: int, seed: int, jobs: int) -> None:
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("jobs", jobs, 1)):
        if value < least:
            raise InputError(f"{name}={value}: must be {least} or more")


def check_scanned(scanned: Sequence[SliceRef], *, any_part: bool = False) -> None:
    """Check that slices can be degraded.

    Args:
        scanned: slices from `find_slices`.
        any_part: accept slices that show no abdomen.

    Raises:
        InputError: a slice cannot be read or lacks pixel spacing; without ``any_part``, a slice
            would not be graded, because it shows no abdomen or its values are not HU.
    """
    foreign: list[str] = []
    for ref in scanned:
        if ref.pixel_mm is None:
            raise InputError(f"{ref.name}: does not state its pixel spacing; give DICOM slices")
        if any_part:
            continue
        region = with_header(find_region(ref.load(), ref.loaded_mm), ref.hint)
        if region.answer == OUTSIDE:
            foreign.append(f"{ref.name}: shows no abdomen ({region.reason})")
    if len(foreign) > 1:
        foreign[0] += f", like {len(foreign) - 1} more of {len(scanned)} slices"
    if foreign:
        what = "it" if len(foreign) == 1 else "them"
        raise InputError(f"{foreign[0]}; leave {what} out, or give any_part=True")


def _device(name: str) -> str:
    """Return "cpu" or "cuda" for "cpu", "cuda" or "auto"."""
    if name not in ("cpu", "cuda", "auto"):
        raise InputError(f"device={name}: choose cpu, cuda or auto")
    if name == "cpu":
        return name
    try:
        import torch
    except ImportError:
        usable = False
    else:
        usable = torch.cuda.is_available()
    if name == "cuda" and not usable:
        raise InputError("device=cuda: PyTorch finds no CUDA device here; use device=cpu")
    return "cuda" if usable else "cpu"


def simulate_folder(
    out: str | os.PathLike[str],
    count: int | None,
    seed: int,
    *,
    scanned: Sequence[SliceRef] = (),
    variants: int = 1,
    device: str = "cpu",
    breadth: str = STANDARD,
    any_part: bool = False,
    jobs: int = 1,
    force: bool = False,
) -> list[float]:
    """Write a simulated LDCTIQA folder.

    It holds ``image/*.tif``, ``train.json``, ``simulation.json`` and ``tiles.npz``.

    Args:
        out: folder to create.
        count: number of images, sixteen per anatomy; the last anatomy can have fewer. None uses all
            of ``scanned``.
        seed: seed of the simulation.
        scanned: slices to degrade instead of drawn ones, DICOM of 512x512 pixels.
        variants: views of each scanned slice: the slice, then alternately the moved slice (its
            first image without a simulated scan) and the slice with another field of view and
            position.
        device: "cpu", "cuda", or "auto" for CUDA if available.
        breadth: one of `BREADTHS`; recorded in ``simulation.json`` unless it is "standard".
        any_part: as in `check_scanned`.
        jobs: number of processes.
        force: replace the folder if it exists.

    Returns:
        The scores, in the order of the files.

    Raises:
        InputError: a value is out of range, the device does not exist, ``scanned`` gives fewer
            images, `check_scanned` refuses a slice, ``out`` exists without ``force``, or numba,
            scipy or scikit-image is not installed.
    """
    if breadth not in BREADTHS:
        raise InputError(f"breadth={breadth}: choose {' or '.join(BREADTHS)}")
    if variants < 1:
        raise InputError(f"variants={variants}: must be 1 or more")
    if variants > 1 and not scanned:
        raise InputError("`variants` needs slices to vary: give `anatomy`")
    most = DEGRADATIONS * len(scanned) * variants
    if count is None:
        if not scanned:
            raise InputError("the number of images to simulate is missing; give `count`")
        count = most
    _check(count, seed, jobs)
    if scanned and count > most:
        raise InputError(f"count={count}: {len(scanned)} slices give {most} images")
    _require_simulator()
    where = _device(device)
    inputs = [ref.path for ref in scanned]
    check_output_folder(out, force=force, inputs=inputs, size=count * _IMAGE_BYTES)
    anatomies = range((count + DEGRADATIONS - 1) // DEGRADATIONS)
    with status("Reading the slices"):
        used = scanned[: math.ceil(len(anatomies) / variants)]
        check_scanned(used, any_part=any_part)
    with whole_folder(out, force=force) as folder, progress_bar() as progress:
        (folder / ldctiqa.IMAGES_FOLDER).mkdir()
        task = progress.add_task("simulating slices", total=count)
        images: dict[str, _Made] = {}
        groups = _patients(scanned)
        write = partial(
            _write_anatomy, folder, seed, count, tuple(scanned), groups, variants, where, breadth
        )
        for made in _in_order(write, anatomies, jobs):
            images |= made
            progress.advance(task, len(made))
        labels = {name: float(str(made.record["score"])) for name, made in images.items()}
        what = "scanned slices" if scanned else "simulated phantoms"
        simulation = {
            "generator": f"clinreadnet {__version__} simulate",
            "note": f"{what}, simulated scans and simulated radiologists: research use only",
            "seed": seed,
            "count": count,
            # Standard data is recorded as before there was a choice.
            **({} if breadth == STANDARD else {"breadth": breadth}),
            "images": {name: made.record for name, made in images.items()},
        }
        ldctiqa.write_labels(folder, labels, simulation)
        write_tiles(folder, {name: made.tiles for name, made in images.items()})
    return list(labels.values())


def _write_series_slice(folder: Path, seed: int, count: int, index: int) -> float:
    """Write one slice of a simulated patient; return its noiseless quality."""
    from clinreadnet.simulator import radiologists
    from clinreadnet.simulator.dicom_writer import write_ct_slice
    from clinreadnet.simulator.phantom.draw import draw_phantom
    from clinreadnet.simulator.phantom.painter import PATIENT_LENGTH_MM
    from clinreadnet.simulator.scan import SCANS, degrade, draw_protocol

    choice = _stream(seed, _PATIENT, _SERIES_STREAM)
    degradation = int(choice.integers(SCANS))
    protocol = draw_protocol(choice)
    start = float(choice.uniform(0.0, _HIGHEST_START)) * PATIENT_LENGTH_MM
    # 5 mm, or less if the patient is too short.
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
    return float(radiologists.quality(*made.measured))


def simulate_series(
    out: str | os.PathLike[str], count: int, seed: int, *, jobs: int = 1, force: bool = False
) -> list[float]:
    """Write a simulated DICOM CT series: one patient at one dose, ``IM0000.dcm`` the topmost slice.

    Args:
        out: folder to create.
        count: number of slices, 5 mm apart; closer if there are more than 47.
        seed: seed of patient, dose and number of views.
        jobs: number of processes.
        force: replace the folder if it exists.

    Returns:
        The noiseless quality 0...4 of each slice.

    Raises:
        InputError: a value is out of range, ``out`` exists without ``force``, or numba, scipy or
            scikit-image is not installed.
    """
    _check(count, seed, jobs)
    _require_simulator()
    check_output_folder(out, force=force, size=count * _SLICE_BYTES)
    qualities: list[float] = []
    with whole_folder(out, force=force) as folder, progress_bar() as progress:
        task = progress.add_task("simulating a series", total=count)
        work = partial(_write_series_slice, folder, seed, count)
        for value in _in_order(work, range(count), jobs):
            qualities.append(value)
            progress.advance(task)
    return qualities
