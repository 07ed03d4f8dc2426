"""Compression of frames as a DCU does it: ``bslz4`` (bit shuffle, then LZ4 by blocks), ``lz4``, or none.

In: arrays of pixels. Out: the bytes of an array's content, framing included, at addresses of the caller's.
Numba without the GIL on the calling thread. Own code, because the ``bitshuffle`` package has no wheels for
newer Pythons and for aarch64, calls one frame at a time, and starts OpenMP threads.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit

from live4d_ophyd.frames.codecs import BSLZ4, LZ4, RAW
from live4d_ophyd.frames.memory import (
    NOGIL,
    copy_bytes,
    load_i64,
    load_u8,
    load_u32,
    store_i64,
    store_u8,
    store_u16,
    store_u32,
)

#: names of the algorithms in messages and in the detector's ``compression`` setting
ALGORITHMS = {"none": RAW, "bslz4": BSLZ4, "lz4": LZ4}

#: bytes of a block before compression, as real detectors send
BLOCK_BYTES = 8192

_HASH_BITS = 13
#: bytes of scratch memory that :func:`compress_array` needs besides one block
HASH_BYTES = 4 << _HASH_BITS


@njit(**NOGIL)
def _big_endian(value, size, destination):
    for i in range(size):
        store_u8(destination + i, (value >> (8 * (size - 1 - i))) & 0xFF)


@njit(**NOGIL)
def bit_shuffle(source, elements, elem_size, destination):
    """Bits of ``elements`` (a multiple of 8) elements sorted into planes, least significant plane first."""
    plane_bytes = elements // 8
    for group in range(plane_bytes):
        first = source + group * 8 * elem_size
        for byte in range(elem_size):
            # The same byte of eight elements is an 8x8 matrix of bits: transpose it.
            x = int64(0)
            for i in range(8):
                x |= load_u8(first + i * elem_size + byte) << (8 * i)
            t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AA
            x ^= t ^ (t << 7)
            t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCC
            x ^= t ^ (t << 14)
            t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0
            x ^= t ^ (t << 28)
            for bit in range(8):
                store_u8(destination + (8 * byte + bit) * plane_bytes + group, (x >> (8 * bit)) & 0xFF)


@njit(**NOGIL)
def _extra_length(value, destination):
    while value >= 255:
        store_u8(destination, 255)
        destination += 1
        value -= 255
    store_u8(destination, value)
    return destination + 1


@njit(**NOGIL)
def _sequence(source, literals, offset, match, destination):
    """One LZ4 sequence; ``match == 0``: the last one, literals only. Returns the address after it."""
    token = destination
    destination += 1
    high = min(literals, 15)
    if literals >= 15:
        destination = _extra_length(literals - 15, destination)
    copy_bytes(destination, source, literals)
    destination += literals
    low = int64(0)
    if match:
        store_u16(destination, offset)
        destination += 2
        low = min(match - 4, 15)
        if match >= 19:
            destination = _extra_length(match - 19, destination)
    store_u8(token, (high << 4) | low)
    return destination


@njit(**NOGIL)
def _slot(table, word):
    """Address of the hash table's entry for four bytes: one more than where they were seen, or 0."""
    return table + 4 * (((word * 2654435761) >> (32 - _HASH_BITS)) & ((1 << _HASH_BITS) - 1))


@njit(**NOGIL)
def lz4_block(source, size, destination, table):
    """LZ4 block of ``size < 65536`` bytes; ``table`` is HASH_BYTES of scratch. Returns its size."""
    for i in range(0, HASH_BYTES, 8):
        store_i64(table + i, 0)
    end = destination
    anchor = position = int64(0)
    # The format wants the last match to start 12 bytes before the end and to leave 5 literals.
    last_start, last_match = size - 12, size - 5
    while position <= last_start:
        word = load_u32(source + position)
        slot = _slot(table, word)
        candidate = load_u32(slot) - 1
        store_u32(slot, position + 1)
        if candidate < 0 or load_u32(source + candidate) != word:
            position += 1 + ((position - anchor) >> 6)
            continue
        match = position + 4
        shift = position - candidate
        while match + 8 <= last_match and load_i64(source + match) == load_i64(source + match - shift):
            match += 8
        while match < last_match and load_u8(source + match) == load_u8(source + match - shift):
            match += 1
        while (
            position > anchor
            and position > shift
            and load_u8(source + position - 1) == load_u8(source + position - shift - 1)
        ):
            position -= 1
        end = _sequence(source + anchor, position - anchor, shift, match - position, end)
        anchor = position = match
        # A repetition often starts again just before the end of the last one.
        store_u32(_slot(table, load_u32(source + match - 2)), match - 1)
    return _sequence(source + anchor, size - anchor, 0, 0, end) - destination


@njit(**NOGIL)
def compressed_bound(size, block_bytes):
    """Bytes that :func:`compress_array` writes at most for an array of ``size`` bytes."""
    blocks = (size + block_bytes - 1) // block_bytes + 1
    return 12 + size + blocks * (4 + block_bytes // 255 + 16)


@njit(**NOGIL)
def compress_array(source, size, elem_size, algorithm, block_bytes, destination, scratch):
    """Content of one array: framing and blocks. Returns its bytes.

    ``scratch`` is ``HASH_BYTES + block_bytes`` bytes. ``block_bytes`` is a multiple of ``8 * elem_size``.
    """
    if algorithm == RAW:
        copy_bytes(destination, source, size)
        return size
    _big_endian(size, 8, destination)
    _big_endian(block_bytes, 4, destination + 8)
    end = destination + 12
    shuffled = scratch + HASH_BYTES
    done = int64(0)
    while done < size:
        block = min(block_bytes, size - done)
        if algorithm == BSLZ4:
            block -= block % (8 * elem_size)
            if block == 0:
                # fewer than eight elements are left: raw, without a size
                copy_bytes(end, source + done, size - done)
                return end + size - done - destination
            bit_shuffle(source + done, block // elem_size, elem_size, shuffled)
            written = lz4_block(shuffled, block, end + 4, scratch)
        else:
            written = lz4_block(source + done, block, end + 4, scratch)
            if written >= block:
                # stored: recognised by its size
                copy_bytes(end + 4, source + done, block)
                written = block
        _big_endian(written, 4, end)
        end += 4 + written
        done += block
    return end - destination


def compress(pixels: np.ndarray, algorithm: str, block_bytes: int = BLOCK_BYTES) -> bytes:
    """Content of one array. Raises ValueError for an unknown algorithm or an impossible block size."""
    check_compression(algorithm, block_bytes, pixels.itemsize)
    pixels = np.ascontiguousarray(pixels)
    out = np.empty(compressed_bound(pixels.nbytes, block_bytes), np.uint8)
    scratch = np.empty(HASH_BYTES + block_bytes, np.uint8)
    written = compress_array(
        int(pixels.ctypes.data),
        pixels.nbytes,
        pixels.itemsize,
        ALGORITHMS[algorithm],
        block_bytes,
        int(out.ctypes.data),
        int(scratch.ctypes.data),
    )
    return out[:written].tobytes()


def check_compression(algorithm: str, block_bytes: int, elem_size: int) -> None:
    """Raises ValueError where :func:`compress_array` would write what no decoder reads."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"compression is {algorithm!r}; known here: {', '.join(ALGORITHMS)}")
    if not 0 < block_bytes < 65536 or block_bytes % (8 * elem_size):
        raise ValueError(
            f"block size {block_bytes} for {elem_size}-byte pixels: it must be a multiple of {8 * elem_size} "
            "below 65536 bytes"
        )
