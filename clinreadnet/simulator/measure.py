"""Measure a degraded slice: the whole image and each 32x32 tile.

Four measurements determine the quality (`clinreadnet.simulator.radiologists`): noise, streaks, lost
edges and lost detail. They are also measured in a Gaussian neighbourhood of each tile, which gives
the tile's quality by the same formula. For a tile with little evidence (little tissue, few edges),
each measurement is shrunk towards that of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage as ndi

from clinreadnet.simulator.clean import CleanSlice, Float32, Mask
from clinreadnet.simulator.radiologists import quality
from clinreadnet.spec import MAP_SIDE, SIZE

NEIGHBOURHOOD = 20.0
"""Standard deviation in pixels of the neighbourhood around a tile's centre. A tile is 32 wide."""

# Least slopes of faint and strong structure in HU per pixel, after a blur of one pixel. Smaller
# slopes are texture or residual noise of a scanned slice.
_FAINT, _STRONG = 3.5, 12.0
# Weight of the image's measurement relative to a tile's evidence: a share of a full neighbourhood
# for noise and streaks, of the mean neighbourhood inside the body for slopes.
_PRIOR_ERROR, _PRIOR_SLOPE, _PRIOR_OWN = 0.02, 0.15, 0.2
# Side of blocks that are averaged first: accurate enough and 64 times as fast.
_BLOCK = 8
_INSIDE = 0.3


@dataclass(frozen=True)
class TileQuality:
    """Tile labels of an image.

    Attributes:
        quality: ``[16, 16]`` float32, noiseless quality 0...4 around each tile.
        weight: ``[16, 16]`` float32, share of body in the neighbourhood; below 0.05 it is 0.
    """

    quality: Float32
    weight: Float32

    def capped(self, source: TileQuality) -> TileQuality:
        """Return the tiles of a denoised copy, limited to the quality of the source's tiles."""
        return TileQuality(np.minimum(self.quality, source.quality), self.weight)


class Tiles:
    """Measures the tiles of the degraded versions of one slice.

    Args:
        clean: the slice.
        detail: its edges and faint structure.
    """

    def __init__(self, clean: CleanSlice, detail: Detail) -> None:
        self._detail = detail
        self._body = neighbourhood(clean.body)
        self._tissue = neighbourhood(clean.tissue)
        self._masks = {False: clean.body, True: clean.tissue}
        self.weight = np.where(self._body < 0.05, 0.0, self._body).astype(np.float32)
        self._slopes = [neighbourhood(size) for size in detail.sizes()]

    def measure(
        self,
        power: Float32,
        streak_power: Float32,
        measured: tuple[float, float, float, float],
        *,
        more: Float32 | float = 0.0,
        denoised: Float32 | None = None,
    ) -> TileQuality:
        """Return the quality of each tile.

        Args:
            power: ``[512, 512]`` squared random error in HU^2.
            streak_power: ``[16, 16]`` neighbourhood sums of the squared streaks inside the body.
            measured: noise_hu, streak_hu, edge_loss, detail_loss of the whole image.
            more: ``[16, 16]`` variance in HU^2 of the original noise of a scanned slice.
            denoised: a denoised image; None for a scan, which loses no slopes. Its noise is
                measured only in even tissue, because the error at edges is lost structure.
        """
        noise_hu, streak_hu, *losses = measured
        where = self._tissue if denoised is not None else self._body
        mask = self._masks[denoised is not None]
        # The image's noise includes the original noise, for tiles with little evidence.
        simulated = max(noise_hu**2 - float(np.mean(more)), 0.0)
        noise = _shrunk(neighbourhood(power * mask), where, simulated) + more
        streak = _shrunk(streak_power, self._body, streak_hu**2)
        edge, faint = (np.full_like(noise, loss) for loss in losses)
        if denoised is not None:
            edge, faint = self._losses(denoised, losses)
        tile_quality = quality(np.sqrt(noise), np.sqrt(streak), edge, faint)
        return TileQuality(np.asarray(tile_quality, np.float32), self.weight)

    def spread(self, own: Float32) -> Float32:
        """Return the variance ``[16, 16]`` of original noise ``[512, 512]`` around each tile.

        It is measured in even tissue, because elsewhere a denoiser can remove structure.
        """
        variance = float(np.mean(own[self._masks[True]] ** 2)) if self._masks[True].any() else 0.0
        total = neighbourhood(own * own * self._masks[True])
        return (total + _PRIOR_OWN * np.float32(variance)) / (self._tissue + np.float32(_PRIOR_OWN))

    def streak_power(self, missing: Float32) -> Float32:
        """Return the neighbourhood sums ``[16, 16]`` of squared streaks inside the body."""
        return neighbourhood(missing * missing * self._masks[False])

    def _losses(self, hu: Float32, image: list[float]) -> list[Float32]:
        losses = []
        for kept, size, most, loss in zip(
            self._detail.kept(hu), self._slopes, self._detail.most, image, strict=True
        ):
            inside = self._body > _INSIDE
            prior = _PRIOR_SLOPE * float(size[inside].mean()) if inside.any() else 1.0
            share = (neighbourhood(kept) + prior * (1 - loss) * most) / (size + prior)
            losses.append(np.clip(1 - share / most, 0, 1).astype(np.float32))
        return losses


def neighbourhood(image: Float32 | Mask) -> Float32:
    """Return Gaussian means of an image ``[512, 512]`` around each tile's centre: ``[16, 16]``."""
    blocks = SIZE // _BLOCK
    shape = (blocks, _BLOCK, blocks, _BLOCK)
    small = np.asarray(image, np.float32).reshape(shape).mean(axis=(1, 3))
    smooth = ndi.gaussian_filter(small, NEIGHBOURHOOD / _BLOCK, mode="constant")
    tile = blocks // MAP_SIDE
    # A tile's centre lies between the two middle blocks.
    return np.asarray(
        smooth.reshape(MAP_SIDE, tile, MAP_SIDE, tile)[:, tile // 2 - 1 : tile // 2 + 1, :][
            :, :, :, tile // 2 - 1 : tile // 2 + 1
        ].mean(axis=(1, 3)),
        np.float32,
    )


def _shrunk(total: Float32, evidence: Float32, image: float) -> Float32:
    """Return local means, shrunk towards the image's value where there is little evidence."""
    return (total + _PRIOR_ERROR * np.float32(image)) / (evidence + np.float32(_PRIOR_ERROR))


class Detail:
    """Edges and faint structure of a clean slice, and the share of their slopes in an image.

    Losses are relative to ``best``, the image that shows most of them. The kept share is the
    regression of the image's slopes on those of the structure. Noise has random directions and does
    not contribute; a comparison of magnitudes would count noise as detail.

    Attributes:
        most: shares of strong and faint slopes in ``best``.
    """

    def __init__(self, clean: CleanSlice, best: Float32) -> None:
        self._slope = _slope(clean.structure)
        # The blur separates edges, which extend over a few pixels, from noise.
        size = np.hypot(*_slope(ndi.gaussian_filter(clean.structure, 1.0)))
        strong = clean.body & (size >= _STRONG)
        self._masks = strong, clean.body & (size >= _FAINT) & ~strong
        self.most = self._shares(_slope(best))

    def losses(self, hu: Float32) -> tuple[float, float]:
        """Return the lost shares (0...1) of strong edges and of faint structure."""
        strong, faint = (
            min(max(1.0 - share / most, 0.0), 1.0)
            for share, most in zip(self._shares(_slope(hu)), self.most, strict=True)
        )
        return strong, faint

    def sizes(self) -> list[Float32]:
        """Return the squared slopes ``[512, 512]`` of the structure, strong and faint."""
        squared = (self._slope**2).sum(axis=0)
        return [squared * mask for mask in self._masks]

    def kept(self, hu: Float32) -> list[Float32]:
        """Return the products of an image's slopes with these, ``[512, 512]`` each."""
        products = (_slope(hu) * self._slope).sum(axis=0)
        return [products * mask for mask in self._masks]

    def _shares(self, slope: Float32) -> list[float]:
        return [self._share(slope, mask) for mask in self._masks]

    def _share(self, slope: Float32, where: Mask) -> float:
        mine, theirs = slope[:, where], self._slope[:, where]
        power = float(np.sum(theirs**2, dtype=np.float64))
        # A slice without such slopes loses none.
        return float(np.sum(mine * theirs, dtype=np.float64)) / power if power > 0 else 1.0


def _slope(hu: Float32) -> Float32:
    # In the radiologists' window, so that edges of bone and gas count as displayed. The blur
    # removes detail that every reconstruction loses.
    seen = ndi.gaussian_filter(np.clip(hu, -160, 240), 0.7)
    return np.asarray(np.stack([ndi.sobel(seen, 0), ndi.sobel(seen, 1)]) / 8, np.float32)
