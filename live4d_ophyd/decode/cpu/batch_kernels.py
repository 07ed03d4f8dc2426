"""Entries of a batch to sums and patterns: the loop over frames, one numba call without the GIL.

In come a batch's arrays, a compiled plan and arrays to fill; out comes a status a frame. Frames that no kernel here
decodes are left to Python. Scratch belongs to the thread that calls.
"""

from __future__ import annotations

from numba import int64, njit

from live4d_ophyd.decode.cpu.frame_kernels import decode_frame, load_pixel
from live4d_ophyd.decode.cpu.vectors import fill_64, sum_doubles, sum_words
from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    ELEM_SIZE,
    IMAGE,
    ROWS,
    STATUS,
)
from live4d_ophyd.frames.codecs import BSLZ4
from live4d_ophyd.frames.memory import NOGIL
from live4d_ophyd.frames.status import (
    NOT_AN_IMAGE,
    OK,
    OUTSIDE_BUFFER,
    WRONG_DTYPE,
    WRONG_SHAPE,
)

#: status, never returned: the kernels leave this frame to Python
LEFT = 1


@njit(**NOGIL)
def _check_row(index, row, capacity, rows, cols, tag, elem_size):
    """Status of a frame before its data are looked at: OK for the fast path, LEFT for Python."""
    if index[row, STATUS] != IMAGE:
        return NOT_AN_IMAGE
    offset, length = index[row, BLOB_OFFSET], index[row, BLOB_LENGTH]
    if offset < 0 or length < 0 or offset > capacity or length > capacity - offset:
        return OUTSIDE_BUFFER
    if index[row, ROWS] != rows or index[row, COLS] != cols:
        return WRONG_SHAPE
    # 68 is 64 (u8) with clamped arithmetic: the same pixels
    if index[row, ARRAY_TAG] != tag and not (tag == 64 and index[row, ARRAY_TAG] == 68):
        return WRONG_DTYPE
    if elem_size == 0 or index[row, ALGORITHM] != BSLZ4 or index[row, ELEM_SIZE] != elem_size:
        return LEFT
    return OK


@njit(**NOGIL)
def _write_sums(totals, hits, plan, isums, fsums, saturated, i):
    """Lanes of a frame's totals to its sums: integer masks by their coefficients, float maps one to one."""
    for term in range(plan.term_map.shape[0]):
        if hits[plan.term_mask[term] - 1]:
            saturated[i, plan.term_map[term]] = True
        under = sum_words(totals + 64 * (plan.term_mask[term] - 1))
        if isums.shape[1]:
            isums[i, plan.term_map[term]] += plan.term_coefficient[term] * under
        else:
            fsums[i, plan.term_map[term]] = sum_doubles(totals + 64 * (plan.term_mask[term] - 1))


@njit(**NOGIL)
def _add_leftover(end, count, elem_size, plan, rule, isums, fsums, saturated, i):
    """Add the ``count`` < 8 raw pixels that end at ``end``."""
    limit, _, counted = rule
    for pixel in range(count):
        value = load_pixel(end - (count - pixel) * elem_size, elem_size)
        if value >= limit:
            for number in range(saturated.shape[1]):
                weight = (
                    plan.last_integer[number, pixel] if isums.shape[1] else plan.last_float[number, pixel]
                )
                if weight != 0:
                    saturated[i, number] = True
            if not counted:
                continue
        for number in range(isums.shape[1]):
            isums[i, number] += value * plan.last_integer[number, pixel]
        for number in range(fsums.shape[1]):
            fsums[i, number] += value * plan.last_float[number, pixel]


@njit(**NOGIL)
def decode_entries(
    buffer,
    index,
    take,
    layout,
    summed,
    plan,
    scratch,
    rule,
    verify,
    isums,
    fsums,
    saturated,
    patterns,
    status,
):
    """Decode the entries ``take`` into what is wanted of them; returns the number of frames left to Python.

    With ``summed``: sums to ``isums`` or ``fsums`` and ``saturated``, (n, maps). Pixels to ``patterns``, (bytes,) uint8
    frame after frame; none are wanted where it is empty. ``status`` (n,). ``layout`` is (rows, cols, tag, elem_size),
    ``rule`` of `Saturation`, ``scratch`` has planes, bits to keep, totals and hits.
    """
    rows, cols, tag, elem_size = layout
    planes, keep, totals, hits = scratch
    base, capacity = int64(buffer.ctypes.data), buffer.shape[0]
    planes_at, keep_at, totals_at = (
        int64(planes.ctypes.data),
        int64(keep.ctypes.data),
        int64(totals.ctypes.data),
    )
    patterns_at = int64(patterns.ctypes.data)
    total = rows * cols * elem_size
    left = 0
    for i in range(take.shape[0]):
        row = take[i]
        found = _check_row(index, row, capacity, rows, cols, tag, elem_size)
        if found == OK:
            blob, length = base + index[row, BLOB_OFFSET], index[row, BLOB_LENGTH]
            pattern = patterns_at + i * total if patterns.shape[0] else 0
            if summed:
                for mask in range(plan.masks.shape[0] - 1):
                    fill_64(totals_at + 64 * mask, 0)
                    hits[mask] = 0
            found = decode_frame(
                blob,
                length,
                total,
                elem_size,
                summed,
                plan,
                totals_at,
                hits,
                pattern,
                planes_at,
                keep_at,
                rule,
                verify,
            )
            if found == OK and summed:
                _write_sums(totals_at, hits, plan, isums, fsums, saturated, i)
                left_over = (rows * cols) % 8
                _add_leftover(blob + length, left_over, elem_size, plan, rule, isums, fsums, saturated, i)
        elif found == LEFT:
            left += 1
        status[i] = found
    return left
