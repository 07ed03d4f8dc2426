"""LLVM vector instructions at raw addresses: what the LZ4 and bit-plane kernels are made of.

numba's own loops over bytes promote to int64 and do not vectorise (measured: 7 times slower than these).
Addresses and scalars are int64. Vectors are 64 bytes, which LLVM splits where the machine has narrower ones.
Nothing here checks a bound: callers leave :data:`SLACK` bytes behind every buffer.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import float64, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from live4d_ophyd.frames.memory import I8, I16, I64, load, store

#: bytes behind a block's scratch: 64 that vector loads may read and the LZ4 decoder may write, then 64 pixels
SLACK = 64 + 64 * 8

I1, I32, F64 = ir.IntType(1), ir.IntType(32), ir.DoubleType()
BYTES_16, BYTES_32 = ir.VectorType(I8, 16), ir.VectorType(I8, 32)
WORDS = ir.VectorType(I64, 8)
DOUBLES = ir.VectorType(F64, 8)


def constant(value):
    return ir.Constant(I64, value)


def splat(builder, value, lanes):
    """Vector with ``value`` in every lane."""
    empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def llvm_function(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def or_lanes(builder, words):
    return builder.call(llvm_function(builder, "llvm.vector.reduce.or.v8i64", I64, [WORDS]), [words])


def count_down(builder, count):
    """Loop ``k = count - 1, ..., 0``; yields the builder value of k."""
    with cgutils.for_range(builder, count) as loop:
        yield builder.sub(builder.sub(count, loop.index), constant(1))


def _copier(kind):
    @intrinsic
    def copy(typingctx, destination, source):
        def codegen(context, builder, signature, args):
            store(builder, load(builder, args[1], kind), args[0])
            return context.get_dummy_value()

        return types.void(int64, int64), codegen

    return copy


copy_2, copy_8, copy_16, copy_32 = _copier(I16), _copier(I64), _copier(BYTES_16), _copier(BYTES_32)


@intrinsic
def fill_64(typingctx, destination, pattern):
    """64 bytes of one repeated 8-byte pattern"""

    def codegen(context, builder, signature, args):
        store(builder, splat(builder, args[1], 8), args[0])
        return context.get_dummy_value()

    return types.void(int64, int64), codegen


@intrinsic
def any_bit_64(typingctx, address):
    """OR of the eight words of 64 bytes: 0 when no bit is set"""

    def codegen(context, builder, signature, args):
        return or_lanes(builder, load(builder, args[0], WORDS))

    return int64(int64), codegen


@intrinsic
def sum_words(typingctx, address):
    """Sum of eight int64"""

    def codegen(context, builder, signature, args):
        reduce = llvm_function(builder, "llvm.vector.reduce.add.v8i64", I64, [WORDS])
        return builder.call(reduce, [load(builder, args[0], WORDS)])

    return int64(int64), codegen


@intrinsic
def sum_doubles(typingctx, address):
    """Sum of eight float64"""

    def codegen(context, builder, signature, args):
        reduce = llvm_function(builder, "llvm.vector.reduce.fadd.v8f64", F64, [F64, DOUBLES])
        return builder.call(reduce, [ir.Constant(F64, 0.0), load(builder, args[0], DOUBLES)])

    return float64(int64), codegen


@intrinsic
def any_bit(typingctx, planes, plane_bytes, count, mask, keep, chunks):
    """OR of ``plane & mask & keep`` over ``count`` planes and 64-byte chunks: 0 when no bit is set"""

    def codegen(context, builder, signature, args):
        planes, plane_bytes, count, mask, keep, chunks = args
        found = cgutils.alloca_once_value(builder, ir.Constant(WORDS, None))
        column_or = cgutils.alloca_once(builder, WORDS)
        with cgutils.for_range(builder, chunks) as loop:
            at = builder.mul(loop.index, constant(64))
            column = builder.add(planes, at)
            builder.store(ir.Constant(WORDS, None), column_or)
            with cgutils.for_range(builder, count) as plane:
                words = load(builder, builder.add(column, builder.mul(plane.index, plane_bytes)), WORDS)
                builder.store(builder.or_(builder.load(column_or), words), column_or)
            wanted = load(builder, builder.add(mask, at), WORDS)
            wanted = builder.and_(wanted, load(builder, builder.add(keep, at), WORDS))
            wanted = builder.and_(wanted, builder.load(column_or))
            builder.store(builder.or_(builder.load(found), wanted), found)
        return or_lanes(builder, builder.load(found))

    return int64(*[int64] * 6), codegen


@intrinsic
def keep_below(typingctx, keep, planes, plane_bytes, used, limit, chunks):
    """keep = (pixel < limit) a bit a pixel, by 64-byte chunks; returns 0 when all are below

    Compared from the highest of the ``used`` planes down, all pixels of a chunk at once. ``limit`` needs no more bits
    than there are planes.
    """

    def codegen(context, builder, signature, args):
        keep, planes, plane_bytes, used, limit, chunks = args
        ones = ir.Constant(WORDS, [-1] * 8)
        found = cgutils.alloca_once_value(builder, ir.Constant(WORDS, None))
        equal, above = cgutils.alloca_once(builder, WORDS), cgutils.alloca_once(builder, WORDS)
        with cgutils.for_range(builder, chunks) as loop:
            at = builder.mul(loop.index, constant(64))
            column = builder.add(planes, at)
            builder.store(ones, equal)
            builder.store(ir.Constant(WORDS, None), above)
            for k in count_down(builder, used):
                words = load(builder, builder.add(column, builder.mul(k, plane_bytes)), WORDS)
                bit = builder.and_(builder.lshr(limit, k), constant(1))
                wanted = splat(builder, builder.neg(bit), 8)
                so_far = builder.load(equal)
                higher = builder.and_(so_far, builder.and_(words, builder.xor(wanted, ones)))
                builder.store(builder.or_(builder.load(above), higher), above)
                builder.store(builder.and_(so_far, builder.xor(builder.xor(words, wanted), ones)), equal)
            reached = builder.or_(builder.load(above), builder.load(equal))
            builder.store(builder.or_(builder.load(found), reached), found)
            store(builder, builder.xor(reached, ones), builder.add(keep, at))
        return or_lanes(builder, builder.load(found))

    return int64(*[int64] * 6), codegen


@intrinsic
def add_popcounts(typingctx, total, planes, plane_bytes, used, mask, keep, chunks):
    """total[8] += sum over planes k < used of 2^k popcount(plane_k & mask & keep)

    Highest plane first, so that weighting by 2^k is one doubling a plane in a register.
    """

    def codegen(context, builder, signature, args):
        total, planes, plane_bytes, used, mask, keep, chunks = args
        popcount = llvm_function(builder, "llvm.ctpop.v8i64", WORDS, [WORDS])
        sums = cgutils.alloca_once_value(builder, load(builder, total, WORDS))
        column_sum = cgutils.alloca_once(builder, WORDS)
        with cgutils.for_range(builder, chunks) as loop:
            at = builder.mul(loop.index, constant(64))
            column = builder.add(planes, at)
            wanted = load(builder, builder.add(mask, at), WORDS)
            wanted = builder.and_(wanted, load(builder, builder.add(keep, at), WORDS))
            builder.store(ir.Constant(WORDS, None), column_sum)
            for k in count_down(builder, used):
                words = load(builder, builder.add(column, builder.mul(k, plane_bytes)), WORDS)
                counts = builder.call(popcount, [builder.and_(words, wanted)])
                doubled = builder.shl(builder.load(column_sum), ir.Constant(WORDS, [1] * 8))
                builder.store(builder.add(doubled, counts), column_sum)
            builder.store(builder.add(builder.load(sums), builder.load(column_sum)), sums)
        store(builder, builder.load(sums), total)
        return context.get_dummy_value()

    return types.void(*[int64] * 7), codegen


#: Whether a register of bits can choose lanes, as AVX-512's can. aarch64 has none: there LLVM would take out bit after
#: bit, and a test of a bit in each lane is one instruction (cmtst).
BITS_CHOOSE = platform.machine() != "aarch64"


def _bits_of(builder, word, group, lanes, kind):
    """Bits ``group * lanes ...`` of a 64-bit word as a vector of i1; ``kind``: of the lanes that they choose."""
    part = builder.lshr(word, constant(group * lanes))
    if BITS_CHOOSE:
        return builder.bitcast(builder.trunc(part, ir.IntType(lanes)), ir.VectorType(I1, lanes))
    if kind != I64:
        part = builder.trunc(part, kind)
    vector = ir.VectorType(kind, lanes)
    bits = builder.and_(
        splat(builder, part, lanes), ir.Constant(vector, [1 << lane for lane in range(lanes)])
    )
    return builder.icmp_unsigned("!=", bits, ir.Constant(vector, [0] * lanes))


@intrinsic
def add_weighted(typingctx, total, planes, plane_bytes, used, mask, keep, weights, columns):
    """total[8] (float64) += pixel * weight over columns of 64 pixels, pixels not under the mask left out

    The pixels are never formed: from the highest plane down, acc = 2 acc + (bit ? weight : 0). Every step
    is a float64 operation on one pixel's product, so the error is that of a float64 sum.
    """

    def codegen(context, builder, signature, args):
        total, planes, plane_bytes, used, mask, keep, weights, columns = args
        fma = llvm_function(builder, "llvm.fma.v8f64", DOUBLES, [DOUBLES] * 3)
        two, zero = ir.Constant(DOUBLES, [2.0] * 8), ir.Constant(DOUBLES, [0.0] * 8)
        sums = cgutils.alloca_once_value(builder, load(builder, total, DOUBLES))
        products = [cgutils.alloca_once(builder, DOUBLES) for _ in range(8)]
        with cgutils.for_range(builder, columns) as loop:
            at = builder.mul(loop.index, constant(8))
            wanted = load(builder, builder.add(mask, at), I64)
            wanted = builder.and_(wanted, load(builder, builder.add(keep, at), I64))
            with builder.if_then(builder.icmp_unsigned("!=", wanted, constant(0))):
                column = builder.add(planes, at)
                first = builder.add(weights, builder.mul(loop.index, constant(512)))
                weight = [load(builder, builder.add(first, constant(64 * j)), DOUBLES, 8) for j in range(8)]
                for product in products:
                    builder.store(zero, product)
                for k in count_down(builder, used):
                    word = load(builder, builder.add(column, builder.mul(k, plane_bytes)), I64)
                    word = builder.and_(word, wanted)
                    for j, product in enumerate(products):
                        chosen = builder.select(_bits_of(builder, word, j, 8, I64), weight[j], zero)
                        builder.store(builder.call(fma, [builder.load(product), two, chosen]), product)
                for product in products:
                    builder.store(builder.fadd(builder.load(sums), builder.load(product)), sums)
        store(builder, builder.load(sums), total, 8)
        return context.get_dummy_value()

    return types.void(*[int64] * 8), codegen


def _unshuffler(bits):
    lane = I64 if bits == 64 else I32
    pixels_16 = ir.VectorType(lane, 16)

    @intrinsic
    def unshuffle(typingctx, pixels, planes, plane_bytes, used, columns):
        def codegen(context, builder, signature, args):
            pixels, planes, plane_bytes, used, columns = args
            values = [cgutils.alloca_once(builder, pixels_16) for _ in range(4)]
            with cgutils.for_range(builder, columns) as loop:
                column = builder.add(planes, builder.mul(loop.index, constant(8)))
                for value in values:
                    builder.store(ir.Constant(pixels_16, None), value)
                for k in count_down(builder, used):
                    word = load(builder, builder.add(column, builder.mul(k, plane_bytes)), I64)
                    for j, value in enumerate(values):
                        doubled = builder.shl(builder.load(value), ir.Constant(pixels_16, [1] * 16))
                        bit = builder.zext(_bits_of(builder, word, j, 16, lane), pixels_16)
                        builder.store(builder.or_(doubled, bit), value)
                target = builder.add(pixels, builder.mul(loop.index, constant(8 * bits)))
                for j, value in enumerate(values):
                    pixel = builder.load(value)
                    if bits < 32:
                        pixel = builder.trunc(pixel, ir.VectorType(ir.IntType(bits), 16))
                    store(builder, pixel, builder.add(target, constant(2 * bits * j)))
            return context.get_dummy_value()

        return types.void(*[int64] * 5), codegen

    return unshuffle


#: (pixels, planes, plane_bytes, used, columns): bit planes to pixels, in columns of 64 pixels
unshuffle_u8, unshuffle_u16 = _unshuffler(8), _unshuffler(16)
unshuffle_u32, unshuffle_u64 = _unshuffler(32), _unshuffler(64)
