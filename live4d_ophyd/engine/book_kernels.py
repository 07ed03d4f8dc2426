"""What the `FrameTracker` does with the frames of a batch, compiled: each frame is looked at once.

They keep the interpreter lock, as they take microseconds: to give it up would make the thread wait for its turn.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from live4d_ophyd.frames.memory import NOGIL

_HELD = {**NOGIL, "nogil": False}


@njit(**_HELD)
def claim(image_ids, claimed, lowest, new):
    """Claim those that are new: ``new`` (n,) bool says which. How many are beyond the series, and the highest claimed.

    ``claimed`` (frames,) bool of the series; frames below ``lowest`` are late.
    """
    beyond, highest = 0, -1
    for n in range(len(image_ids)):
        image_id = image_ids[n]
        new[n] = False
        if image_id < 0 or image_id >= len(claimed):
            beyond += 1
        elif image_id >= lowest and not claimed[image_id]:
            claimed[image_id] = new[n] = True
            highest = max(highest, image_id)
    return beyond, highest


@njit(**_HELD)
def book(image_ids, frames, good, received_ns, saturated, received, bad, saturated_counts, first, last):
    """Count frames by raster, of ``frames`` each, and the times of the first and the last, s; NaN before.

    Returns the lowest raster and the highest; -1 and a raster that the series does not have. Arrays (n,) of the frames,
    then (rasters,) of the series.
    """
    low, high = len(received), -1
    for n in range(len(image_ids)):
        raster = image_ids[n] // frames
        if raster < 0 or raster >= len(received):
            return -1, raster
        low, high = min(low, raster), max(high, raster)
        if good[n]:
            received[raster] += 1
            saturated_counts[raster] += saturated[n]
        else:
            bad[raster] += 1
        time = received_ns[n] * 1e-9
        if not time >= first[raster]:
            first[raster] = time
        if not time <= last[raster]:
            last[raster] = time
    return low, high


def warm_up() -> None:
    """Compile these, or load them."""
    ids, yes, counts, times = (
        np.zeros(0, np.int64),
        np.zeros(0, bool),
        np.zeros(1, np.int64),
        np.full(1, np.nan),
    )
    claim(ids, yes, 0, yes)
    book(ids, 1, yes, ids, yes, counts, counts, counts, times, times)
