"""Which entries of a batch a decoder takes; common to all decoders."""

from __future__ import annotations

import numpy as np

from live4d_ophyd.frames.batch import IMAGE, FrameBatch

#: status, never returned: the frame is compressed in another way than those done together with it
OTHER_LAYOUT = 1


def rows_to_take(batch: FrameBatch, rows: np.ndarray | None) -> np.ndarray:
    """``rows`` as (n,) int64, by default those of all frames. Raises IndexError outside the batch."""
    if rows is None:
        return np.flatnonzero(batch.status == IMAGE)
    rows = np.ascontiguousarray(rows, np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= batch.count):
        raise IndexError(f"rows {rows.min()}..{rows.max()} of a batch of {batch.count} messages")
    return rows
