"""One compressed frame to sums or pixels: the walk over its blocks, in numba without the GIL.

Nothing is sized or placed by what the data say: the format does (its bytes, its pixels), and data that say
otherwise get a status. Scratch belongs to the caller and one thread.
"""

from __future__ import annotations

from numba import int64, njit

from live4d_ophyd.decode.cpu.bitplanes import (
    keep_all,
    leaves_out,
    select_pixels,
    trim_planes,
    unshuffle_block,
    used_planes,
)
from live4d_ophyd.decode.cpu.lz4 import lz4_decode, lz4_verify
from live4d_ophyd.decode.cpu.vectors import add_popcounts, add_weighted, fill_64
from live4d_ophyd.frames.memory import (
    NOGIL,
    copy_bytes,
    load_i64_be,
    load_u8,
    load_u16,
    load_u32,
    load_u32_be,
)
from live4d_ophyd.frames.status import (
    BAD_BLOCK_SIZE,
    BAD_LZ4,
    BLOB_TOO_SHORT,
    BLOCK_TRUNCATED,
    LEFT_OVER,
    OK,
    SHORT_BLOCK,
    WRONG_TOTAL,
)


@njit(**NOGIL)
def block_bytes(blob, length, total, granule):
    """Block size of a compressed array from its header, or a negative status.

    ``total`` is what the format says the array holds; ``granule`` what a block must be a multiple of:
    8 elements for bslz4, 1 byte for lz4. Bounds are the reference decoder's: positive and below 2^31.
    """
    if length < 12:
        return BLOB_TOO_SHORT
    if load_i64_be(blob) != total:
        return WRONG_TOTAL
    size = load_u32_be(blob + 8)
    if size == 0 or size >= 1 << 31 or size % granule != 0:
        return BAD_BLOCK_SIZE
    return size


@njit(**NOGIL)
def load_pixel(address, elem_size):
    """Little-endian unsigned pixel of 1, 2 or 4 bytes."""
    if elem_size == 4:
        return load_u32(address)
    if elem_size == 2:
        return load_u16(address)
    return load_u8(address)


@njit(**NOGIL)
def touches(plan, mask, first, last):
    """Has a mask pixels among its bytes first..last? May say so for a neighbour within 512 pixels."""
    return plan.touched[mask, (last + 63) >> 6] != plan.touched[mask, first >> 6]


@njit(**NOGIL)
def weigh_block(planes, size, elem_size, first, plan, totals, hits, keep, rule):
    """Add a decoded block of ``size`` bytes to ``totals`` (8 lanes a mask); ``hits`` marks saturated masks.

    ``first``: the mask byte of the block's first pixel; ``rule``: of `Saturation`.
    """
    limit, limit_bits, counted = rule
    n_planes = 8 * elem_size
    plane_bytes = size // n_planes
    # Zeros behind the last plane: its last chunk is read in full.
    fill_64(planes + size, 0)
    used = used_planes(planes, size, plane_bytes)
    stride = plan.masks.shape[1]
    union = int64(plan.masks.ctypes.data) + first
    n_masks = plan.masks.shape[0]
    if select_pixels(keep, planes, plane_bytes, used, limit, limit_bits):
        for mask in range(1, n_masks):
            if leaves_out(keep, union + mask * stride, plane_bytes):
                hits[mask - 1] = 1
        if counted:
            keep_all(keep, plane_bytes)
    used = trim_planes(planes, plane_bytes, used, union, keep)
    for mask in range(1, n_masks):
        if n_masks > 2 and not touches(plan, mask, first, first + plane_bytes):
            continue
        bits = union + mask * stride
        total = totals + 64 * (mask - 1)
        if plan.values.shape[0] == 0:
            add_popcounts(total, planes, plane_bytes, used, bits, keep, (plane_bytes + 63) >> 6)
        else:
            values = int64(plan.values.ctypes.data) + 8 * ((mask - 1) * plan.values.shape[1] + 8 * first)
            add_weighted(total, planes, plane_bytes, used, bits, keep, values, (plane_bytes + 7) >> 3)


@njit(**NOGIL)
def decode_frame(
    blob, length, total, elem_size, summed, plan, totals, hits, pattern, planes, keep, rule, verify
):
    """Decode one bslz4 frame of ``total`` bytes once; returns a status.

    With ``summed``, pixels are added to ``totals`` and ``hits``; the last ones, fewer than 8 and not compressed, are
    the caller's. With an address in ``pattern`` they are written there, the last ones too. Blocks that nothing needs
    are not decoded; with ``verify`` they are checked.
    """
    granule = 8 * elem_size
    block = block_bytes(blob, length, total, granule)
    if block < 0:
        return block
    read, end, left, first = blob + 12, blob + length, total, int64(0)
    while left >= granule:
        size = min(left, block)
        size -= size % granule
        if end - read < 4:
            return BLOCK_TRUNCATED
        compressed = load_u32_be(read)
        read += 4
        if compressed > end - read:
            return BLOCK_TRUNCATED
        last = first + size // granule
        weighed = summed and touches(plan, 0, first, last)
        if weighed or pattern != 0:
            decoded = lz4_decode(read, compressed, planes, size)
        elif verify:
            decoded = lz4_verify(read, compressed, size)
        else:
            decoded = size
        if decoded != size:
            return BAD_LZ4 if decoded < 0 else SHORT_BLOCK
        if weighed:
            weigh_block(planes, size, elem_size, first, plan, totals, hits, keep, rule)
        if pattern != 0:
            unshuffle_block(pattern + total - left, planes, size, elem_size)
        read += compressed
        left -= size
        first = last
    if end - read != left:
        return LEFT_OVER
    if pattern != 0:
        copy_bytes(pattern + total - left, read, left)
    return OK


@njit(**NOGIL)
def unshuffle_frame(blob, length, total, elem_size, target, planes):
    """Decode one bslz4 array of ``total`` bytes to ``target``, nothing behind it; returns a status."""
    granule = 8 * elem_size
    block = block_bytes(blob, length, total, granule)
    if block < 0:
        return block
    read, end, left = blob + 12, blob + length, total
    while left >= granule:
        size = min(left, block)
        size -= size % granule
        if end - read < 4:
            return BLOCK_TRUNCATED
        compressed = load_u32_be(read)
        read += 4
        if compressed > end - read:
            return BLOCK_TRUNCATED
        decoded = lz4_decode(read, compressed, planes, size)
        if decoded != size:
            return BAD_LZ4 if decoded < 0 else SHORT_BLOCK
        unshuffle_block(target, planes, size, elem_size)
        read += compressed
        target += size
        left -= size
    if end - read != left:
        return LEFT_OVER
    copy_bytes(target, read, left)
    return OK


@njit(**NOGIL)
def lz4_frame(blob, length, total, target):
    """Decode one plain ``lz4`` array of ``total`` bytes to ``target`` and returns a status.

    Up to 64 bytes behind it are overwritten.
    """
    block = block_bytes(blob, length, total, 1)
    if block < 0:
        return block
    read, end, left = blob + 12, blob + length, total
    while left > 0:
        size = min(left, block)
        if end - read < 4:
            return BLOCK_TRUNCATED
        compressed = load_u32_be(read)
        read += 4
        if compressed > end - read:
            return BLOCK_TRUNCATED
        if compressed == size:
            # As large as what it holds: stored.
            copy_bytes(target, read, size)
        else:
            decoded = lz4_decode(read, compressed, target, size)
            if decoded != size:
                return BAD_LZ4 if decoded < 0 else SHORT_BLOCK
        read += compressed
        target += size
        left -= size
    return OK if end == read else LEFT_OVER
