"""Reconstruction kernels: the response of an image at each spatial frequency.

The kernel of a scanner is a response over frequency in cycles per millimetre, independent of the
pixel size. This module uses the family::

    response(f) = (1 + boost * bump(f)) * exp(-(f / cutoff) ^ power)

The ranges of `draw_kernel` are fitted to the noise power spectra of scanned slices (Siemens B20f to
B40s and AB50; GE SOFT, STANDARD and BONE, 0.57 to 0.98 mm a pixel): see docs/simulator.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from clinreadnet.simulator.clean import Float32

SOFT, STANDARD, SHARP = "soft", "standard", "sharp"

SHARES = {SOFT: 0.40, STANDARD: 0.42, SHARP: 0.18}
"""Shares of the kinds in routine abdominal protocols."""

EVEN_SHARES = dict.fromkeys(SHARES, 1 / 3)

# Range of the cutoff in cycles per mm, and the exponent, of each kind of kernel.
_CUTOFFS = {SOFT: (0.16, 0.34), STANDARD: (0.34, 0.70), SHARP: (0.70, 2.20)}
_POWERS = {SOFT: (0.95, 1.8), STANDARD: (0.9, 2.1), SHARP: (0.9, 2.0)}
# Sharp kernels amplify frequencies around this one, like edge-enhancing kernels.
_BOOSTED_PER_MM = 0.55
_MOST_BOOST = 0.6


@dataclass(frozen=True)
class Kernel:
    """A reconstruction kernel.

    Attributes:
        cutoff: frequency in cycles per mm at which the response has fallen to 1 / e.
        power: exponent of the fall; 1 has a long tail, 2 is a Gaussian.
        boost: gain of the frequencies around 0.55 cycles per mm, 0 for none.
    """

    cutoff: float
    power: float
    boost: float = 0.0

    def response(self, per_mm: Float32) -> Float32:
        """Return the response at frequencies in cycles per mm: the same shape, float32."""
        f = np.abs(np.asarray(per_mm, np.float64))
        gain = 1.0 + self.boost * np.exp(-(((f - _BOOSTED_PER_MM) / (0.6 * _BOOSTED_PER_MM)) ** 2))
        return np.asarray(gain * np.exp(-((f / self.cutoff) ** self.power)), np.float32)

    def window(self, size: int, pixel_mm: float) -> Float32:
        """Return the response at the frequencies of a real FFT of ``size`` pixels.

        Returns:
            ``[size // 2 + 1]`` float32; the ramp is multiplied by it.
        """
        return self.response(np.asarray(np.fft.rfftfreq(size) / pixel_mm, np.float32))

    def smooth(self, image: Float32, pixel_mm: float) -> Float32:
        """Filter an image ``[n, n]`` with the kernel, periodically and without a scan."""
        n = len(image)
        along, across = np.fft.fftfreq(n), np.fft.rfftfreq(n)
        radius = np.hypot(along[:, None], across[None, :]) / pixel_mm
        spectrum = np.fft.rfft2(image) * self.response(np.asarray(radius, np.float32))
        return np.asarray(np.fft.irfft2(spectrum, s=image.shape), np.float32)


REFERENCE = Kernel(cutoff=0.5, power=1.8)
"""A standard body kernel, for tests and for slices without a known kernel."""


def draw_kernel(rng: np.random.Generator, shares: Mapping[str, float] = SHARES) -> Kernel:
    """Draw a kernel.

    Args:
        rng: random generator.
        shares: share of each kind; default those of routine protocols.
    """
    kind = str(rng.choice(list(shares), p=list(shares.values())))
    low, high = _CUTOFFS[kind]
    cutoff = low * math.exp(float(rng.uniform(0.0, math.log(high / low))))
    power = float(rng.uniform(*_POWERS[kind]))
    boost = float(rng.uniform(0.0, _MOST_BOOST)) if kind != SOFT and rng.random() < 0.5 else 0.0
    return Kernel(cutoff, power, boost)
