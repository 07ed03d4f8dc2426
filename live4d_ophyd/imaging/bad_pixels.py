"""Pixels that are hot or dead by the data: far above, or below, their neighbours in a mean diffraction pattern.

In comes a mean pattern and of how many frames it is, out comes a pixel mask. Any thread.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy import ndimage

from live4d_ophyd.imaging.disk_fit import DiskFit

#: pixels along each side of the neighbourhood
_SIZE = 5
#: how far above the median of its neighbourhood a pixel is hot, in standard deviations
_SIGNIFICANCE = 8.0
#: what the specimen makes neighbours differ by, as a part of their level
_STRUCTURE = 0.1
#: part of the median of its neighbourhood below which a pixel is dead
_DEAD = 0.2
#: counts of a neighbourhood, of all frames together, below which a dead pixel cannot be told from a good one
_LEAST_COUNTS = 20.0
#: pixels this close to the edge of the bright-field disk are not judged: their neighbours differ by themselves, px
_EDGE = 2.5


def find_hot_pixels(
    pattern: np.ndarray, frames: int, disk: DiskFit | None = None, structure: float = _STRUCTURE
) -> np.ndarray:
    """Hot pixels of the mean ``pattern`` (rows, cols) of ``frames`` frames, counts a frame: (rows, cols) bool.

    As a mask it is what ``pixel_mask`` takes. Pixels that are not finite, and those on the edge of ``disk``, are not
    judged. ``structure``: what neighbours differ by without being hot, as a part of their level. From 64 frames on, all
    hot pixels of a scan that count more than the scatter of their neighbours are found.
    """
    pattern = _checked(pattern, frames)
    judged = np.isfinite(pattern)
    # With 0 where nothing is judged no median is too high: these miss none.
    low = ndimage.median_filter(np.where(judged, pattern, 0.0), size=_SIZE, mode="constant")
    rows, cols = np.nonzero(judged & (pattern > _limit(low, frames, structure)))
    around = np.pad(np.where(judged, pattern, np.nan), _SIZE // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(around, (_SIZE, _SIZE))[rows, cols]
    median = np.nanmedian(windows.reshape(len(rows), -1), axis=1) if len(rows) else np.zeros(0)
    hot = pattern[rows, cols] > _limit(median, frames, structure)
    mask = np.zeros(pattern.shape, bool)
    mask[rows[hot], cols[hot]] = True
    return mask & ~_on_edge(pattern.shape, disk)


def find_dead_pixels(pattern: np.ndarray, frames: int, disk: DiskFit | None = None) -> np.ndarray:
    """Dead pixels of the mean ``pattern`` (rows, cols) of ``frames`` frames, counts a frame: (rows, cols) bool.

    They count less than a fifth of the median of the 5 x 5 pixels around them, where that is more than 20 counts of all
    frames together: of a scan those inside the bright-field disk, of a flood exposure all (`can_judge`). Pixels that
    are not finite, and those on the edge of ``disk``, are not judged.
    """
    pattern = _checked(pattern, frames)
    median = _median_around(pattern)
    with np.errstate(invalid="ignore"):  # NaN where nothing around is finite
        dead = np.isfinite(pattern) & (pattern < _DEAD * median)
        return dead & (median * frames > _LEAST_COUNTS) & ~_on_edge(pattern.shape, disk)


def can_judge(pattern: np.ndarray, frames: int) -> np.ndarray:
    """Where a dead pixel would be found, (rows, cols) bool; the edge of a disk aside."""
    with np.errstate(invalid="ignore"):
        return _median_around(_checked(pattern, frames)) * frames > _LEAST_COUNTS


def _median_around(pattern: np.ndarray) -> np.ndarray:
    """Median of the finite pixels of each neighbourhood; NaN where there is none."""
    if np.isfinite(pattern).all():
        return ndimage.median_filter(pattern, size=_SIZE, mode="reflect")
    around = np.pad(np.where(np.isfinite(pattern), pattern, np.nan), _SIZE // 2, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(around, (_SIZE, _SIZE))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return np.stack([np.nanmedian(row.reshape(len(row), -1), axis=1) for row in windows])


def _checked(pattern: np.ndarray, frames: int) -> np.ndarray:
    pattern = np.asarray(pattern, np.float64)
    if pattern.ndim != 2 or frames < 1:
        raise ValueError(
            f"pattern of shape {pattern.shape} of {frames} frames: expected (rows, cols) of at least one"
        )
    return pattern


def _on_edge(shape: tuple[int, int], disk: DiskFit | None) -> np.ndarray:
    if disk is None:
        return np.zeros(shape, bool)
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.abs(disk.distance(rows, cols) - disk.radius) <= _EDGE


def _limit(median: np.ndarray, frames: int, structure: float) -> np.ndarray:
    """What a good pixel among neighbours of this median hardly exceeds: shot noise, and structure of the pattern."""
    variance = np.maximum(median, 0.5 / frames) / frames + (structure * median) ** 2
    return median + _SIGNIFICANCE * np.sqrt(variance)
