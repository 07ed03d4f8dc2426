"""What can be read off an image: a profile along a line, its spectrum, which positions were lost, black and white.

In: images ``(scan_y, scan_x)``, float64, NaN where nothing is known. Out: values. Any thread; it knows no Qt.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

#: an image is looked at through so many values at most, where a sample is enough
SAMPLE = 1 << 16
#: positions along an axis of which a spectrum is made, the middle ones: more would hold up the window
SPECTRUM_SIDE = 1024
#: of the values that are seen, that become black and white; as in the pictures
PERCENTILES = (0.5, 99.5)


def profile(
    image: np.ndarray,
    start: tuple[float, float],
    end: tuple[float, float],
    steps: tuple[float, float],
    width: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from ``start``, in the unit of ``steps``, and values there, (n,) each; NaN off the image.

    Values are linear between the positions around that are known, NaN where those have less than half of the weight;
    and the mean over ``width`` lines side by side, a position apart, of those that are not NaN.

    Parameters
    ----------
    image : (scan_y, scan_x)
    start, end : (row, col); whole numbers are positions
    steps : (scan_y, scan_x) distance of positions
    width : lines
    """
    first, last = np.asarray(start, float), np.asarray(end, float)
    along = last - first
    positions = float(np.hypot(*along))
    number = max(2, int(np.ceil(positions)) + 1)
    across = np.array([-along[1], along[0]]) / positions if positions else np.array([1.0, 0.0])
    t = np.linspace(0, 1, number)[:, np.newaxis, np.newaxis]
    beside = np.arange(width) - (width - 1) / 2
    points = first + t * along + beside[np.newaxis, :, np.newaxis] * across  # (n, width, 2)
    seen = np.isfinite(image)
    values, weights = (
        map_coordinates(part, np.moveaxis(points, -1, 0), order=1, cval=0.0, prefilter=False)
        for part in (np.where(seen, image, 0.0), seen.astype(float))
    )
    known = weights > 0.499  # of the positions around
    total = np.divide(values, weights, out=np.zeros_like(values), where=known).sum(axis=1)
    count = known.sum(axis=1)
    mean = np.divide(total, count, out=np.full(number, np.nan), where=count > 0)
    return t[:, 0, 0] * float(np.hypot(*(along * np.asarray(steps)))), mean


def spectrum(image: np.ndarray, steps: tuple[float, float]) -> tuple[np.ndarray, tuple[float, float]]:
    """log10 of the power of the middle of an image, zero frequency in the middle, and what one of its px is.

    The mean is subtracted, unknown positions have it, and a Hann window takes the cross of the edges away. The second
    value is (y, x) in 1 / unit of ``steps``. NaN throughout where less than 2 x 2 positions are known.
    """
    rows, cols = (
        slice((n - min(n, SPECTRUM_SIDE)) // 2, (n + min(n, SPECTRUM_SIDE)) // 2) for n in image.shape
    )
    part = image[rows, cols]
    per_px = tuple(1 / (n * step) for n, step in zip(part.shape, steps))
    known = np.isfinite(part)
    if min(part.shape) < 2 or np.count_nonzero(known) < 4:
        return np.full(part.shape, np.nan), (per_px[0], per_px[1])
    mean = float(part[known].mean())
    window = np.hanning(part.shape[0])[:, np.newaxis] * np.hanning(part.shape[1])
    transformed = np.fft.fftshift(np.fft.fft2(np.where(known, part - mean, 0) * window))
    power = transformed.real**2 + transformed.imag**2
    return np.log10(power + max(float(power.max()), 1e-300) * 1e-12), (per_px[0], per_px[1])


def lost(image: np.ndarray, preview: bool) -> np.ndarray:
    """Positions that the raster went over and that have no value, (scan_y, scan_x) bool.

    While it runs, those in rows above the last that is known: the rest is still to come.
    """
    unknown = ~np.isfinite(image)
    if preview:
        rows = np.flatnonzero(~unknown.all(axis=1))
        unknown[rows[-1] if len(rows) else 0 :] = False
    return unknown


def levels(image: np.ndarray) -> tuple[float, float] | None:
    """What is black and white in an image, of a sample of it; None where nothing is known."""
    step = max(1, int(np.sqrt(image.size / SAMPLE)))
    sample = image[::step, ::step]
    seen = sample[np.isfinite(sample)]
    if not seen.size:
        seen = image[np.isfinite(image)]
        if not seen.size:
            return None
    low, high = (float(level) for level in np.percentile(seen, PERCENTILES))
    return low, high if high > low else low + max(abs(low), 1.0) * 1e-3
