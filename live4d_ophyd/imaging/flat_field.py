"""Flat field: what each pixel counts of the same, from an exposure in which all pixels are hit alike (flood).

In: the mean pattern of such an exposure, and of how many frames it is. Out: `FlatField`: the factor that makes pixels
alike, pixels that are hot or dead, and how much of the factor is only shot noise. Any thread; a second for millions of
pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.imaging.bad_pixels import can_judge, find_dead_pixels, find_hot_pixels

#: largest scatter of the illumination over the detector, of its mean, that a flood exposure may have
_MOST_UNEVEN = 0.2
#: part of the pixels that must be exposed enough to be judged
_LEAST_EXPOSED = 0.9


@dataclass(frozen=True, eq=False)
class FlatField:
    """What a flood exposure tells of each pixel."""

    #: factor on the counts of each pixel, (q_y, q_x) float64; NaN where a pixel is bad, was masked, or never held a
    #: count; 1 where too few counts tell
    gain: np.ndarray
    hot: np.ndarray  #: (q_y, q_x) bool
    dead: np.ndarray  #: (q_y, q_x) bool
    #: mean counts of a good pixel, all frames together
    counts: float
    #: standard deviation of the good pixels about the illumination, of their mean; shot noise included
    scatter: float
    #: standard deviation of the illumination over the detector, of its mean, as a smooth surface has it
    unevenness: float
    unexposed: int  #: pixels around which there are too few counts to tell anything

    @property
    def bad(self) -> np.ndarray:
        """Pixels without a factor, (q_y, q_x) bool: hot, dead, masked before, or without a value that is a count."""
        return np.isnan(self.gain)

    @property
    def noise(self) -> float:
        """What shot noise alone makes of `scatter`."""
        return 1 / math.sqrt(self.counts)

    @property
    def spread(self) -> float:
        """How much the pixels themselves differ, of their mean: `scatter` without shot noise; 0 where it is less."""
        return math.sqrt(max(self.scatter**2 - self.noise**2, 0.0))

    @property
    def helps(self) -> bool:
        """Whether the factors know more than they bring in noise."""
        return self.spread > self.noise


def flat_field(pattern: np.ndarray, frames: int, order: int = 0) -> FlatField:
    """The flat field of the mean ``pattern`` (q_y, q_x) of ``frames`` frames of a flood exposure, counts a frame.

    Pixels that are not finite were masked, or never held a count, as those that always saturate. ``order`` of the
    polynomial of row and column that the illumination is: with 0 it is the same everywhere, and what is uneven of it
    goes into the factors. Dead and hot pixels are those of `find_dead_pixels` and `find_hot_pixels`. Raises ValueError
    where it is no flood exposure: pixels without counts, or an illumination that is far from even.
    """
    pattern = np.asarray(pattern, np.float64)
    order = checks.whole("order of the illumination", order, 0, 2)
    known = np.isfinite(pattern)
    exposed = known & can_judge(pattern, frames)
    if exposed.sum() < _LEAST_EXPOSED * known.sum() or not known.any():
        raise ValueError(
            f"no flood exposure: {exposed.sum()} of {known.sum()} pixels have 20 counts or more in {frames} frames; "
            f"expected {100 * _LEAST_EXPOSED:.0f} %. Spread the beam over the whole detector, and expose longer"
        )
    # Without a specimen neighbours differ as pixels do, by a few percent: hot ones stand out earlier than in a scan.
    middle = np.median(pattern[known])
    differ = 1.4826 * np.median(np.abs(pattern[known] - middle)) / middle
    hot = find_hot_pixels(pattern, frames, structure=min(0.1, float(differ)))
    dead = find_dead_pixels(pattern, frames)
    good = exposed & ~hot & ~dead
    level = float(pattern[good].mean())
    smooth = _surface(pattern, good, 2)
    unevenness = float(smooth[good].std() / level)
    if unevenness > _MOST_UNEVEN:
        raise ValueError(
            f"no flood exposure: the illumination scatters by {100 * unevenness:.0f} % over the detector; expected "
            f"at most {100 * _MOST_UNEVEN:.0f} %. Spread the beam further"
        )
    illumination = np.full(pattern.shape, level) if order == 0 else _surface(pattern, good, order)
    # The beam may miss a corner: its few counts would be factors of any size.
    unexposed = known & ~exposed & ~hot
    gain = np.where(unexposed, 1.0, np.nan)
    np.divide(illumination, pattern, out=gain, where=good)
    scatter = float((pattern / illumination)[good].std())
    return FlatField(gain, hot, dead, level * frames, scatter, unevenness, int(unexposed.sum()))


def _surface(pattern: np.ndarray, good: np.ndarray, order: int) -> np.ndarray:
    """Least squares polynomial of row and column, of total degree ``order``, over the ``good`` pixels."""
    rows, cols = pattern.shape
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, cols), indexing="ij")
    terms = np.stack([y**i * x**j for i in range(order + 1) for j in range(order + 1 - i)], axis=-1)
    coefficients = np.linalg.lstsq(terms[good], pattern[good], rcond=None)[0]
    return terms @ coefficients
