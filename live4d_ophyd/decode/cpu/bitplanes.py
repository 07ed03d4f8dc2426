"""What one decoded bslz4 block gives: which of its pixels and planes count, and its pixels.

A block of n pixels holds ``8 * elem_size`` planes of n/8 bytes, least significant first in both directions.
The sum under a binary mask is sum_k 2^k popcount(plane_k AND mask): no pixel is ever formed. Addresses are
int64; a block's scratch has SLACK bytes behind it. Runs without the GIL, in the thread that owns the scratch.
"""

from __future__ import annotations

from numba import njit

from live4d_ophyd.decode.cpu.vectors import (
    any_bit,
    any_bit_64,
    fill_64,
    keep_below,
    unshuffle_u8,
    unshuffle_u16,
    unshuffle_u32,
    unshuffle_u64,
)
from live4d_ophyd.frames.memory import NOGIL, copy_bytes, load_i64, load_u8


@njit(**NOGIL)
def used_planes(planes, size, plane_bytes):
    """Number of planes up to the highest one with a bit set (or a little above it, at most 63 bytes).

    Counts fill few planes; the zero ones above them are found 64 bytes at a time from the end.
    """
    end = size
    while end >= 64 and any_bit_64(planes + end - 64) == 0:
        end -= 64
    return (end + plane_bytes - 1) // plane_bytes


@njit(**NOGIL)
def keep_all(keep, plane_bytes):
    """Fill ``keep`` with a bit for each pixel of the block; zero behind its last one."""
    for chunk in range((plane_bytes + 63) >> 6):
        fill_64(keep + 64 * chunk, -1)
    fill_64(keep + plane_bytes, 0)


@njit(**NOGIL)
def select_pixels(keep, planes, plane_bytes, used, limit, limit_bits):
    """Fill ``keep`` with a bit for each pixel of the block below ``limit``; returns 0 when that is all of them.

    Only a block that uses as many planes as the limit has bits can reach it. Chunks of 64 bytes may run past a
    plane's end: their last bits are switched off, though what they hold may have made the answer other than 0.
    """
    if used < limit_bits:
        keep_all(keep, plane_bytes)
        return 0
    found = keep_below(keep, planes, plane_bytes, used, limit, (plane_bytes + 63) >> 6)
    fill_64(keep + plane_bytes, 0)
    return found


@njit(**NOGIL)
def leaves_out(keep, mask, plane_bytes):
    """Whether any of the block's pixels under ``mask`` is not in ``keep``."""
    words = plane_bytes >> 3
    for word in range(words):
        if load_i64(mask + 8 * word) & ~load_i64(keep + 8 * word):
            return True
    for byte in range(8 * words, plane_bytes):  # noqa: SIM110  numba has no any()
        if load_u8(mask + byte) & ~load_u8(keep + byte):
            return True
    return False


@njit(**NOGIL)
def trim_planes(planes, plane_bytes, used, mask, keep):
    """Number of planes up to the highest one with a bit under ``mask`` and ``keep``.

    Dead and hot pixels outside the detectors set all high planes; this keeps them cheap.
    """
    chunks = (plane_bytes + 63) >> 6
    step = 1
    while used > 0:
        # One plane answers for a block of counts; then eight at a time, until the last few.
        step = min(step, used)
        if any_bit(planes + (used - step) * plane_bytes, plane_bytes, step, mask, keep, chunks) == 0:
            used -= step
            step = 8
        elif step == 1:
            break
        else:
            step >>= 1
    return used


@njit(**NOGIL)
def unshuffle_block(pixels, planes, size, elem_size):
    """Write the pixels of a block of ``size`` bytes (element size 1, 2, 4 or 8), and nothing behind them."""
    plane_bytes = size // (8 * elem_size)
    used = used_planes(planes, size, plane_bytes)
    whole, rest = plane_bytes >> 3, plane_bytes & 7
    # Pixels that do not fill a column of 64 go by way of the scratch behind the block.
    last = planes + size + 64
    for part in range(2 if rest else 1):
        column = planes + 8 * whole * part
        target, columns = (last, 1) if part else (pixels, whole)
        if elem_size == 4:
            unshuffle_u32(target, column, plane_bytes, used, columns)
        elif elem_size == 2:
            unshuffle_u16(target, column, plane_bytes, used, columns)
        elif elem_size == 1:
            unshuffle_u8(target, column, plane_bytes, used, columns)
        else:
            unshuffle_u64(target, column, plane_bytes, used, columns)
    copy_bytes(pixels + 64 * elem_size * whole, last, 8 * elem_size * rest)
