"""Pixels that are hot by the data: far above their neighbours in a mean diffraction pattern.

In comes a mean pattern and of how many frames it is, out comes a pixel mask. Any thread.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from live4d_ophyd.imaging.disk_fit import DiskFit

#: pixels along each side of the neighbourhood
_SIZE = 5
#: how far above the median of its neighbourhood a pixel is hot, in standard deviations
_SIGNIFICANCE = 8.0
#: what the specimen makes neighbours differ by, as a part of their level
_STRUCTURE = 0.1
#: pixels this close to the edge of the bright-field disk are not judged: their neighbours differ by themselves, px
_EDGE = 2.5


def find_hot_pixels(pattern: np.ndarray, frames: int, disk: DiskFit | None = None) -> np.ndarray:
    """Hot pixels of the mean ``pattern`` (rows, cols) of ``frames`` frames, counts a frame: (rows, cols) bool.

    As a mask it is what ``pixel_mask`` takes. Pixels that are not finite, and those on the edge of ``disk``, are not
    judged. From 64 frames on, all hot pixels of a scan that count more than the scatter of their neighbours are found.
    """
    pattern = np.asarray(pattern, np.float64)
    if pattern.ndim != 2 or frames < 1:
        raise ValueError(
            f"pattern of shape {pattern.shape} of {frames} frames: expected (rows, cols) of at least one"
        )
    judged = np.isfinite(pattern)
    # With 0 where nothing is judged no median is too high: these miss none.
    low = ndimage.median_filter(np.where(judged, pattern, 0.0), size=_SIZE, mode="constant")
    rows, cols = np.nonzero(judged & (pattern > _limit(low, frames)))
    around = np.pad(np.where(judged, pattern, np.nan), _SIZE // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(around, (_SIZE, _SIZE))[rows, cols]
    median = np.nanmedian(windows.reshape(len(rows), -1), axis=1) if len(rows) else np.zeros(0)
    hot = pattern[rows, cols] > _limit(median, frames)
    if disk is not None:
        distance = np.hypot(rows - disk.center[0], cols - disk.center[1])
        hot &= np.abs(distance - disk.radius) > _EDGE
    mask = np.zeros(pattern.shape, bool)
    mask[rows[hot], cols[hot]] = True
    return mask


def _limit(median: np.ndarray, frames: int) -> np.ndarray:
    """What a good pixel among neighbours of this median hardly exceeds: shot noise, and structure of the pattern."""
    variance = np.maximum(median, 0.5 / frames) / frames + (_STRUCTURE * median) ** 2
    return median + _SIGNIFICANCE * np.sqrt(variance)
