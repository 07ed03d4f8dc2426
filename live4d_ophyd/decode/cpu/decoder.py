"""CpuDecoder: frames of a batch to sums or pixels on one CPU core.

In come batches and compiled weights, out come arrays and a status a frame. One decoder belongs to one thread
(it holds that thread's scratch); weights are shared. The loop over a batch is one numba call without the GIL;
Python sees only frames that no kernel here decodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numba import int64, njit

from live4d_ophyd.decode.array_decoder import ELEM_SIZES, decode_bytes
from live4d_ophyd.decode.cpu.frame_kernels import load_pixel, project_frame, unshuffle_frame
from live4d_ophyd.decode.cpu.vectors import SLACK, fill_64, sum_doubles, sum_words
from live4d_ophyd.decode.entries import algorithm_name, rows_to_take
from live4d_ophyd.decode.saturation import NODATA, Projected, Saturation
from live4d_ophyd.decode.weight_maps import Weights, aligned_zeros
from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    BSLZ4,
    COLS,
    ELEM_SIZE,
    IMAGE,
    LZ4,
    RAW,
    ROWS,
    STATUS,
    FrameBatch,
)
from live4d_ophyd.frames.format import (
    NOT_AN_IMAGE,
    OK,
    OUTSIDE_BUFFER,
    UNREADABLE,
    WRONG_DTYPE,
    WRONG_SHAPE,
    DecodeError,
    FrameFormat,
)
from live4d_ophyd.frames.memory import NOGIL

#: status, never returned: the kernels leave this frame to Python
_LEFT = 1

_NAMES = {RAW: "", BSLZ4: "bslz4", LZ4: "lz4"}

#: frames decoded to pixels at a time: bounds memory and stays in cache
_FRAMES_AT_ONCE = 64


@njit(**NOGIL)
def _check_row(index, row, capacity, rows, cols, tag, elem_size):
    """Status of a frame before its data are looked at: OK for the fast path, _LEFT for Python."""
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
        return _LEFT
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
def _project_rows(
    buffer,
    index,
    take,
    layout,
    plan,
    planes,
    keep,
    totals,
    hits,
    rule,
    verify,
    isums,
    fsums,
    saturated,
    status,
):
    """Sums of the rows ``take`` into ``isums`` or ``fsums`` (n, m), ``saturated`` (n, m) and ``status`` (n,).

    ``layout`` is (rows, cols, tag, elem_size), ``rule`` of `Saturation`. Returns the number of frames left to Python.
    """
    rows, cols, tag, elem_size = layout
    base, capacity = int64(buffer.ctypes.data), buffer.shape[0]
    planes_at, keep_at, totals_at = (
        int64(planes.ctypes.data),
        int64(keep.ctypes.data),
        int64(totals.ctypes.data),
    )
    left = 0
    for i in range(take.shape[0]):
        row = take[i]
        found = _check_row(index, row, capacity, rows, cols, tag, elem_size)
        if found == OK:
            blob, length = base + index[row, BLOB_OFFSET], index[row, BLOB_LENGTH]
            total = rows * cols * elem_size
            for mask in range(plan.masks.shape[0] - 1):
                fill_64(totals_at + 64 * mask, 0)
                hits[mask] = 0
            found = project_frame(
                blob, length, total, elem_size, plan, totals_at, hits, planes_at, keep_at, rule, verify
            )
            if found == OK:
                _write_sums(totals_at, hits, plan, isums, fsums, saturated, i)
                left_over = (rows * cols) % 8
                _add_leftover(blob + length, left_over, elem_size, plan, rule, isums, fsums, saturated, i)
        elif found == _LEFT:
            left += 1
        status[i] = found
    return left


@njit(**NOGIL)
def _decode_rows(buffer, index, take, layout, planes, pixels, status):
    """Pixels of the rows ``take`` into ``pixels``, ((bytes,) uint8) frame after frame, and ``status`` (n,).

    Returns the number of frames left to Python.
    """
    rows, cols, tag, elem_size = layout
    base, capacity = int64(buffer.ctypes.data), buffer.shape[0]
    total = rows * cols * elem_size
    left = 0
    for i in range(take.shape[0]):
        row = take[i]
        found = _check_row(index, row, capacity, rows, cols, tag, elem_size)
        if found == OK:
            blob, length = base + index[row, BLOB_OFFSET], index[row, BLOB_LENGTH]
            target = int64(pixels.ctypes.data) + i * total
            found = unshuffle_frame(blob, length, total, elem_size, target, int64(planes.ctypes.data))
        elif found == _LEFT:
            left += 1
        status[i] = found
    return left


@dataclass(frozen=True)
class Done:
    """Sums that are there already."""

    projected: Projected
    ready = True

    def result(self) -> Projected:
        return self.projected


class CpuDecoder:
    """Decoder of the frames of one series, which all have ``frame_format``.

    ``saturation`` says which pixels hold no count. With ``verify``, the blocks that no weight touches are checked, so
    that a frame which the reference decoder refuses never gives a number; without, only the blocks that are needed are
    looked at.
    Not to be used by two threads at once.
    """

    engine = "cpu"

    def __init__(
        self, frame_format: FrameFormat, *, saturation: Saturation = NODATA, verify: bool = True
    ) -> None:
        self.format = frame_format
        self.saturation = saturation
        self.verify = verify
        dtype = frame_format.dtype
        #: element size that the kernels sum, 0: none of them fits the dtype
        self._summed = dtype.itemsize if dtype in (np.uint8, np.dtype("<u2"), np.dtype("<u4")) else 0
        self._shuffled = dtype.itemsize if dtype.itemsize in ELEM_SIZES else 0
        self._planes = np.empty(frame_format.nbytes + SLACK, np.uint8)
        self._keep = np.empty(frame_format.pixels // 8 + SLACK, np.uint8)
        self._totals = np.empty(0, np.uint8)
        self._hits = np.empty(0, np.int64)
        self._pixels = np.empty((0, *frame_format.shape), dtype)

    def submit(self, batch: FrameBatch, weights: Weights, rows: np.ndarray | None = None) -> Done:
        """Sums of frames, with the interface of decoders that run asynchronously."""
        return Done(self._project(batch, weights, rows))

    def project(
        self, batch: FrameBatch, weights: Weights, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums of frames under weight maps, ``(n, m)`` int64 (integer weights and pixels) or float64.

        ``rows``: batch rows to take, ``(n,)``; default: all images. Also returns ``(n,) int64`` status: 0, or
        why a frame has no sums (`describe_status`); its sums are then 0. Raises ValueError when the weights
        are for another shape, or integer sums could overflow.
        """
        return self._project(batch, weights, rows)[:2]

    def _project(self, batch: FrameBatch, weights: Weights, rows: np.ndarray | None) -> Projected:
        dtype = weights.sums_of(self.format)
        rows = rows_to_take(batch, rows)
        status = np.zeros(len(rows), np.int64)
        sums = np.zeros((len(rows), len(weights)), dtype)
        saturated = np.zeros(sums.shape, bool)
        exact = sums if dtype == np.int64 else np.zeros((len(rows), 0), np.int64)
        # Integer weights on float pixels sum to float64, but in no kernel.
        real = np.zeros((len(rows), 0)) if weights.integer else sums
        if len(self._totals) < 64 * len(weights.plan.masks):
            self._totals = aligned_zeros(1, 64 * len(weights.plan.masks), np.uint8)[0]
            self._hits = np.zeros(len(weights.plan.masks), np.int64)
        left = _project_rows(
            batch.buffer,
            batch.index,
            rows,
            self._layout(self._summed),
            weights.plan,
            self._planes,
            self._keep,
            self._totals,
            self._hits,
            self.saturation.rule(self.format.dtype),
            self.verify,
            exact,
            real,
            saturated,
            status,
        )
        if left:
            for i in np.flatnonzero(status == _LEFT):
                pixels, status[i] = self._decode_slowly(batch, int(rows[i]))
                if pixels is not None:
                    sums[i], saturated[i] = weights.project_pixels(pixels, self.saturation)
        return Projected(sums, status, saturated)

    def frames(
        self, batch: FrameBatch, rows: np.ndarray | None = None, *, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of frames, ``(n, rows, cols)`` of the format's dtype, and ``(n,) int64`` status.

        Pixels come as the detector sent them, no-data values included. A frame with a status other than 0
        is all zero. ``out``: array of at least that length to decode into, C-contiguous; reusing one is twice
        as fast as fresh memory. Raises ValueError when it does not fit.
        """
        rows = rows_to_take(batch, rows)
        shape = (len(rows), *self.format.shape)
        if out is None:
            out = np.empty(shape, self.format.dtype)
        elif len(out) < len(rows) or out.shape[1:] != shape[1:] or out.dtype != self.format.dtype:
            raise ValueError(f"out of {out.shape} {out.dtype}: expected at least {shape} {self.format.dtype}")
        elif not out.flags.c_contiguous:
            raise ValueError("out is not C-contiguous")
        pixels = out[: len(rows)]
        status = np.zeros(len(rows), np.int64)
        raw = pixels.reshape(-1).view(np.uint8)
        left = _decode_rows(
            batch.buffer, batch.index, rows, self._layout(self._shuffled), self._planes, raw, status
        )
        if left:
            for i in np.flatnonzero(status == _LEFT):
                decoded, status[i] = self._decode_slowly(batch, int(rows[i]))
                if decoded is not None:
                    pixels[i] = decoded
        pixels[status != OK] = 0
        return pixels, status

    def errors(self) -> AbstractContextManager[None]:
        """Within it, errors of work on the decoder's pixels have their names; here they have them anyway."""
        return nullcontext()

    def frames_in_parts(
        self, batch: FrameBatch, rows: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """`frames` of ``rows``, some at a time: which of them, pixels, statuses. Pixels last until the next part."""
        if len(self._pixels) == 0:
            self._pixels = np.empty((_FRAMES_AT_ONCE, *self.format.shape), self.format.dtype)
        for first in range(0, len(rows), _FRAMES_AT_ONCE):
            part = slice(first, first + _FRAMES_AT_ONCE)
            yield part, *self.frames(batch, rows[part], out=self._pixels)

    def _layout(self, elem_size: int) -> tuple[int, int, int, int]:
        return self.format.rows, self.format.cols, self.format.tag, elem_size

    def _decode_slowly(self, batch: FrameBatch, row: int) -> tuple[np.ndarray | None, int]:
        """A frame in any algorithm, or None and its status."""
        index = batch.index[row]
        offset, length = int(index[BLOB_OFFSET]), int(index[BLOB_LENGTH])
        data = batch.buffer[offset : offset + length]
        try:
            name = _NAMES.get(int(index[ALGORITHM]))
            if name is None:
                name = algorithm_name(batch, row)
            if name is None:
                return None, UNREADABLE
            raw = decode_bytes(name, int(index[ELEM_SIZE]), data, self.format.nbytes)
        except DecodeError as error:
            return None, error.status
        return raw.view(self.format.dtype).reshape(self.format.shape), OK


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache (seconds the first time on a machine)."""
    batch = FrameBatch.allocate(64, 1)
    none = np.zeros(0, np.int64)
    decoder = CpuDecoder(FrameFormat(8, 8, np.dtype(np.uint16)))
    for kind in (np.int64, np.float64):
        decoder.project(batch, Weights(np.ones((1, 8, 8), kind)), none)
    decoder.frames(batch, none)
    empty = np.frombuffer((0).to_bytes(8, "big") + (8192).to_bytes(4, "big"), np.uint8)
    for algorithm in ("bslz4", "lz4"):
        decode_bytes(algorithm, 2, empty, 0)
