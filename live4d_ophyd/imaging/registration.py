"""Registration: by how far one image is displaced from another, to a part of a scan position, and how sure that is.

In: two images over the scan, NaN where no frame came. Out: a `Displacement`. Normalised cross-correlation over what
both show (Padfield, IEEE Trans. Image Process. 21, 2706 (2012)), then the maximum of the correlation between positions.
All pairs are (row, col) in scan positions. Pure NumPy and SciPy in the thread of the caller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import scipy.fft
from scipy import ndimage

#: below this confidence a displacement is not used, unless told otherwise
LEAST_CONFIDENCE = 0.2
# What is compared of images, scan positions: finer than the first is aliased where a step is as wide as the probe, and
# moved simulated displacements by 0.2; of what is wider than the second an image shows another part after each move.
_FINEST, _WIDEST = 0.7, 4.0
#: rows and columns without which nothing is compared
_LEAST_POSITIONS = 8
#: part of the positions that must have more than the lowest value: of fewer electrons some meet by chance
_LEAST_PART = 0.05
#: part of the smaller image that both must show
_LEAST_OVERLAP = 0.25
#: standard deviations of what unrelated images correlate by: a lower peak is none
_CHANCE = 5.0
#: over how many positions edges fade before the maximum is looked for between positions, and the part at most
_FADE, _FADE_PART = 8, 0.25
#: steps a position in which the maximum is looked for, before a parabola
_FINE = 8


class Reason(IntEnum):
    """Why there is no displacement, as ``<name>_reason`` says it."""

    FOUND = 0  #: there is one
    REFERENCE = 1  #: others are compared with it: the first raster, or the one that took its place
    EMPTY = (
        2  #: fewer than 8 rows or columns are there, or 19 of 20 values are alike: no beam, or too few counts
    )
    TOO_FAR = 3  #: the correlation rises towards the end of the search, or too little of both images overlaps
    #: the highest correlation is hardly above what chance gives (too few counts, another place), or above the next peak
    #: (a lattice)
    UNCERTAIN = 4


@dataclass(frozen=True)
class Displacement:
    """What the reference has at (r, c) the image has at (r + row, c + col); NaN unless ``reason`` is FOUND."""

    row: float
    col: float
    #: 0 to 1: how far the correlation's peak is above the next one, and above chance, as a part of its height
    confidence: float
    reason: Reason = Reason.FOUND

    @classmethod
    def none(cls, reason: Reason, confidence: float = 0.0) -> Displacement:
        return cls(math.nan, math.nan, confidence, reason)

    @property
    def found(self) -> bool:
        return self.reason is Reason.FOUND


def displacement(
    image: np.ndarray,
    reference: np.ndarray,
    search: float,
    about: tuple[float, float] = (0.0, 0.0),
    least_confidence: float = LEAST_CONFIDENCE,
) -> Displacement:
    """Displacement of ``image`` (rows, cols) from ``reference`` (rows, cols), at most ``search`` away from ``about``.

    NaN are missing positions of either. What is found with less than
    ``least_confidence`` is UNCERTAIN.
    """
    one, other = _compared(reference), _compared(image)
    if one is None or other is None:
        return Displacement.none(Reason.EMPTY)
    correlation, lags, chance = _correlation(one, other, search, about)
    near = np.hypot(lags[0][:, np.newaxis] - about[0], lags[1] - about[1]) <= search
    within = np.where(near, correlation, -np.inf)
    y, x = (int(at) for at in np.unravel_index(np.argmax(within), within.shape))
    highest = float(within[y, x])
    around = correlation[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
    if not math.isfinite(highest) or around.max() > highest:
        return Displacement.none(Reason.TOO_FAR)
    confidence = 1 - max(_next_peak(within, (y, x)), _CHANCE * chance) / highest if highest > 0 else 0.0
    confidence = max(0.0, confidence)
    if not confidence or confidence < least_confidence:
        return Displacement.none(Reason.UNCERTAIN, confidence)
    row, col = _between(one, other, (int(lags[0][y]), int(lags[1][x])))
    return Displacement(row, col, confidence)


def is_empty(image: np.ndarray) -> bool:
    """Whether there is nothing to compare: `Reason.EMPTY`."""
    return _compared(image) is None


def _compared(image: np.ndarray) -> np.ma.MaskedArray | None:
    """What is compared of an image, 0 where it is masked as missing; None where there is nothing to see.

    Of an image without negative values the square root is taken; a plane is subtracted, and what is too fine or too
    wide is left out.
    """
    seen = np.isfinite(image)
    if min(np.count_nonzero(seen.any(axis=axis)) for axis in (0, 1)) < _LEAST_POSITIONS:
        return None
    rows, cols = np.nonzero(seen)
    design = np.stack([np.ones(len(rows)), rows - rows.mean(), cols - cols.mean()], axis=1)
    values = image[seen]
    if np.count_nonzero(values > values.min()) < _LEAST_PART * values.size:
        return None
    if (
        values.min() >= 0
    ):  # counts: their noise is then the same everywhere (Anscombe, Biometrika 35, 246 (1948))
        values = 2 * np.sqrt(values + 0.375)
    left = values - design @ np.linalg.lstsq(design, values)[0]
    spread = left.std()
    if not spread > 1e-9 * np.abs(values).max():
        return None
    flat = np.zeros(image.shape)
    flat[seen] = left
    band = _blurred(flat, seen, _FINEST) - _blurred(flat, seen, _WIDEST)
    return np.ma.MaskedArray(np.where(seen, band / band[seen].std(), 0.0), ~seen)


def _blurred(image: np.ndarray, seen: np.ndarray, width: float) -> np.ndarray:
    """Mean about each position of those that are there; ``image`` is 0 where none is."""
    weight = ndimage.gaussian_filter(seen.astype(float), width)
    return ndimage.gaussian_filter(image, width) / np.maximum(weight, 1e-6)


def _correlation(
    one: np.ma.MaskedArray, other: np.ma.MaskedArray, search: float, about: tuple[float, float]
) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Correlation coefficients at whole lags around ``about``, those lags, and the error that chance gives them.

    -inf where too little overlaps.
    """
    reach = math.ceil(search) + 1
    lags = [round(middle) + np.arange(-reach, reach + 1) for middle in about]
    height, width = (
        scipy.fft.next_fast_len(max(n, m) + int(np.abs(lag).max()), real=True)
        for n, m, lag in zip(one.shape, other.shape, lags)
    )
    shape = height, width
    spectra = [
        [scipy.fft.rfft2(part, shape) for part in (image.data, image.data**2, (~image.mask).astype(float))]
        for image in (one, other)
    ]
    near = np.ix_(lags[0] % shape[0], lags[1] % shape[1])

    def at_lags(a: int, b: int) -> np.ndarray:
        return scipy.fft.irfft2(spectra[0][a].conj() * spectra[1][b], shape)[near]

    count = at_lags(2, 2)
    enough = count > max(_LEAST_OVERLAP * min(one.count(), other.count()), float(_LEAST_POSITIONS**2))
    count = np.maximum(count, 1.0)
    first, second = at_lags(0, 2), at_lags(2, 0)
    variance = (at_lags(1, 2) - first**2 / count) * (at_lags(2, 1) - second**2 / count)
    covariance = at_lags(0, 0) - first * second / count
    enough &= variance > 1e-6 * count**2
    correlation = np.full(count.shape, -np.inf)
    np.divide(covariance, np.sqrt(np.maximum(variance, 1e-300)), out=correlation, where=enough)
    chance = _chance(spectra[0][0], spectra[1][0], shape)
    return correlation, lags, chance / math.sqrt(max(1.0, count.max()))


def _chance(one: np.ndarray, other: np.ndarray, shape: tuple[int, int]) -> float:
    """What unrelated images of these spectra correlate by, standard deviation, times the root of the positions.

    The root of the sum, over lags, of the product of their autocorrelations: for noise 1, more where values go on. Only
    over the lags about 0 that are above a tenth: a lattice correlates again and again, which the next peak tells.
    """
    lasting = [
        scipy.fft.fftshift(scipy.fft.irfft2(np.abs(spectrum) ** 2, shape)) for spectrum in (one, other)
    ]
    middle = shape[0] // 2, shape[1] // 2
    lasting = [auto / auto[middle] for auto in lasting]
    lobe, _ = ndimage.label((lasting[0] > 0.1) & (lasting[1] > 0.1))
    return math.sqrt((lasting[0] * lasting[1])[lobe == lobe[middle]].sum())


def _next_peak(correlation: np.ndarray, at: tuple[int, int]) -> float:
    """The highest other peak: one that is not on the flanks of the highest, above half of it."""
    peaks = ndimage.maximum_filter(correlation, 3, mode="nearest") == correlation
    flanks, _ = ndimage.label(correlation > 0.5 * correlation[at])
    peaks &= flanks != flanks[at]
    return float(correlation[peaks].max()) if peaks.any() else -math.inf


def _between(one: np.ma.MaskedArray, other: np.ma.MaskedArray, lag: tuple[int, int]) -> tuple[float, float]:
    """The displacement near a whole one: where the correlation of what overlaps is highest between positions."""
    row, col = lag
    for _ in range(3):
        (one_y, other_y), (one_x, other_x) = (
            _overlap(n, m, by) for n, m, by in zip(one.shape, other.shape, (row, col))
        )
        a, b = one[one_y, one_x], other[other_y, other_x]
        seen = ~(a.mask | b.mask)
        window = np.outer(*(faded(n, max(1.0, min(_FADE, _FADE_PART * n))) for n in seen.shape)) * seen
        weight = window.sum()
        spectra = [
            scipy.fft.fft2((part.data - (part.data * window).sum() / weight) * window) for part in (a, b)
        ]
        product = spectra[0].conj() * spectra[1]
        fine = np.arange(-_FINE, _FINE + 1) / _FINE
        y, x = (np.exp(2j * math.pi * np.outer(fine, scipy.fft.fftfreq(n))) for n in seen.shape)
        values = (y @ product @ x.T).real
        i, j = np.unravel_index(np.argmax(values), values.shape)
        if 0 < i < len(fine) - 1 and 0 < j < len(fine) - 1:
            by_row = fine[i] + vertex(*values[i - 1 : i + 2, j]) / _FINE
            by_col = fine[j] + vertex(*values[i, j - 1 : j + 2]) / _FINE
            return row + by_row, col + by_col
        row, col = row + round(fine[i]), col + round(fine[j])
    return float(row), float(col)


def _overlap(n: int, m: int, by: int) -> tuple[slice, slice]:
    """Of an axis of n positions and one of m, displaced by ``by``: what both show."""
    first, last = max(0, -by), min(n, m - by)
    return slice(first, last), slice(first + by, last + by)


def faded(n: int, over: float) -> np.ndarray:
    """(n,) 1, falling off to both ends as a sine squared ``over`` so many positions."""
    from_edge = np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5
    return np.sin(np.clip(from_edge / over, 0, 1) * (math.pi / 2)) ** 2


def vertex(before: float, here: float, behind: float) -> float:
    """Where the parabola through three neighbours is highest, from the middle one; at most 1 away."""
    bent = before - 2 * here + behind
    return float(np.clip(0.5 * (before - behind) / bent, -1, 1)) if bent < 0 else 0.0
