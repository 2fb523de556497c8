"""Low-dose and sparse-view degradation of a slice, in its sinogram.

As in the LDCTIQAC 2023 challenge, one slice becomes twelve: four noise levels times three view
counts. One forward projection serves all twelve; the sparse ones take every third or sixth view.
Four denoised copies join them, whose noise is gone and detail too.

Counts behind the patient are Poisson, ``N ~ Poisson(I0 exp(-p)) + Normal(0, 10)``, with the line
integral ``p`` of ``mu = mu_water (1 + HU / 1000)``. A scanner's exposure control follows the size
of the patient, so ``I0`` does in part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.ndimage as ndi

from clinreadnet.simulator import projector
from clinreadnet.simulator.clean import CleanSlice, Float32, Mask
from clinreadnet.simulator.denoise import bilateral, non_local_means
from clinreadnet.spec import HU_MIN, HU_RANGE

MU_WATER_PER_MM = 0.0205
"""Attenuation of water at the effective energy of a 120 kV beam."""

VIEWS = (720, 240, 120)
"""View counts over half a turn, most first; each divides the first."""

EXPOSURES = (4.5e5, 2.0e5, 1.1e5, 8.5e4)
"""Photons per detector cell before the patient at the reference thickness, most first."""

REFERENCE_SHARPNESS = 0.5
"""Filter whose noise-free image shows all the detail that can be lost; a sharper one loses none."""

SCANS = len(EXPOSURES) * len(VIEWS)
"""Simulated scans of one slice."""

DENOISERS = ("nlm", "bilateral")
"""Denoisers, in the order in which the copies take turns."""

COPIES = 4
"""Denoised copies among the degradations of a slice."""

DEGRADATIONS = SCANS + COPIES
"""Degraded versions of one slice."""

# Least and greatest strength of each denoiser, in units of the noise.
_STRENGTHS = {"nlm": (0.45, 1.1), "bilateral": (1.2, 3.5)}

ELECTRONIC_NOISE = 10.0
"""Standard deviation of the electronic noise in counts."""

# Thickest line integral at which EXPOSURES hold, and how far exposure control makes up for more.
_REFERENCE_PATH = 6.3
_EXPOSURE_CONTROL = 0.95
# Standard deviation of the exposure in log units: noise is a continuum, not four spikes.
_EXPOSURE_SPREAD = 0.30
# Share of soft kernels, the softest in pixels, and the dose that a pixel of softness saves (log).
_SOFT_SHARE = 0.45
_SOFTEST = 1.0
_DOSE_SAVING = 1.0
# Share of kernels sharper than the reference, and the sharpest: it enhances edges, and its noise is
# nearly as fine as that of a scanner's thin slices. Then the photons (log) that keep it readable.
_SHARP_SHARE = 0.15
_SHARPEST = 1.5
_DOSE_OF_SHARP = 1.6
# Slopes in HU a pixel, of the structure blurred by a pixel, from which structure is faint and from
# which it is strong. Below them it is texture, or what is left of a scanned slice's own noise.
_FAINT, _STRONG = 3.5, 12.0


@dataclass(frozen=True)
class Protocol:
    """How an anatomy is scanned and reconstructed.

    Attributes:
        exposures: photons per detector cell at the reference thickness, one per noise level.
        sharpness: of the reconstruction filter, 0 Hann, 1 ramp, beyond it edge-enhancing.
        softness: standard deviation in pixels of a soft kernel's further blur, 0 for none.
    """

    exposures: tuple[float, ...]
    sharpness: float
    softness: float = 0.0


def draw_protocol(rng: np.random.Generator) -> Protocol:
    """Draw a protocol around :data:`EXPOSURES`: a soft kernel, a standard or a sharp one."""
    sharpness = softness = 0.0
    # What a soft kernel takes from the noise, the protocol takes from the dose.
    log_dose = 0.0
    kind = rng.random()
    if kind < _SOFT_SHARE:
        softness = float(rng.uniform(0.2, _SOFTEST))
        log_dose = -_DOSE_SAVING * softness
    elif kind < 1 - _SHARP_SHARE:
        sharpness = REFERENCE_SHARPNESS * float(rng.beta(1.0, 3.0))
    else:
        sharpness = float(rng.uniform(REFERENCE_SHARPNESS, _SHARPEST))
        log_dose = _DOSE_OF_SHARP * sharpness
    jitter = np.exp(rng.normal(0.0, _EXPOSURE_SPREAD, len(EXPOSURES)))
    dose = math.exp(log_dose)
    exposures = sorted(np.asarray(EXPOSURES) * jitter * dose, reverse=True)
    return Protocol(tuple(float(e) for e in exposures), sharpness, softness)


@dataclass(frozen=True)
class Degradation:
    """One degraded slice and what was measured on it.

    Attributes:
        hu: ``[n, n]`` float32 Hounsfield units.
        exposure: photons per detector cell before the patient.
        views: number of views.
        noise_hu: standard deviation of the random error in even soft tissue.
        streak_hu: root mean square error of missing views in the body.
        edge_loss: share (0...1) of the slope of strong edges that is lost, of what the reference
            filter's noise-free reconstruction shows.
        detail_loss: share (0...1) of the slope of faint structure that is lost.
        denoiser: "nlm", "bilateral" or None.
        source: number of the degradation that was denoised, or None.
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


def attenuation_per_pixel(hu: Float32, pixel_mm: float) -> Float32:
    """Return the attenuation of a pixel's width ``[n, n]``; what is thinner than air is air."""
    scale = np.float32(MU_WATER_PER_MM * pixel_mm)
    return np.asarray(np.maximum(1 + hu * np.float32(1e-3), 0) * scale, np.float32)


def add_noise(sinogram: Float32, exposure: float, rng: np.random.Generator) -> Float32:
    """Return noisy line integrals, the shape of ``sinogram``.

    Args:
        sinogram: ``[views, n]`` float32 noise-free line integrals.
        exposure: photons per detector cell before the patient.
        rng: source of the noise.
    """
    counts = rng.poisson(exposure * np.exp(-sinogram.astype(np.float64))).astype(np.float64)
    counts += rng.normal(0.0, ELECTRONIC_NOISE, counts.shape)
    # A starved cell would give the logarithm nothing; one count is the least there is.
    return np.asarray(math.log(exposure) - np.log(np.maximum(counts, 1.0)), np.float32)


def degrade(
    clean: CleanSlice,
    protocol: Protocol,
    stream: Callable[[int], np.random.Generator],
    wanted: Sequence[int] = range(DEGRADATIONS),
    device: str = "cpu",
) -> list[Degradation]:
    """Degrade one clean slice.

    Args:
        clean: the clean slice.
        protocol: exposures and reconstruction filter.
        stream: gives the random numbers of each degradation.
        wanted: which to make. Degradation ``k`` below 12 has exposure ``k // 3`` and view count
            ``k % 3``, both counted from the most; those from 12 are denoised copies of these.
        device: where to project: "cpu" (numba), or a device of PyTorch. The noise is the same.

    Returns:
        The degraded slices, in the order of ``wanted``; none depends on which others are made.
    """
    copies = {k: _draw_copy(k, stream(k)) for k in wanted if k >= SCANS}
    scans = {k for k in wanted if k < SCANS} | {copy.source for copy in copies.values()}
    beam = _projector(device)
    sinogram = beam.forward_project(attenuation_per_pixel(clean.hu, clean.pixel_mm), VIEWS[0])
    thickest = float(np.quantile(sinogram.max(axis=1), 0.75))
    control = math.exp(_EXPOSURE_CONTROL * (thickest - _REFERENCE_PATH))
    scale = np.float32(1000.0 / (MU_WATER_PER_MM * clean.pixel_mm))
    made: dict[int, Degradation] = {}
    full = np.empty_like(clean.hu)
    detail = Detail(clean, clean.hu)
    losses = 0.0, 0.0
    for v, views in enumerate(VIEWS):
        chosen = sorted(k for k in scans if k % len(VIEWS) == v)
        # The first view count is the reference for the errors of the others.
        if not chosen and v > 0:
            continue
        kept = sinogram[:: VIEWS[0] // views]
        exposures = [protocol.exposures[k // len(VIEWS)] * control for k in chosen]
        noisy = [
            add_noise(kept, exposure, stream(k))
            for k, exposure in zip(chosen, exposures, strict=True)
        ]
        images = beam.back_project(
            np.stack([kept, kept, *noisy]),
            sharpness=[REFERENCE_SHARPNESS] + [protocol.sharpness] * (1 + len(noisy)),
            softness=[0.0] + [protocol.softness] * (1 + len(noisy)),
        )
        images = images * scale - np.float32(1000.0)
        reference, still = images[:2]
        if v == 0:
            full = still
            detail = Detail(clean, reference)
            losses = detail.losses(full)
        missing = still - full
        streak = float(np.sqrt(np.mean(missing[clean.body] ** 2)))
        for k, exposure, hu in zip(chosen, exposures, images[2:], strict=True):
            noise = float(np.std((hu - still)[clean.tissue]))
            made[k] = Degradation(hu, exposure, views, noise, streak, *losses)
        for k, copy in copies.items():
            if copy.source in chosen:
                made[k] = _denoised(clean, detail, copy, made[copy.source], full, missing)
    return [made[k] for k in wanted]


def _projector(device: str) -> Any:
    if device == "cpu":
        return projector
    from clinreadnet.simulator.projector_torch import TorchProjector

    return TorchProjector(device)


@dataclass(frozen=True)
class _Copy:
    """A denoised copy to be made: which degradation, how, how strongly."""

    source: int
    denoiser: str
    strength: float


def _draw_copy(k: int, rng: np.random.Generator) -> _Copy:
    denoiser = DENOISERS[(k - SCANS) % len(DENOISERS)]
    # Each quarter of the degradations is denoised once: every anatomy has copies of low noise and
    # of high.
    per_copy = SCANS // COPIES
    source = (k - SCANS) * per_copy + int(rng.integers(per_copy))
    low, high = _STRENGTHS[denoiser]
    return _Copy(source, denoiser, float(rng.uniform(low, high)))


def _denoised(
    clean: CleanSlice,
    detail: Detail,
    copy: _Copy,
    source: Degradation,
    full: Float32,
    missing: Float32,
) -> Degradation:
    """Denoise a degraded slice and measure what is left of noise, streaks and detail."""
    smooth = non_local_means if copy.denoiser == "nlm" else bilateral
    hu = smooth(source.hu, source.noise_hu, copy.strength)
    seen = np.clip(full, HU_MIN, HU_MIN + HU_RANGE)
    error = hu - seen
    # How much of the streaks is still there: their share in the error, by regression.
    inside = missing[clean.body]
    power = float(np.mean(inside**2))
    left = float(np.mean(error[clean.body] * inside)) / power if power > 0 else 0.0
    left = min(max(left, 0.0), 1.0)
    noise = float(np.std((error - np.float32(left) * missing)[clean.tissue]))
    return Degradation(
        hu,
        source.exposure,
        source.views,
        noise,
        left * source.streak_hu,
        *detail.losses(hu),
        copy.denoiser,
        copy.source,
    )


class Detail:
    """Edges and faint structure of a clean slice, and what an image keeps of their slopes.

    Losses are relative to ``best``, the image that shows most of them. Kept is the regression of
    the image's slopes on the structure's: noise in the image, which points anywhere, adds nothing
    to it, where a comparison of slopes' sizes would count noise as detail.
    """

    def __init__(self, clean: CleanSlice, best: Float32) -> None:
        self._slope = _slope(clean.structure)
        # The blur tells an edge, which goes on for a few pixels, from grain.
        size = np.hypot(*_slope(ndi.gaussian_filter(clean.structure, 1.0)))
        self._strong = clean.body & (size >= _STRONG)
        self._faint = clean.body & (size >= _FAINT) & (size < _STRONG)
        most = _slope(best)
        self._most = self._share(most, self._strong), self._share(most, self._faint)

    def losses(self, hu: Float32) -> tuple[float, float]:
        """Return the lost share (0...1) of strong edges and of faint structure."""
        slope = _slope(hu)
        strong = 1.0 - self._share(slope, self._strong) / self._most[0]
        faint = 1.0 - self._share(slope, self._faint) / self._most[1]
        return min(max(strong, 0.0), 1.0), min(max(faint, 0.0), 1.0)

    def _share(self, slope: Float32, where: Mask) -> float:
        mine, theirs = slope[:, where], self._slope[:, where]
        return float(np.sum(mine * theirs, dtype=np.float64) / np.sum(theirs**2, dtype=np.float64))


def _slope(hu: Float32) -> Float32:
    # In the readers' window: an edge of bone or gas counts no more than they see of it.
    # Finer than this little blur nothing is compared: every reconstruction takes that much.
    seen = ndi.gaussian_filter(np.clip(hu, -160, 240), 0.7)
    return np.asarray(np.stack([ndi.sobel(seen, 0), ndi.sobel(seen, 1)]) / 8, np.float32)
