"""Sum over frames on one CPU core, without the GIL."""

from __future__ import annotations

import numpy as np
from numba import float64, int64, njit

from live4d_ophyd.decode.saturation import NO_LIMIT, Saturation
from live4d_ophyd.frames.memory import NOGIL

#: pixels whose sums stay in the first-level cache while all frames are added
_AT_ONCE = 1024


@njit(**NOGIL)
def _add_integers(patterns, take, limit, total, valid):
    for first in range(0, patterns.shape[1], _AT_ONCE):
        last = min(first + _AT_ONCE, patterns.shape[1])
        sums, counts = total[first:last], valid[first:last]
        for frame in take:
            pixels = patterns[frame, first:last]
            for k in range(last - first):
                pixel = int64(pixels[k])
                sums[k] += pixel if pixel < limit else int64(0)
                counts[k] += pixel < limit


@njit(**NOGIL)
def _add_floats(patterns, take, limit, total, valid):
    for first in range(0, patterns.shape[1], _AT_ONCE):
        last = min(first + _AT_ONCE, patterns.shape[1])
        sums, counts = total[first:last], valid[first:last]
        for frame in take:
            pixels = patterns[frame, first:last]
            for k in range(last - first):
                pixel = float64(pixels[k])
                # false for NaN, too
                sums[k] += pixel if pixel < limit else 0.0
                counts[k] += pixel < limit


def add_frames(
    patterns: np.ndarray,
    take: np.ndarray | None,
    saturation: Saturation,
    total: np.ndarray,
    valid: np.ndarray,
) -> None:
    """`sum_over_frames` of NumPy arrays."""
    shape, integer = patterns.shape[1:], patterns.dtype.kind in "ui"
    wanted = np.dtype(np.int64 if integer else np.float64)
    for name, array, dtype in (("total", total, wanted), ("valid", valid, np.dtype(np.int64))):
        if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
            raise ValueError(
                f"{name} of {array.shape} {array.dtype}: expected C-contiguous {shape} {dtype} for {patterns.dtype}"
            )
    which = np.arange(len(patterns)) if take is None else np.ascontiguousarray(take, np.int64)
    if len(which) and (which.min() < 0 or which.max() >= len(patterns)):
        raise IndexError(f"frames {which.min()}..{which.max()} of {len(patterns)}")
    limit = None if saturation.counted else saturation.limit(patterns.dtype)
    flat = patterns.reshape(len(patterns), -1), which
    sums = total.reshape(-1), valid.reshape(-1)
    if integer:
        _add_integers(*flat, NO_LIMIT if limit is None else min(limit, NO_LIMIT), *sums)
    else:
        _add_floats(*flat, np.inf if limit is None else float(limit), *sums)
