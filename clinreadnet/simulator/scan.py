"""Simulate low-dose and sparse-view degradation of a slice in its sinogram.

As in the LDCTIQAC 2023 challenge, a slice has twelve degradations: four noise levels times three
view counts. They share a forward projection; sparse scans use every third or sixth view. Four
denoised copies are added.

Counts behind the patient are Poisson, ``N ~ Poisson(I0 exp(-p)) + Normal(0, 10)``, with the line
integral ``p`` of ``mu = mu_water (1 + HU / 1000)``. ``I0`` follows from the patient, the kernel and
the requested noise, like the exposure control of a scanner.

The kernel is part of the protocol and does not count as loss. Edges and detail are lost only by
denoising, relative to the noise-free image of the same kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clinreadnet.simulator import projector
from clinreadnet.simulator.clean import CleanSlice, Float32
from clinreadnet.simulator.denoise import DENOISERS
from clinreadnet.simulator.kernel import REFERENCE, Kernel, draw_kernel
from clinreadnet.simulator.measure import Detail, TileQuality, Tiles
from clinreadnet.simulator.metal import Metal, average_starved
from clinreadnet.spec import HU_MIN, HU_RANGE

MU_WATER_PER_MM = 0.0205
"""Attenuation of water at the effective energy of a 120 kV beam."""

VIEWS = (720, 240, 120)
"""View counts over half a turn, most first; each divides the first."""

NOISE_LEVELS = (14.0, 27.0, 38.0, 48.0)
"""Requested noise in HU at the largest view count, lowest first. A third of the views has 1.7 times
the noise, a sixth 2.4 times."""

SCANS = len(NOISE_LEVELS) * len(VIEWS)
"""Simulated scans of one slice."""

COPIES = ("nlm", "bilateral", "nlm", "bilateral")
"""Denoiser of each denoised copy among the degradations of a slice."""

DEGRADATIONS = SCANS + len(COPIES)
"""Degraded versions of one slice."""

ELECTRONIC_NOISE = 10.0
"""Standard deviation of the electronic noise in counts."""

FEWEST_PHOTONS = 25.0
"""Least number of photons at a detector cell behind the thickest path, for nine tenths of the
views. With fewer, photon starvation causes streaks."""

# Standard deviation of each noise level in log units, so that noise is continuous. The lowest level
# reaches from the cleanest routine slices to the next level.
_NOISE_SPREAD = (0.45, 0.33, 0.33, 0.33)


@dataclass(frozen=True)
class Protocol:
    """Noise and reconstruction of a scan.

    Attributes:
        noise_hu: requested noise at the largest view count for each noise level, lowest first.
        kernel: the reconstruction kernel.
        views: three view counts over half a turn, most first; each divides the first.
        denoisers: the denoiser of each of the four denoised copies.
    """

    noise_hu: tuple[float, ...] = NOISE_LEVELS
    kernel: Kernel = REFERENCE
    views: tuple[int, ...] = VIEWS
    denoisers: tuple[str, ...] = COPIES


def draw_protocol(rng: np.random.Generator) -> Protocol:
    """Draw a kernel, and noise levels around :data:`NOISE_LEVELS`."""
    kernel = draw_kernel(rng)
    jitter = np.exp(rng.normal(0.0, _NOISE_SPREAD))
    return Protocol(tuple(sorted((np.asarray(NOISE_LEVELS) * jitter).tolist())), kernel)


@dataclass(frozen=True)
class Degradation:
    """A degraded slice and its measurements.

    Attributes:
        hu: ``[n, n]`` float32 Hounsfield units.
        exposure: photons per detector cell before the patient; infinite for a scanned slice without
            a simulated scan.
        views: number of views.
        noise_hu: standard deviation of the random error in even soft tissue, including the original
            noise of a scanned slice.
        streak_hu: root mean square error of missing views, and of metal, in the body.
        edge_loss: lost share (0...1) of the slope of strong edges, relative to the noise-free
            reconstruction of the kernel.
        detail_loss: lost share (0...1) of the slope of faint structure.
        denoiser: a name of `denoise.DENOISERS`, or None.
        source: number of the degradation that was denoised, or None.
        tiles: the quality of each 32x32 tile.
    """

    hu: Float32
    exposure: float
    views: int
    noise_hu: float
    streak_hu: float
    edge_loss: float
    detail_loss: float
    denoiser: str | None = None
    source: int | None = None
    tiles: TileQuality = field(kw_only=True, compare=False, repr=False)

    @property
    def measured(self) -> tuple[float, float, float, float]:
        """Noise, streaks, lost edges and lost detail, as `radiologists.quality` takes them."""
        return self.noise_hu, self.streak_hu, self.edge_loss, self.detail_loss


def attenuation_per_pixel(hu: Float32, pixel_mm: float) -> Float32:
    """Return the attenuation per pixel width ``[n, n]``, at least that of air."""
    scale = np.float32(MU_WATER_PER_MM * pixel_mm)
    return np.asarray(np.maximum(1 + hu * np.float32(1e-3), 0) * scale, np.float32)


def add_noise(
    sinogram: Float32, exposure: float, rng: np.random.Generator, *, average: bool = False
) -> Float32:
    """Return noisy line integrals, the shape of ``sinogram``.

    Args:
        sinogram: ``[views, n]`` float32 noise-free line integrals.
        exposure: photons per detector cell before the patient.
        rng: source of the noise.
        average: average rays of few photons with their neighbours.
    """
    counts = rng.poisson(exposure * np.exp(-sinogram.astype(np.float64))).astype(np.float64)
    counts += rng.normal(0.0, ELECTRONIC_NOISE, counts.shape)
    if average:
        counts = average_starved(counts)
    # At least one count, because the logarithm of 0 is infinite.
    return np.asarray(math.log(exposure) - np.log(np.maximum(counts, 1.0)), np.float32)


def exposure_for(noise_hu: float, sinogram: Float32, window: Float32, scale: float) -> float:
    """Return the photons per detector cell that give approximately the requested noise.

    Rays with more than half the thickest path of their view are weighted by the excess: they cross
    the middle of the body, where noise is measured.

    Args:
        noise_hu: noise in HU.
        sinogram: ``[views, n]`` float32 line integrals.
        window: the kernel's window for FFTs of ``filter_length(n)``.
        scale: HU for each unit of the reconstruction.
    """
    views, size = sinogram.shape
    length = projector.filter_length(size)
    filtered = projector.channel_filters(length, 1, window)[0].astype(np.float64)
    # Mean power response of linear interpolation between two cells, by frequency.
    frequency = np.arange(len(filtered)) / length
    power = filtered**2 * (2 + np.cos(2 * math.pi * frequency)) / 3
    gain = (math.pi * scale / 2) ** 2 / views * (2 * power.sum() - power[0]) / length
    path = sinogram.astype(np.float64)
    weight = np.maximum(path - 0.5 * path.max(axis=1, keepdims=True), 0)
    first = float(np.average(np.exp(path), weights=weight + 1e-9))
    second = float(np.average(np.exp(2 * path), weights=weight + 1e-9)) * ELECTRONIC_NOISE**2
    # noise^2 = gain (first / I0 + second / I0^2)
    half = gain * first / 2
    asked = (half + math.sqrt(half**2 + gain * second * noise_hu**2)) / noise_hu**2
    thickest = float(np.quantile(path.max(axis=1), 0.9))
    return max(asked, FEWEST_PHOTONS * math.exp(thickest))


def degrade(
    clean: CleanSlice,
    protocol: Protocol,
    stream: Callable[[int], np.random.Generator],
    wanted: Sequence[int] = range(DEGRADATIONS),
    device: str = "cpu",
    *,
    original: bool = False,
    metal: Metal | None = None,
) -> list[Degradation]:
    """Degrade one clean slice.

    Args:
        clean: the clean slice.
        protocol: noise levels and kernel.
        stream: function that returns the random generator of a degradation.
        wanted: numbers of the degradations. Degradation ``k`` below 12 has noise level ``k // 3``
            and view count ``k % 3``, lowest noise and most views first; those from 12 are denoised
            copies.
        device: "cpu" (numba) or a device of PyTorch for the projections. The noise is the same.
        original: use the slice without a scan as degradation 0.
        metal: metal in the slice. It and its neighbourhood are not measured.

    Returns:
        The degraded slices, in the order of ``wanted``. Each is independent of the others.
    """
    copies = {
        k: _draw_copy(k, protocol.denoisers[k - SCANS], stream(k)) for k in wanted if k >= SCANS
    }
    if original:  # a copy needs its scan, and degradation 0 is not a scan
        copies = {k: replace(copy, source=max(copy.source, 1)) for k, copy in copies.items()}
    scans = {k for k in wanted if k < SCANS} | {copy.source for copy in copies.values()}
    beam = _projector(device)
    tissue = beam.forward_project(
        attenuation_per_pixel(clean.hu, clean.pixel_mm), protocol.views[0]
    )
    sinogram = straight = tissue
    if metal is not None:
        near = metal.near(clean.pixel_mm)
        clean = replace(clean, body=clean.body & ~near, tissue=clean.tissue & ~near)
        thickness = beam.forward_project(metal.share * np.float32(clean.pixel_mm), len(tissue))
        sinogram = tissue + metal.alloy.hardened(thickness)
        straight = tissue + metal.alloy.linear(thickness)
    window = protocol.kernel.window(projector.filter_length(len(clean.hu)), clean.pixel_mm)
    scale = np.float32(1000.0 / (MU_WATER_PER_MM * clean.pixel_mm))
    exposures = [exposure_for(hu, tissue, window, float(scale)) for hu in protocol.noise_hu]
    measure: _Measure | None = None
    made: dict[int, Degradation] = {}
    for v, views in enumerate(protocol.views):
        chosen = sorted(k for k in scans if k % len(VIEWS) == v)
        # The largest view count is the reference for the errors of the others.
        if not chosen and v > 0:
            continue
        kept = sinogram[:: protocol.views[0] // views]
        noisy = [
            add_noise(kept, exposures[k // len(VIEWS)], stream(k), average=metal is not None)
            for k in chosen
        ]
        exact = [straight] if measure is None and metal is not None else []
        images = beam.back_project(np.stack([kept, *noisy, *exact]), window)
        images = images * scale - np.float32(1000.0)
        if measure is None:
            full = images[-1] if exact else images[0]
            measure = _Measure(clean, protocol.kernel, full, clipped=metal is not None)
        measure.look(images[0])
        for k, hu in zip(chosen, images[1:], strict=False):
            made[k] = measure.scan(hu, exposures[k // len(VIEWS)], views)
        if original and v == 0 and 0 in chosen:
            made[0] = measure.original()
        for k, copy in copies.items():
            if copy.source in chosen:
                made[k] = measure.copy(copy, made[copy.source])
    return [made[k] for k in wanted]


class _Measure:
    """Measures degradations of a slice against its noise-free images.

    Args:
        clean: the slice.
        kernel: kernel of all images.
        full: noise-free image of all views, without beam hardening.
        clipped: measure errors in -1000...400 HU alone, because those of metal are much larger.
    """

    def __init__(
        self, clean: CleanSlice, kernel: Kernel, full: Float32, *, clipped: bool = False
    ) -> None:
        self._clean, self._full, self._clipped = clean, full, clipped
        self._detail = Detail(clean, full)
        self._tiles = Tiles(clean, self._detail)
        # The original noise of a scanned slice is in every image, filtered by the kernel.
        own = clean.hu - clean.structure
        self._own = kernel.smooth(own, clean.pixel_mm) if own.any() else own
        self._own_variance = float(np.mean(self._own[clean.tissue] ** 2))
        self._own_power = self._tiles.spread(self._own)
        self.look(full)

    def look(self, still: Float32) -> None:
        """Set the noise-free image of the current number of views."""
        self._still, self._missing = still, self._error(still, self._full)
        self._streak = float(np.sqrt(np.mean(self._missing[self._clean.body] ** 2)))
        self._streak_power = self._tiles.streak_power(self._missing)

    def _error(self, hu: Float32, true: Float32) -> Float32:
        """Return the difference of two images."""
        return _seen(hu) - _seen(true) if self._clipped else hu - true

    def scan(self, hu: Float32, exposure: float, views: int) -> Degradation:
        """Measure a scan."""
        error = self._error(hu, self._still)
        noise = math.sqrt(float(np.var(error[self._clean.tissue])) + self._own_variance)
        measured = (noise, self._streak, 0.0, 0.0)
        tiles = self._tiles.measure(
            error * error, self._streak_power, measured, more=self._own_power
        )
        return Degradation(hu, exposure, views, *measured, tiles=tiles)

    def original(self) -> Degradation:
        """Measure the slice without a scan, which has only its original noise."""
        own = self._clean.hu - self._clean.structure
        measured = (self._clean.own_noise_hu, 0.0, 0.0, 0.0)
        none = np.zeros_like(self._streak_power)
        tiles = self._tiles.measure(
            np.zeros_like(own), none, measured, more=self._tiles.spread(own)
        )
        return Degradation(self._clean.hu, math.inf, VIEWS[0], *measured, tiles=tiles)

    def copy(self, copy: _Copy, source: Degradation) -> Degradation:
        """Denoise a scan and measure the remaining noise, streaks and detail."""
        hu = DENOISERS[copy.denoiser].smooth(source.hu, source.noise_hu, copy.strength)
        # Compare with the image without original noise, because its remainder is noise too.
        error = hu - _seen(self._full - self._own)
        body = self._clean.body
        # Remaining share of the streaks: regression of the error on them.
        inside = self._missing[body]
        power = float(np.mean(inside**2))
        left = float(np.mean(error[body] * inside)) / power if power > 0 else 0.0
        left = min(max(left, 0.0), 1.0)
        residual = error - np.float32(left) * self._missing
        noise = float(np.std(residual[self._clean.tissue]))
        measured = (noise, left * self._streak, *self._detail.losses(hu))
        tiles = self._tiles.measure(
            residual * residual, left**2 * self._streak_power, measured, denoised=hu
        )
        return Degradation(
            hu,
            source.exposure,
            source.views,
            *measured,
            copy.denoiser,
            copy.source,
            tiles=tiles.capped(source.tiles),
        )


def _seen(hu: Float32) -> Float32:
    return np.clip(hu, HU_MIN, HU_MIN + HU_RANGE)


def _projector(device: str) -> Any:
    if device == "cpu":
        return projector
    from clinreadnet.simulator.projector_torch import TorchProjector

    return TorchProjector(device)


@dataclass(frozen=True)
class _Copy:
    """Parameters of a denoised copy: source degradation, denoiser and strength."""

    source: int
    denoiser: str
    strength: float


def _draw_copy(k: int, denoiser: str, rng: np.random.Generator) -> _Copy:
    # One copy from each quarter of the degradations, so that every anatomy has copies of low and of
    # high noise.
    per_copy = SCANS // len(COPIES)
    source = (k - SCANS) * per_copy + int(rng.integers(per_copy))
    return _Copy(source, denoiser, float(rng.uniform(*DENOISERS[denoiser].strengths)))
