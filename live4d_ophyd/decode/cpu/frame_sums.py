"""Sum over frames on one CPU core, without the GIL: pixel by pixel, in pieces whose sums stay in the cache."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import float64, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from live4d_ophyd.decode.cpu.frame_kernels import load_pixel
from live4d_ophyd.decode.cpu.vectors import I32, WORDS, constant, llvm_function, splat
from live4d_ophyd.decode.saturation import NO_LIMIT, Saturation
from live4d_ophyd.frames.memory import I8, I16, I64, NOGIL, load, load_i64, store

#: pixels whose sums stay in the first-level cache while all frames are added
_AT_ONCE = 1024
#: four pixels below this have a sum of 32 bits
_SMALL = 1 << 30


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


def _largest(kind):
    pixels_16 = ir.VectorType(kind, 16)

    @intrinsic
    def largest(typingctx, first, second, third, fourth, count):
        def codegen(context, builder, signature, args):
            *frames, count = args
            name = f"v16i{kind.width}"
            either = llvm_function(builder, f"llvm.umax.{name}", pixels_16, [pixels_16] * 2)
            found = [cgutils.alloca_once_value(builder, ir.Constant(pixels_16, None)) for _ in frames]
            with cgutils.for_range(builder, builder.lshr(count, constant(4))) as loop:
                here = builder.mul(loop.index, constant(2 * kind.width))
                for frame, largest in zip(frames, found):
                    pixels = load(builder, builder.add(frame, here), pixels_16)
                    builder.store(builder.call(either, [builder.load(largest), pixels]), largest)
            over_all, *others = (builder.load(largest) for largest in found)
            for other in others:
                over_all = builder.call(either, [over_all, other])
            reduce = llvm_function(builder, f"llvm.vector.reduce.umax.{name}", kind, [pixels_16])
            return builder.zext(builder.call(reduce, [over_all]), I64)

        return int64(*[int64] * 5), codegen

    return largest


#: (four addresses of pixels, count): the largest of all pixels; count is a multiple of 16
_largest_u8, _largest_u16, _largest_u32 = _largest(I8), _largest(I16), _largest(I32)


def _small_adder(kind):
    pixels_16, sums_16 = ir.VectorType(kind, 16), ir.VectorType(I32, 16)

    @intrinsic
    def add_small(typingctx, total, first, second, third, fourth, count):
        def codegen(context, builder, signature, args):
            total, *frames, count = args
            with cgutils.for_range(builder, builder.lshr(count, constant(4))) as loop:
                here = builder.mul(loop.index, constant(2 * kind.width))
                four = ir.Constant(sums_16, None)
                for frame in frames:
                    pixels = load(builder, builder.add(frame, here), pixels_16)
                    four = builder.add(four, pixels if kind == I32 else builder.zext(pixels, sums_16))
                for half in range(2):
                    lanes = ir.Constant(ir.VectorType(I32, 8), [8 * half + k for k in range(8)])
                    of_half = builder.zext(builder.shuffle_vector(four, four, lanes), WORDS)
                    at = builder.add(
                        total, builder.add(builder.mul(loop.index, constant(128)), constant(64 * half))
                    )
                    store(builder, builder.add(load(builder, at, WORDS), of_half), at)
            return context.get_dummy_value()

        return types.void(*[int64] * 6), codegen

    return add_small


#: (total, four addresses of pixels, count): total += pixel of each, all below `_SMALL`; count is a multiple of 16
_add_small_u8, _add_small_u16, _add_small_u32 = _small_adder(I8), _small_adder(I16), _small_adder(I32)


@njit(**NOGIL)
def _add_if_small(sums, a, b, c, d, count, elem_size, limit):
    """Add four frames whose pixels all count, and are small; False where they do not, and nothing is added.

    Most frames are such, and take a quarter of the time: no pixel is judged by itself.
    """
    if elem_size == 4:
        if _largest_u32(a, b, c, d, count) >= limit:
            return False
        _add_small_u32(sums, a, b, c, d, count)
    elif elem_size == 2:
        if _largest_u16(a, b, c, d, count) >= limit:
            return False
        _add_small_u16(sums, a, b, c, d, count)
    elif elem_size == 1:
        if _largest_u8(a, b, c, d, count) >= limit:
            return False
        _add_small_u8(sums, a, b, c, d, count)
    else:
        return False
    return True


@njit(**NOGIL)
def _add_unsigned(patterns, elem_size, take, limit, total, valid):
    """``patterns`` are bytes, (n, bytes a frame), so that one instance serves pixels of all sizes."""
    n_pixels, n = patterns.shape[1] // elem_size, take.shape[0]
    origin = int64(patterns.ctypes.data)
    total_at, valid_at = int64(total.ctypes.data), int64(valid.ctypes.data)
    small = min(limit, _SMALL)
    for first in range(0, n_pixels, _AT_ONCE):
        count = min(_AT_ONCE, n_pixels - first)
        whole = count & ~7
        sums, counts = total_at + 8 * first, valid_at + 8 * first
        all_counted = 0  # frames of which every pixel counts
        i = 0
        while i < n:
            a = origin + (take[i] * n_pixels + first) * elem_size
            b, c, d, others, step = a, a, a, 0, 1  # no pixel is below 0
            if i + 4 <= n:
                b = origin + (take[i + 1] * n_pixels + first) * elem_size
                c = origin + (take[i + 2] * n_pixels + first) * elem_size
                d = origin + (take[i + 3] * n_pixels + first) * elem_size
                others, step = limit, 4
            if step == 4 and whole & 15 == 0 and _add_if_small(sums, a, b, c, d, whole, elem_size, small):
                all_counted += 4
            elif elem_size == 4:
                _add_u32(sums, counts, a, b, c, d, whole, limit, others)
            elif elem_size == 2:
                _add_u16(sums, counts, a, b, c, d, whole, limit, others)
            elif elem_size == 1:
                _add_u8(sums, counts, a, b, c, d, whole, limit, others)
            else:
                _add_u64(sums, counts, a, b, c, d, whole, limit, others)
            i += step
        if all_counted:
            for k in range(first, first + whole):
                valid[k] += all_counted
        for frame in take:
            for k in range(first + whole, first + count):
                address = origin + (frame * n_pixels + k) * elem_size
                pixel = load_i64(address) if elem_size == 8 else load_pixel(address, elem_size)
                if np.uint64(pixel) < np.uint64(limit):
                    total[k] += pixel
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
        raw, elem_size = flat.view(np.uint8), flat.dtype.itemsize
        _add_unsigned(raw, elem_size, take, NO_LIMIT if limit is None else min(limit, NO_LIMIT), *sums)
    else:
        # Neither infinity nor an integer that needs more than 53 bits is a limit of signed integers of 32 bits.
        native = flat.astype(flat.dtype.newbyteorder("="), copy=False)
        _add_others(native, take, np.inf if limit is None else float(limit), *sums)
