"""Slices that do not show routine abdominal CT, which a network should not judge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.ndimage as ndi

Image = np.ndarray

_Y, _X = np.indices((512, 512), np.float32) - 255.5


def ellipse(centre: tuple[float, float], axes: tuple[float, float]) -> Image:
    """Return the coverage (0...1) of an ellipse, in pixels from the middle of the image."""
    r = np.hypot((_X - centre[0]) / axes[0], (_Y - centre[1]) / axes[1])
    return np.clip((1 - r) * min(axes) + 0.5, 0, 1)


def _paint(image: Image, cover: Image, value: float) -> None:
    image += cover * (value - image)


def _texture(rng: np.random.Generator, sigma: float, amplitude: float) -> Image:
    field = ndi.gaussian_filter(rng.standard_normal((512, 512)), sigma)
    return (amplitude * field / field.std()).astype(np.float32)


def _scanned(image: Image, rng: np.random.Generator) -> Image:
    """Add the blur and the noise of a scan."""
    noise = _texture(rng, float(rng.uniform(0.5, 1.2)), float(rng.uniform(6, 40)))
    return np.asarray(ndi.gaussian_filter(image, 0.8) + noise, np.float32)


def _air() -> Image:
    return np.full((512, 512), -1000.0, np.float32)


def head(rng: np.random.Generator) -> Image:
    """Draw skull, brain and ventricles."""
    image, wide = _air(), float(rng.uniform(150, 200))
    tall = wide * float(rng.uniform(1.1, 1.3))
    _paint(image, ellipse((0, 0), (wide, tall)), 30.0)
    _paint(image, ellipse((0, 0), (wide - 8, tall - 8)), 1200.0)
    _paint(image, ellipse((0, 0), (wide - 24, tall - 24)), 36.0)
    for side in (-1, 1):
        _paint(image, ellipse((side * 22, -20), (12, 45)), 6.0)
    return _scanned(image + _texture(rng, 6, 3), rng)


def chest(rng: np.random.Generator) -> Image:
    """Draw two lungs, the heart and a spine, well above the diaphragm."""
    image, wide = _air(), float(rng.uniform(200, 240))
    tall = wide * 0.7
    _paint(image, ellipse((0, 0), (wide, tall)), -90.0)
    _paint(image, ellipse((0, 0), (wide - 22, tall - 22)), 55.0)
    lung = -860 + _texture(rng, 2, 35) + _texture(rng, 0.8, 25)
    for side in (-1, 1):
        cover = ellipse((side * wide * 0.46, -4), (wide * 0.37, tall * 0.74))
        image = image + cover * (lung - image)
    _paint(image, ellipse((12, -tall * 0.25), (wide * 0.2, tall * 0.3)), 60.0)
    _paint(image, ellipse((0, tall * 0.62), (26, 24)), 300.0)
    for angle in np.linspace(0, 2 * np.pi, 14, endpoint=False):
        at = (np.cos(angle) * (wide - 26), np.sin(angle) * (tall - 26))
        _paint(image, ellipse(at, (14, 8)), 600.0)
    return _scanned(image, rng)


def shoulders(rng: np.random.Generator) -> Image:
    """Draw a wide body with humeral heads, scapulae and the trachea, and streaks between them."""
    image, wide = _air(), float(rng.uniform(235, 252))
    _paint(image, ellipse((0, 0), (wide, 105)), -90.0)
    _paint(image, ellipse((0, 0), (wide - 16, 90)), 55.0)
    for side in (-1, 1):
        _paint(image, ellipse((side * 185, -5), (34, 34)), 700.0)
        _paint(image, ellipse((side * 120, 45), (52, 7)), 600.0)
        _paint(image, ellipse((side * 60, -10), (30, 26)), -850.0)
    _paint(image, ellipse((0, -25), (11, 11)), -980.0)
    _paint(image, ellipse((0, 35), (26, 22)), 350.0)
    rows = ndi.gaussian_filter1d(rng.standard_normal(512), 1.5)[:, None] * 70
    body = ellipse((0, 0), (wide, 105))
    return _scanned(image + rows * body, rng)


def legs(rng: np.random.Generator) -> Image:
    """Draw two thighs with their femurs."""
    image = _air()
    apart, size = float(rng.uniform(95, 125)), float(rng.uniform(70, 92))
    for side in (-1, 1):
        at = (side * apart, 0.0)
        _paint(image, ellipse(at, (size, size)), -100.0)
        _paint(image, ellipse(at, (size - 14, size - 14)), 58.0)
        _paint(image, ellipse(at, (17, 17)), 1300.0)
        _paint(image, ellipse(at, (9, 9)), 0.0)
    return _scanned(image + _texture(rng, 4, 5) * (image > -500), rng)


def water(rng: np.random.Generator) -> Image:
    """Draw a water phantom."""
    image, radius = _air(), float(rng.uniform(120, 230))
    _paint(image, ellipse((0, 0), (radius, radius)), 120.0)
    _paint(image, ellipse((0, 0), (radius - 5, radius - 5)), 0.0)
    return _scanned(image, rng)


def noise(rng: np.random.Generator) -> Image:
    """Return noise alone."""
    return np.asarray(rng.normal(-200, 350, (512, 512)), np.float32)


def inverted(rng: np.random.Generator, abdomen: Image) -> Image:
    """Return bright air and dark tissue."""
    return np.asarray(-600.0 - abdomen, np.float32)


def magnetic_resonance(rng: np.random.Generator, abdomen: Image) -> Image:
    """Return values of an MR image as HU: no air below zero, another order of tissues."""
    soft = np.clip(abdomen, -200, 300)
    signal = 500 + 350 * np.sin(soft / 60) + _texture(rng, 30, 120)
    signal = np.where(ndi.binary_opening(abdomen > -400, iterations=3), signal, 15.0)
    return np.asarray(np.abs(signal + rng.normal(0, 20, signal.shape)), np.float32)


def halved(rng: np.random.Generator, abdomen: Image) -> Image:
    """Return an abdomen at half its size in air: a field of one metre."""
    small = abdomen.reshape(256, 2, 256, 2).mean(axis=(1, 3))
    image = _air()
    image[128:384, 128:384] = small
    return image


STRANGE: dict[str, Callable[..., Image]] = {
    "head": head,
    "chest": chest,
    "shoulders": shoulders,
    "legs": legs,
    "water": water,
    "noise": noise,
    "inverted": inverted,
    "magnetic resonance": magnetic_resonance,
    "halved": halved,
}
"""Each takes a generator, and an abdominal slice where it names one."""


def strange_slice(kind: str, seed: int, abdomen: Image) -> Image:
    """Return a slice ``[512, 512]`` float32 of a kind of ``STRANGE``."""
    rng = np.random.default_rng(seed)
    if kind in ("inverted", "magnetic resonance", "halved"):
        return STRANGE[kind](rng, abdomen)
    return STRANGE[kind](rng)
