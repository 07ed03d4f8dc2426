"""Which entries of a batch a decoder takes; common to all decoders."""

from __future__ import annotations

import numpy as np

from live4d_ophyd.frames.batch import IMAGE, FrameBatch

#: status, never returned: the frame is compressed in another way than those done together with it
OTHER_LAYOUT = 1


def entries_to_decode(batch: FrameBatch, entries: np.ndarray | None) -> np.ndarray:
    """``entries`` as (n,) int64, by default those of all frames. Raises IndexError outside the batch."""
    if entries is None:
        return np.flatnonzero(batch.status == IMAGE)
    entries = np.ascontiguousarray(entries, np.int64)
    if len(entries) and (entries.min() < 0 or entries.max() >= batch.count):
        raise IndexError(f"rows {entries.min()}..{entries.max()} of a batch of {batch.count} messages")
    return entries
