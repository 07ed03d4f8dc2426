"""Sum over frames on one CPU core, without the GIL: pixel by pixel, in pieces whose sums stay in the cache."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import float64, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from live4d_ophyd.decode.cpu.vectors import I32, WORDS, constant, splat
from live4d_ophyd.decode.saturation import NO_LIMIT, Saturation
from live4d_ophyd.frames.memory import I8, I16, I64, NOGIL, load, store

#: pixels whose sums stay in the first-level cache while all frames are added
_AT_ONCE = 1024


def _adder(kind):
    pixels_8 = ir.VectorType(kind, 8)

    @intrinsic
    def add_pixels(typingctx, total, valid, first, second, third, fourth, count, limit, others):
        def codegen(context, builder, signature, args):
            total, valid, *frames, count, limit, others = args
            limits = [splat(builder, limit, 8), *[splat(builder, others, 8)] * 3]
            with cgutils.for_range(builder, builder.lshr(count, constant(3))) as loop:
                at = builder.mul(loop.index, constant(64))
                here = builder.mul(loop.index, constant(kind.width))
                total_at, valid_at = builder.add(total, at), builder.add(valid, at)
                sums, counts = load(builder, total_at, WORDS), load(builder, valid_at, WORDS)
                for frame, limit in zip(frames, limits):
                    pixel = load(builder, builder.add(frame, here), pixels_8)
                    if kind != I64:
                        pixel = builder.zext(pixel, WORDS)
                    below = builder.sext(builder.icmp_unsigned("<", pixel, limit), WORDS)
                    sums = builder.add(sums, builder.and_(pixel, below))
                    counts = builder.sub(counts, below)
                store(builder, sums, total_at)
                store(builder, counts, valid_at)
            return context.get_dummy_value()

        return types.void(*[int64] * 9), codegen

    return add_pixels


#: (total, valid, four addresses of pixels, count, limit, others): for each of the four, total += pixel and valid += 1
#: where pixel < limit; count is a multiple of 8, others the limit of the last three. Four, as loading and storing the
#: sums costs more than adding to them
_add_u8, _add_u16, _add_u32, _add_u64 = _adder(I8), _adder(I16), _adder(I32), _adder(I64)


@njit(**NOGIL)
def _add_unsigned(patterns, take, limit, total, valid):
    elem_size, n_pixels, n = patterns.itemsize, patterns.shape[1], take.shape[0]
    origin = int64(patterns.ctypes.data)
    total_at, valid_at = int64(total.ctypes.data), int64(valid.ctypes.data)
    for first in range(0, n_pixels, _AT_ONCE):
        count = min(_AT_ONCE, n_pixels - first)
        whole = count & ~7
        sums, counts = total_at + 8 * first, valid_at + 8 * first
        i = 0
        while i < n:
            a = origin + (take[i] * n_pixels + first) * elem_size
            b, c, d, others, step = a, a, a, 0, 1  # no pixel is below 0
            if i + 4 <= n:
                b = origin + (take[i + 1] * n_pixels + first) * elem_size
                c = origin + (take[i + 2] * n_pixels + first) * elem_size
                d = origin + (take[i + 3] * n_pixels + first) * elem_size
                others, step = limit, 4
            if elem_size == 4:
                _add_u32(sums, counts, a, b, c, d, whole, limit, others)
            elif elem_size == 2:
                _add_u16(sums, counts, a, b, c, d, whole, limit, others)
            elif elem_size == 1:
                _add_u8(sums, counts, a, b, c, d, whole, limit, others)
            else:
                _add_u64(sums, counts, a, b, c, d, whole, limit, others)
            i += step
        for frame in take:
            for k in range(first + whole, first + count):
                pixel = patterns[frame, k]
                if pixel < np.uint64(limit):
                    total[k] += int64(pixel)
                    valid[k] += 1


@njit(**NOGIL)
def _add_others(patterns, take, limit, total, valid):
    """The same for signed integers and floats, a few times slower; NaN is below no limit."""
    for frame in take:
        for k in range(patterns.shape[1]):
            pixel = patterns[frame, k]
            if float64(pixel) < limit:
                total[k] += pixel
                valid[k] += 1


def add_frames(
    patterns: np.ndarray, take: np.ndarray, saturation: Saturation, total: np.ndarray, valid: np.ndarray
) -> None:
    """`sum_over_frames` of NumPy arrays."""
    limit = None if saturation.counted else saturation.limit(patterns.dtype)
    flat = np.ascontiguousarray(patterns).reshape(len(patterns), patterns.shape[1] * patterns.shape[2])
    sums = total.reshape(-1), valid.reshape(-1)
    if patterns.dtype.kind == "u" and patterns.dtype.isnative:
        _add_unsigned(flat, take, NO_LIMIT if limit is None else min(limit, NO_LIMIT), *sums)
    else:
        # Neither infinity nor an integer that needs more than 53 bits is a limit of signed integers of 32 bits.
        native = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        _add_others(native, take, np.inf if limit is None else float(limit), *sums)
