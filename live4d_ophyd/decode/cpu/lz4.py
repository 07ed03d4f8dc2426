"""LZ4 block decoder and verifier for hostile input, in numba without the GIL.

Both take the compressed bytes at an address and the number of bytes they must give. They are as strict as the
reference decoder: every offset points into what was decoded, the last five bytes are literals, the last match
starts at least twelve bytes before the end, the input is used up exactly. Nothing outside the input is read.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit

from live4d_ophyd.decode.cpu.vectors import copy_2, copy_8, copy_16, copy_32, fill_64
from live4d_ophyd.frames.memory import NOGIL, load_i64, load_u8, load_u16, store_i64, store_u8

INPUT_ENDS, LITERALS_TOO_LONG, BAD_OFFSET, MATCH_TOO_LONG = -1, -2, -3, -4

# A match whose offset is below 8 repeats a pattern of that many bytes. Eight bytes of it are made in a
# register (mask, multiply) and stored again and again at a step that is a multiple of the offset: no load
# waits for a store.
_PATTERN_MASK = np.array([0] + [(1 << (8 * o)) - 1 for o in range(1, 8)], np.uint64).view(np.int64)
_PATTERN_REPEAT = np.array(
    [0] + [sum(1 << shift for shift in range(0, 64, 8 * o)) for o in range(1, 8)], np.uint64
).view(np.int64)
_PATTERN_STEP = np.array([0, 8, 8, 6, 8, 5, 6, 7], np.int64)

LAST_LITERALS = 5
LAST_MATCH = 12
#: a sequence of at most 14 literals and a match of at most 18 bytes reads and writes fewer bytes than these
_SHORT_READ, _SHORT_WRITTEN = 32, 64


@njit(**NOGIL)
def lz4_decode(source, length, target, size):
    """Decode the block of ``length`` bytes at ``source`` into ``size`` bytes at ``target``.

    Returns the bytes decoded (fewer than ``size`` is for the caller to refuse) or a negative reason. Up to 64
    bytes behind ``target + size`` may be overwritten.
    """
    read, end = source, source + length
    write, full = target, target + size
    while True:
        # Most sequences are short and far from both ends: nothing of theirs needs a check but the offset.
        while read < end - _SHORT_READ and write < full - _SHORT_WRITTEN:
            token = load_u8(read)
            literals, match = token >> 4, token & 15
            if literals == 15 or match == 15:
                break
            copy_16(write, read + 1)
            write += literals
            read += literals + 3
            offset = load_u16(read - 2)
            if offset == 0 or offset > write - target:
                return BAD_OFFSET
            origin = write - offset
            if offset >= 8:
                copy_8(write, origin)
                copy_8(write + 8, origin + 8)
                copy_2(write + 16, origin + 16)
            else:
                pattern = (load_i64(origin) & _PATTERN_MASK[offset]) * _PATTERN_REPEAT[offset]
                step = _PATTERN_STEP[offset]
                store_i64(write, pattern)
                store_i64(write + step, pattern)
                store_i64(write + 2 * step, pattern)
                store_i64(write + 3 * step, pattern)
            write += match + 4
        if read >= end:
            return INPUT_ENDS
        token = load_u8(read)
        read += 1
        literals = token >> 4
        if literals == 15:
            more = 255
            while more == 255:
                if read >= end:
                    return INPUT_ENDS
                more = load_u8(read)
                read += 1
                literals += more
        if literals > end - read:
            return INPUT_ENDS
        if literals > full - write:
            return LITERALS_TOO_LONG
        done = 0
        if end - read >= literals + 32:
            while done < literals:
                copy_32(write + done, read + done)
                done += 32
        else:
            while done + 8 <= literals:
                copy_8(write + done, read + done)
                done += 8
            while done < literals:
                store_u8(write + done, load_u8(read + done))
                done += 1
        write += literals
        read += literals
        if read == end:
            return write - target
        if end - read < 2:
            return INPUT_ENDS
        offset = load_u16(read)
        read += 2
        if offset == 0 or offset > write - target:
            return BAD_OFFSET
        match = (token & 15) + 4
        if match == 19:
            more = 255
            while more == 255:
                if read >= end:
                    return INPUT_ENDS
                more = load_u8(read)
                read += 1
                match += more
        # Compared before it is added: `match` is bounded by the input only.
        if match > full - LAST_LITERALS - write or write > full - LAST_MATCH:
            return MATCH_TOO_LONG
        origin, stop = write - offset, write + match
        if offset == 1:
            pattern = (load_i64(origin) & 255) * 0x0101010101010101
            while write < stop:
                fill_64(write, pattern)
                write += 64
        elif offset >= 16:
            while write < stop:
                copy_16(write, origin)
                write += 16
                origin += 16
        elif offset >= 8:
            while write < stop:
                copy_8(write, origin)
                write += 8
                origin += 8
        else:
            pattern = (load_i64(origin) & _PATTERN_MASK[offset]) * _PATTERN_REPEAT[offset]
            step = _PATTERN_STEP[offset]
            while write < stop:
                store_i64(write, pattern)
                write += step
        write = stop


@njit(**NOGIL)
def lz4_verify(source, length, size):
    """What :func:`lz4_decode` would return, found without writing anything.

    For blocks that no detector touches: they need no pixels, but a frame with a broken block is a bad frame.
    """
    read, end = source, source + length
    written = int64(0)
    while True:
        while read < end - _SHORT_READ and written < size - _SHORT_WRITTEN:
            token = load_u8(read)
            literals, match = token >> 4, token & 15
            if literals == 15 or match == 15:
                break
            written += literals
            read += literals + 3
            offset = load_u16(read - 2)
            if offset == 0 or offset > written:
                return BAD_OFFSET
            written += match + 4
        if read >= end:
            return INPUT_ENDS
        token = load_u8(read)
        read += 1
        literals = token >> 4
        if literals == 15:
            more = 255
            while more == 255:
                if read >= end:
                    return INPUT_ENDS
                more = load_u8(read)
                read += 1
                literals += more
        if literals > end - read:
            return INPUT_ENDS
        read += literals
        written += literals
        if written > size:
            return LITERALS_TOO_LONG
        if read == end:
            return written
        if end - read < 2:
            return INPUT_ENDS
        offset = load_u16(read)
        read += 2
        if offset == 0 or offset > written:
            return BAD_OFFSET
        match = (token & 15) + 4
        if match == 19:
            more = 255
            while more == 255:
                if read >= end:
                    return INPUT_ENDS
                more = load_u8(read)
                read += 1
                match += more
        if match > size - LAST_LITERALS - written or written > size - LAST_MATCH:
            return MATCH_TOO_LONG
        written += match
