"""Where everything in a batch of messages is: one index row a message, without Python per frame.

In: messages in a buffer. Out: the index columns of :mod:`live4d_ophyd.frames.batch`. The numba functions need
no GIL and allocate nothing; the receive loop calls :func:`index_message` on its own thread.

What the walk takes for an image message, :func:`live4d_ophyd.sources.dectris.messages.read_message` accepts too, with
the same numbers. A status < 0 sends the message there: it says what is wrong, or reads a message that is legal but
UNUSUAL, and :func:`fill_from_message` then puts that into the row.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit

from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    ELEM_SIZE,
    END,
    IMAGE,
    IMAGE_ID,
    LENGTH,
    NO_CHANNEL,
    OFFSET,
    OTHER,
    RECEIVED_NS,
    ROWS,
    SERIES_ID,
    START,
    STATUS,
    UNIQUE_ID,
    UNUSUAL,
    FrameBatch,
)
from live4d_ophyd.frames.codecs import number_of
from live4d_ophyd.frames.encoded_array import array_tag
from live4d_ophyd.frames.memory import NOGIL
from live4d_ophyd.sources.dectris.envelope import (
    HASH_PRIME,
    HASH_START,
    MAX_CHANNELS,
    SCRATCH_SIZE,
    hash_text,
    walk_message,
)
from live4d_ophyd.sources.dectris.messages import (
    EndMessage,
    ImageMessage,
    Message,
    StartMessage,
    read_message,
)

__all__ = [
    "MAX_CHANNELS",
    "SCRATCH_SIZE",
    "channel_name",
    "fill_from_message",
    "hash_text",
    "hash_unique_id",
    "index_batch",
    "index_images",
    "index_message",
]


def hash_unique_id(text: str | None) -> int:
    """What :func:`hash_text` gives for this series_unique_id; 0 for None."""
    if text is None:
        return 0
    mask = (1 << 64) - 1
    value = HASH_START & mask
    for byte in text.encode():
        value = (value ^ byte) * HASH_PRIME & mask
    return value - (value >> 63 << 64) or 1


@njit(**NOGIL)
def index_message(address, length, base, row, channel, scratch):
    """Fill the index row of one message, all but OFFSET, LENGTH and RECEIVED_NS, and return its status.

    ``address`` is the message's, ``base`` the buffer's (BLOB_OFFSET counts from there), ``row`` is
    ``(COLUMNS,) int64``, ``channel`` ``(n,) uint8``: a channel's name, empty for the first of each message,
    ``scratch`` ``(SCRATCH_SIZE,) int64`` of the calling thread. Nothing outside ``address`` to ``address +
    length`` is read. Of a row with a status < 0 only the ids mean anything, and only for a log.
    """
    row[STATUS:RECEIVED_NS] = 0
    row[SERIES_ID] = row[IMAGE_ID] = -1
    status = walk_message(address, address + length, base, row, channel, scratch)
    row[STATUS] = status
    if status < 0:
        row[BLOB_OFFSET:RECEIVED_NS] = 0
    return status


@njit(**NOGIL)
def _index_rows(buffer, index, rows, channel, scratch):
    base = int64(buffer.ctypes.data)
    for i in rows:
        row = index[i]
        index_message(base + row[OFFSET], row[LENGTH], base, row, channel, scratch)


def channel_name(channel: str | bytes) -> np.ndarray:
    """A channel's name as the numba functions take it, ``(n,) uint8``."""
    # A copy: numba would compile all anew for an array that nobody may write to.
    return np.array(bytearray(channel.encode() if isinstance(channel, str) else channel), np.uint8)


def index_batch(batch: FrameBatch, channel: str | bytes = "") -> None:
    """Index all messages of a batch whose OFFSET and LENGTH are set; ``channel`` "" is the first of each."""
    offset, length = batch.column(OFFSET), batch.column(LENGTH)
    if np.any((offset < 0) | (length < 0) | (length > len(batch.buffer) - offset)):
        raise ValueError("the batch has messages that are not inside its buffer: set OFFSET and LENGTH first")
    name = channel_name(channel)
    batch.channel = name.tobytes()
    _index_rows(batch.buffer, batch.index, np.arange(batch.count), name, np.zeros(SCRATCH_SIZE, np.int64))


def index_images(batch: FrameBatch, rows: np.ndarray, channel: str) -> None:
    """Index ``rows``, ``(n,) int64``, which are image messages, for another channel than the batch was indexed for."""
    _index_rows(batch.buffer, batch.index, rows, channel_name(channel), np.zeros(SCRATCH_SIZE, np.int64))
    status = batch.status[rows]
    for row in rows[(status != IMAGE) & (status != NO_CHANNEL)].tolist():
        fill_from_message(batch, row, read_message(batch.message(row)), channel)


def fill_from_message(batch: FrameBatch, row: int, message: Message, channel: str | bytes = "") -> int:
    """Fill the index row of a message that only `read_message` could read, and return its status.

    The status stays UNUSUAL for an image message that no row can describe: column-major, or its content in pieces.
    Those are for :func:`live4d_ophyd.decode.decode_array`. Slow, for the odd message.
    """
    entry = batch.index[row]
    entry[STATUS:RECEIVED_NS] = 0
    entry[SERIES_ID] = getattr(message, "series_id", -1)
    entry[UNIQUE_ID] = hash_unique_id(getattr(message, "series_unique_id", None))
    entry[IMAGE_ID] = getattr(message, "image_id", -1)
    if isinstance(message, ImageMessage):
        entry[STATUS] = _fill_array(batch, row, message, channel)
    else:
        entry[STATUS] = {StartMessage: START, EndMessage: END}.get(type(message), OTHER)
    return int(entry[STATUS])


def _fill_array(batch: FrameBatch, row: int, message: ImageMessage, channel: str | bytes) -> int:
    name = channel if isinstance(channel, str) else channel.decode(errors="replace")
    name = name or next(iter(message.channels))
    if name not in message.channels:
        return NO_CHANNEL
    array = message.channels[name]
    position = batch.message(row).find(array.data)  # where the same bytes are twice, either place will do
    if position < 0 or array.order != "C":
        return UNUSUAL
    entry = batch.index[row]
    entry[BLOB_OFFSET], entry[BLOB_LENGTH] = entry[OFFSET] + position, len(array.data)
    entry[ROWS], entry[COLS] = array.shape
    entry[ARRAY_TAG] = array_tag(array.dtype)
    entry[ALGORITHM] = number_of(array.algorithm)
    entry[ELEM_SIZE] = array.elem_size
    return IMAGE
