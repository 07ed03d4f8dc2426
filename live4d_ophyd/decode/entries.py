"""Which rows of a batch a decoder takes, and what their algorithm is called; common to all decoders."""

from __future__ import annotations

import numpy as np

from live4d_ophyd.frames.batch import ALGORITHM, BLOB_LENGTH, BLOB_OFFSET, ELEM_SIZE, IMAGE, FrameBatch
from live4d_ophyd.frames.codecs import CODECS
from live4d_ophyd.sources.dectris.messages import ImageMessage, StreamError, read_message

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


def algorithm_name(batch: FrameBatch, row: int) -> str | None:
    """Name of the algorithm of an entry; from the message itself where it is none of `codecs`."""
    number = int(batch.index[row, ALGORITHM])
    if 0 <= number < len(CODECS):
        return CODECS[number].name
    try:
        message = read_message(batch.message(row))
    except StreamError:
        return None
    if not isinstance(message, ImageMessage):
        return None
    index = batch.index[row]
    offset, length = int(index[BLOB_OFFSET]), int(index[BLOB_LENGTH])
    blob = batch.buffer[offset : offset + length].tobytes()
    for channel in message.channels.values():
        # The index says where the wanted channel's data are, not what it is called.
        if channel.data == blob and channel.elem_size == index[ELEM_SIZE]:
            return channel.algorithm
    return None
