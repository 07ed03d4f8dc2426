"""The pixels of image messages, encoded: what differs from frame to frame, kept in memory by address.

In: arrays of frames. Out: :class:`Payloads`, the CBOR maps ``{channel: array}`` that end an image message.
Frames are compressed on the calling thread without the GIL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cbor2
import numpy as np
from numba import njit

from live4d_ophyd.frames.memory import NOGIL, copy_bytes, store_u8
from live4d_ophyd.sim.compress import (
    ALGORITHMS,
    BLOCK_BYTES,
    HASH_BYTES,
    check_compression,
    compress_array,
    compressed_bound,
)
from live4d_ophyd.sim.encode import TYPED_ARRAY_TAGS


class Stopped(Exception):
    """The series was ended while its frames were computed."""


class Frames(Protocol):
    """Encoded frames that a sender asks for by chunks, when their turn comes."""

    #: frames of each chunk but the last
    @property
    def chunk_frames(self) -> int: ...

    def __len__(self) -> int: ...

    def chunk(self, number: int, stopped: Callable[[], bool] = ...) -> Payloads:
        """The frames from ``number * chunk_frames`` on. Raises Stopped when told to stop before they are there."""
        ...


@dataclass
class Payloads:
    """Encoded ``data`` maps of n frames, kept in memory for senders that take them by address."""

    #: ``(n,) int64`` each: where the map is, its bytes, and the first channel's content in it (offset, bytes)
    address: np.ndarray
    length: np.ndarray
    blob_offset: np.ndarray
    blob_length: np.ndarray
    _memory: list[np.ndarray] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.address)

    @property
    def chunk_frames(self) -> int:
        """All of them are here: one chunk."""
        return max(len(self), 1)

    def chunk(self, number: int, stopped: Callable[[], bool] = lambda: False) -> Payloads:
        """Themselves, as :class:`Frames` that are complete."""
        return self

    def __add__(self, other: Payloads) -> Payloads:
        """The frames of both, in the same memory as before."""
        return Payloads(
            np.concatenate([self.address, other.address]),
            np.concatenate([self.length, other.length]),
            np.concatenate([self.blob_offset, other.blob_offset]),
            np.concatenate([self.blob_length, other.blob_length]),
            self._memory + other._memory,
        )

    def payload(self, number: int) -> bytes:
        """One ``data`` map, copied."""
        memory, offset = self._find(number)
        return memory[offset : offset + int(self.length[number])].tobytes()

    def _find(self, number: int) -> tuple[np.ndarray, int]:
        address = int(self.address[number])
        for memory in self._memory:
            offset = address - int(memory.ctypes.data)
            if 0 <= offset < len(memory):
                return memory, offset
        raise IndexError(f"frame {number} was not encoded")

    @property
    def nbytes(self) -> int:
        return sum(memory.nbytes for memory in self._memory)


@njit(**NOGIL)
def store_cbor_head(major, value, destination):
    """Initial bytes of a CBOR item, shortest form. Returns the address after them."""
    kind = major << 5
    if value < 24:
        store_u8(destination, kind | value)
        return destination + 1
    size = 1 if value < 1 << 8 else 2 if value < 1 << 16 else 4 if value < 1 << 32 else 8
    store_u8(destination, kind | (24 if size == 1 else 25 if size == 2 else 26 if size == 4 else 27))
    for i in range(size):
        store_u8(destination + 1 + i, (value >> (8 * (size - 1 - i))) & 0xFF)
    return destination + 1 + size


@njit(**NOGIL)
def _encode(pixels, frame_bytes, elem_size, heads, head_ends, algorithm, block_bytes, out, scratch, index):
    """Frames ``(n, channels, ...)`` at ``pixels`` one after the other; ``index`` is ``(n, 4) int64``.

    ``scratch`` holds a compressed array, because its size goes before it, and then what compress_array needs.
    """
    channels = len(head_ends)
    blob = scratch + HASH_BYTES + block_bytes
    end = out
    for n in range(len(index)):
        start = end
        end = store_cbor_head(5, channels, end)
        head = heads
        for channel in range(channels):
            source = pixels + (n * channels + channel) * frame_bytes
            size = compress_array(source, frame_bytes, elem_size, algorithm, block_bytes, blob, scratch)
            copy_bytes(end, head, heads + head_ends[channel] - head)
            end += heads + head_ends[channel] - head
            head = heads + head_ends[channel]
            end = store_cbor_head(2, size, end)
            if channel == 0:
                index[n, 2], index[n, 3] = end - start, size
            copy_bytes(end, blob, size)
            end += size
        index[n, 0], index[n, 1] = start - out, end - start
    return end - out


class PayloadEncoder:
    """Turns frames of one shape, dtype and set of channels into :class:`Payloads`."""

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: str,
        channels: Sequence[str] = ("threshold_1",),
        compression: str = "bslz4",
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        check_compression(compression, block_bytes, self.dtype.itemsize)
        self.shape, self.channels = shape, tuple(channels)
        self.algorithm, self.block_bytes = ALGORITHMS[compression], block_bytes
        dumps = cbor2.dumps
        tag = TYPED_ARRAY_TAGS[str(np.dtype(dtype))]
        compressed = b"\xd9\xdc\xb4\x83" + dumps(compression) + dumps(self.dtype.itemsize)
        array = b"\xd8\x28\x82" + dumps(list(shape)) + b"\xd8" + bytes([tag])
        array += b"" if compression == "none" else compressed
        heads = [dumps(channel) + array for channel in self.channels]
        self._heads = np.frombuffer(b"".join(heads), np.uint8).copy()
        self._head_ends = np.cumsum([len(head) for head in heads])

    def encode(self, batches: Iterable[np.ndarray]) -> Payloads:
        """Payloads of batches of frames, each ``(n, rows, cols)`` or ``(n, channels, rows, cols)``."""
        frame_bytes = self.shape[0] * self.shape[1] * self.dtype.itemsize
        bound = compressed_bound(frame_bytes, self.block_bytes)
        scratch = np.empty(HASH_BYTES + self.block_bytes + bound, np.uint8)
        memory: list[np.ndarray] = []
        tables: list[np.ndarray] = []
        for frames in batches:
            pixels = np.ascontiguousarray(frames, self.dtype).reshape(-1, len(self.channels), *self.shape)
            index = np.empty((len(pixels), 4), np.int64)
            out = np.empty(len(pixels) * (9 + len(self._heads) + len(self.channels) * (9 + bound)), np.uint8)
            written = _encode(
                int(pixels.ctypes.data),
                frame_bytes,
                self.dtype.itemsize,
                int(self._heads.ctypes.data),
                self._head_ends,
                self.algorithm,
                self.block_bytes,
                int(out.ctypes.data),
                int(scratch.ctypes.data),
                index,
            )
            kept = out[:written].copy()
            index[:, 0] += int(kept.ctypes.data)
            memory.append(kept)
            tables.append(index)
        table = np.concatenate(tables) if tables else np.empty((0, 4), np.int64)
        address, length, blob_offset, blob_length = (np.ascontiguousarray(column) for column in table.T)
        return Payloads(address, length, blob_offset, blob_length, memory)
