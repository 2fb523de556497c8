"""Low-dose and sparse-view degradation of a slice, in its sinogram.

As in the LDCTIQAC 2023 challenge, one slice becomes twelve: four noise levels times three view
counts. One forward projection serves all twelve; the sparse ones take every third or sixth view.

Counts behind the patient are Poisson, ``N ~ Poisson(I0 exp(-p)) + Normal(0, 10)``, with the line
integral ``p`` of ``mu = mu_water (1 + HU / 1000)``. A scanner's exposure control follows the size
of the patient, so ``I0`` does in part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from clinreadnet.data.phantom import Phantom
from clinreadnet.data.projector import back_project, forward_project

Float32 = NDArray[np.float32]

MU_WATER_PER_MM = 0.0205
"""Attenuation of water at the effective energy of a 120 kV beam."""

VIEWS = (720, 240, 120)
"""View counts over half a turn, most first; each divides the first."""

EXPOSURES = (4.5e5, 2.0e5, 1.1e5, 7.5e4)
"""Photons per detector cell before the patient at the reference thickness, most first."""

DEGRADATIONS = len(EXPOSURES) * len(VIEWS)
"""Degraded versions of one slice."""

ELECTRONIC_NOISE = 10.0
"""Standard deviation of the electronic noise in counts."""

# Thickest line integral at which EXPOSURES hold, and how far exposure control makes up for more.
_REFERENCE_PATH = 6.3
_EXPOSURE_CONTROL = 0.85
# Standard deviation of the exposure in log units: noise is a continuum, not four spikes.
_EXPOSURE_SPREAD = 0.30


@dataclass(frozen=True)
class Protocol:
    """How an anatomy is scanned and reconstructed.

    Attributes:
        exposures: photons per detector cell at the reference thickness, one per noise level.
        sharpness: of the reconstruction filter, 0 Hann ... 1 ramp.
    """

    exposures: tuple[float, ...]
    sharpness: float


def draw_protocol(rng: np.random.Generator) -> Protocol:
    """Draw a protocol around :data:`EXPOSURES`."""
    sharpness = 0.5 * float(rng.beta(1.0, 3.5))
    jitter = np.exp(rng.normal(0.0, _EXPOSURE_SPREAD, len(EXPOSURES)))
    return Protocol(tuple(float(e) for e in EXPOSURES * jitter), sharpness)


@dataclass(frozen=True)
class Degradation:
    """One degraded slice and what was measured on it.

    Attributes:
        hu: ``[n, n]`` float32 Hounsfield units.
        exposure: photons per detector cell before the patient.
        views: number of views.
        noise_hu: standard deviation of the random error in even soft tissue.
        streak_hu: root mean square error of the noise-free sparse-view reconstruction in the body.
        edge_loss: share (0...1) of the clean slice's edge strength that reconstruction loses.
    """

    hu: Float32
    exposure: float
    views: int
    noise_hu: float
    streak_hu: float
    edge_loss: float


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
    phantom: Phantom,
    protocol: Protocol,
    noise_stream: Callable[[int], np.random.Generator],
    wanted: Sequence[int] = range(DEGRADATIONS),
) -> list[Degradation]:
    """Degrade one clean slice.

    Args:
        phantom: the clean slice.
        protocol: exposures and reconstruction filter.
        noise_stream: gives the source of the noise of each degradation.
        wanted: which to make. Degradation ``k`` has exposure ``k // 3`` and view count ``k % 3``,
            both counted from the most.

    Returns:
        The degraded slices, in the order of ``wanted``; none depends on which others are made.
    """
    sinogram = forward_project(attenuation_per_pixel(phantom.hu, phantom.pixel_mm), VIEWS[0])
    thickest = float(np.quantile(sinogram.max(axis=1), 0.75))
    control = math.exp(_EXPOSURE_CONTROL * (thickest - _REFERENCE_PATH))
    scale = np.float32(1000.0 / (MU_WATER_PER_MM * phantom.pixel_mm))

    made: dict[int, Degradation] = {}
    full = np.zeros_like(phantom.hu)
    edge_loss = 0.0
    for v, views in enumerate(VIEWS):
        chosen = [k for k in wanted if k % len(VIEWS) == v]
        # The first view count is the reference for the errors of the others.
        if not chosen and v > 0:
            continue
        kept = sinogram[:: VIEWS[0] // views]
        exposures = [protocol.exposures[k // len(VIEWS)] * control for k in chosen]
        noisy = [
            add_noise(kept, exposure, noise_stream(k))
            for k, exposure in zip(chosen, exposures, strict=True)
        ]
        images = back_project(np.stack([kept, *noisy]), sharpness=protocol.sharpness)
        images = images * scale - np.float32(1000.0)
        still = images[0]
        if v == 0:
            full = still
            edge_loss = _edge_loss(phantom, full)
        streak = float(np.sqrt(np.mean((still - full)[phantom.body] ** 2)))
        for k, exposure, hu in zip(chosen, exposures, images[1:], strict=True):
            noise = float(np.std((hu - still)[phantom.tissue]))
            made[k] = Degradation(hu, exposure, views, noise, streak, edge_loss)
    return [made[k] for k in wanted]


def _edge_loss(phantom: Phantom, reconstructed: Float32) -> float:
    """Return the share of edge strength lost where the clean slice has its steepest tenth."""
    clean = _slope(phantom.hu)
    edges = phantom.body & (clean >= np.quantile(clean[phantom.body], 0.9))
    kept = float(_slope(reconstructed)[edges].mean()) / max(float(clean[edges].mean()), 1e-6)
    return max(0.0, 1.0 - kept)


def _slope(hu: Float32) -> Float32:
    # In the readers' window: an edge of bone or gas counts no more than they see of it.
    seen = np.clip(hu, -160, 240)
    return np.asarray(np.hypot(ndi.sobel(seen, 0), ndi.sobel(seen, 1)), np.float32)
