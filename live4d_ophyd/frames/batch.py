"""FrameBatch: the messages of one receive call, compressed as they came, and where everything in them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Columns of FrameBatch.index, one row a message.
OFFSET = 0  #: first byte of the message in the buffer
LENGTH = 1  #: bytes of the message
STATUS = 2  #: what the message is (below), or what is wrong with it
SERIES_ID = 3  #: -1 when absent
UNIQUE_ID = 4  #: 64-bit hash of series_unique_id, 0 when absent (`index.hash_text`)
IMAGE_ID = 5  #: 0-based, -1 when absent
BLOB_OFFSET = 6  #: first byte of the wanted channel's array content in the buffer
BLOB_LENGTH = 7
ROWS = 8
COLS = 9
ARRAY_TAG = 10  #: RFC 8746 typed-array tag: 64 u8, 69 u16 LE, 70 u32 LE, 85 f32 LE, ...
ALGORITHM = 11  #: number of the codec (`codecs`)
ELEM_SIZE = 12  #: element size the compression tag names, bytes; 0 when uncompressed
RECEIVED_NS = 13  #: when the message was taken from the socket, time.monotonic in ns
COLUMNS = 14

# STATUS of a message that was understood.
IMAGE, START, END, OTHER = 0, 1, 2, 3
# STATUS of one the fast path did not take. `messages.read_message` then says exactly why, or reads it after all.
TRUNCATED, MALFORMED, UNUSUAL, INCOMPLETE, TRAILING, NO_CHANNEL, MULTIPART = -1, -2, -3, -4, -5, -6, -7

#: bytes after the last message that kernels may read (never use): vector loads run past the end
SLACK = 64


@dataclass(frozen=True)
class BatchMemory:
    """What the batches of a backend are: how large it wants one, and where it lies.

    ``empty(n)`` gives n bytes, (n,) uint8: pinned where a GPU fetches them.
    """

    nbytes: int = 4 << 20
    messages: int = 2048
    empty: Callable[[int], np.ndarray] = lambda n: np.zeros(n, np.uint8)

    def index(self, messages: int) -> np.ndarray:
        """``(messages, COLUMNS) int64``."""
        return self.empty(messages * COLUMNS * 8).view(np.int64).reshape(messages, COLUMNS)

    def batch(self) -> FrameBatch:
        return FrameBatch(self.empty(self.nbytes + SLACK), self.index(self.messages))


HOST_MEMORY = BatchMemory()


@dataclass
class FrameBatch:
    """Messages of one connection in the order they came.

    ``buffer`` is one contiguous ``(capacity + SLACK,) uint8`` array; ``index`` is ``(max_messages, COLUMNS)
    int64``, of which the first ``count`` rows are valid; ``channel`` is what it was indexed for, b"" for the first
    channel of each message; ``connection`` is the number of the one that brought it; ``lease`` is of a receiver that
    lends its own memory: it holds ``buffer`` and ``index``, until the batch is received into again or gone. Frames stay
    compressed; nothing here allocates or copies per frame.
    """

    buffer: np.ndarray
    index: np.ndarray
    count: int = 0
    channel: bytes = b""
    connection: int = 0
    lease: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def allocate(cls, capacity: int = 32 << 20, max_messages: int = 4096) -> FrameBatch:
        """Empty batch for ``capacity`` bytes of messages."""
        return BatchMemory(capacity, max_messages).batch()

    @classmethod
    def from_messages(cls, messages: list[bytes]) -> FrameBatch:
        """Batch that holds these messages, not yet indexed (tests, files)."""
        batch = cls.allocate(sum(-len(m) % 64 + len(m) for m in messages), max(1, len(messages)))
        position = 0
        for row, message in enumerate(messages):
            batch.buffer[position : position + len(message)] = np.frombuffer(message, np.uint8)
            batch.index[row, OFFSET], batch.index[row, LENGTH] = position, len(message)
            position += -len(message) % 64 + len(message)
        batch.count = len(messages)
        return batch

    def copy(self, begin: int, end: int) -> FrameBatch:
        """Entries ``begin`` to ``end`` in a batch of their own."""
        index = self.index[begin:end].copy()
        first = int(index[0, OFFSET])
        last = int(index[-1, OFFSET] + index[-1, LENGTH])
        buffer = np.zeros(last - first + SLACK, np.uint8)
        buffer[: last - first] = self.buffer[first:last]
        index[:, [OFFSET, BLOB_OFFSET]] -= first
        return FrameBatch(buffer, index, end - begin, self.channel, self.connection)

    @property
    def capacity(self) -> int:
        return len(self.buffer) - SLACK

    def column(self, number: int) -> np.ndarray:
        """One index column of the valid rows, ``(count,) int64`` view."""
        return self.index[: self.count, number]

    @property
    def status(self) -> np.ndarray:
        return self.column(STATUS)

    @property
    def image_id(self) -> np.ndarray:
        return self.column(IMAGE_ID)

    def message(self, entry: int) -> bytes:
        """The message of one entry, copied."""
        start = int(self.index[entry, OFFSET])
        return self.buffer[start : start + int(self.index[entry, LENGTH])].tobytes()
