"""CpuDecoder: frames of a batch to sums and patterns on one CPU core.

In: batches and a demand. Out: NumPy arrays and a status a frame. One decoder belongs to one thread (it holds
that thread's scratch); weights are shared. The loop over a batch is one numba call without the GIL; Python sees only
frames that no kernel here decodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from live4d_ophyd.decode.cpu.array_decoder import decode_bytes
from live4d_ophyd.decode.cpu.batch_kernels import LEFT, decode_entries
from live4d_ophyd.decode.cpu.frame_sums import add_frames
from live4d_ophyd.decode.cpu.vectors import SLACK
from live4d_ophyd.decode.decoder import Demand, Part
from live4d_ophyd.decode.entries import entries_to_decode
from live4d_ophyd.decode.saturation import NODATA, Saturation
from live4d_ophyd.decode.weight_maps import Weights, aligned_zeros
from live4d_ophyd.frames.batch import (
    ALGORITHM,
    BLOB_LENGTH,
    BLOB_OFFSET,
    ELEM_SIZE,
    FrameBatch,
)
from live4d_ophyd.frames.codecs import ELEM_SIZES, name_of
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.frames.status import OK, UNKNOWN_ALGORITHM, DecodeError

#: patterns decoded at a time: few enough that a method finds them in the cache, enough for the Python between
PATTERN_BYTES = 4 << 20

#: what kernels take where nothing is summed
_NO_MAPS = Weights(np.zeros((1, 1, 1), np.int64)).plan


@dataclass(frozen=True, eq=False)
class CpuDecoded:
    """Entries that are decoded when their part is asked for: the receiving thread is the one that decodes."""

    decoder: CpuDecoder
    batch: FrameBatch
    entries: np.ndarray
    demand: Demand
    ready = True

    def parts(self) -> Iterator[Part]:
        return self.decoder._parts(self.batch, self.entries, self.demand)


class CpuDecoder:
    """Decoder of the frames of one series, which all have ``frame_format``.

    ``saturation`` says which pixels hold no count. With ``verify``, the blocks that nothing needs are checked, so that
    a frame which the reference decoder refuses never gives a number; without, only the blocks that are needed are
    looked at. Not to be used by two threads at once.
    """

    backend = "cpu"
    copies = 0

    def __init__(
        self, frame_format: FrameFormat, *, saturation: Saturation = NODATA, verify: bool = True
    ) -> None:
        self.format = frame_format
        self.saturation = saturation
        self.verify = verify
        self.decodes = 0
        dtype = frame_format.dtype
        #: element size that the kernels sum, 0: none of them fits the dtype
        self._summed = dtype.itemsize if dtype in (np.uint8, np.dtype("<u2"), np.dtype("<u4")) else 0
        self._shuffled = dtype.itemsize if dtype.itemsize in ELEM_SIZES else 0
        self._planes = np.empty(frame_format.nbytes + SLACK, np.uint8)
        self._keep = np.empty(frame_format.pixels // 8 + SLACK, np.uint8)
        self._totals = np.empty(0, np.uint8)
        self._hits = np.empty(0, np.int64)
        self._patterns = np.empty((0, *frame_format.shape), dtype)

    def submit(self, batch: FrameBatch, entries: np.ndarray | None, demand: Demand) -> CpuDecoded:
        """Begin to decode ``entries`` (n,) of the batch, by default all frames.

        The batch must stay as it is until the last part was taken. Raises ValueError when maps are for another shape,
        or integer sums could overflow; IndexError for entries outside the batch.
        """
        if demand.maps is not None:
            demand.maps.sums_of(self.format)
        return CpuDecoded(self, batch, entries_to_decode(batch, entries), demand)

    def working(self) -> AbstractContextManager[None]:
        """Where work on a part's arrays is done: here, anywhere."""
        return nullcontext()

    def _parts(self, batch: FrameBatch, entries: np.ndarray, demand: Demand) -> Iterator[Part]:
        self.decodes += 1
        step = max(1, len(entries))
        if demand.patterns:
            step = max(1, PATTERN_BYTES // self.format.nbytes)
            if len(self._patterns) == 0:
                self._patterns = np.empty((step, *self.format.shape), self.format.dtype)
        for first in range(0, len(entries), step):
            at = np.arange(first, min(first + step, len(entries)))
            patterns = self._patterns[: len(at)] if demand.patterns else None
            sums, saturated, status = self._decode(batch, entries[at], demand.maps, patterns)
            flagged = np.zeros(len(at), bool)
            if saturated is not None:
                np.any(saturated, axis=1, out=flagged)
            yield Part(at, status, flagged, sums, saturated, patterns)

    def _decode(
        self, batch: FrameBatch, entries: np.ndarray, maps: Weights | None, patterns: np.ndarray | None
    ) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
        """Sums, saturated and statuses of entries; their pixels to ``patterns``, zeros where there are none."""
        n = len(entries)
        status = np.zeros(n, np.int64)
        dtype = np.dtype(np.int64) if maps is None else maps.sums_of(self.format)
        sums = np.zeros((n, 0 if maps is None else len(maps)), dtype)
        saturated = np.zeros(sums.shape, bool)
        summed = maps is not None and self._summed > 0
        plan = _NO_MAPS if maps is None else maps.plan
        if len(self._totals) < 64 * len(plan.masks):
            self._totals = aligned_zeros(1, 64 * len(plan.masks), np.uint8)[0]
            self._hits = np.zeros(len(plan.masks), np.int64)
        elem_size = self._summed if patterns is None else self._shuffled
        left = decode_entries(
            batch.buffer,
            batch.index,
            entries,
            (self.format.rows, self.format.cols, self.format.tag, elem_size),
            summed,
            plan,
            (self._planes, self._keep, self._totals, self._hits),
            self.saturation.rule(self.format.dtype),
            self.verify,
            sums if dtype == np.int64 else np.zeros((n, 0), np.int64),
            # Integer weights on float pixels sum to float64, but in no kernel.
            np.zeros((n, 0)) if maps is None or maps.integer else sums,
            saturated,
            np.empty(0, np.uint8) if patterns is None else patterns.reshape(-1).view(np.uint8),
            status,
        )
        if maps is not None and not summed and patterns is not None:
            for i in np.flatnonzero(status == OK):
                sums[i], saturated[i] = maps.project_pixels(patterns[i], self.saturation)
        for i in np.flatnonzero(status == LEFT) if left else ():
            pixels, status[i] = self._decode_slowly(batch, int(entries[i]))
            if pixels is not None and patterns is not None:
                patterns[i] = pixels
            if pixels is not None and maps is not None:
                sums[i], saturated[i] = maps.project_pixels(pixels, self.saturation)
        if patterns is not None:
            patterns[status != OK] = 0
        return (None, None, status) if maps is None else (sums, saturated, status)

    def _decode_slowly(self, batch: FrameBatch, entry: int) -> tuple[np.ndarray | None, int]:
        """A frame in any algorithm, or None and its status."""
        index = batch.index[entry]
        offset, length = int(index[BLOB_OFFSET]), int(index[BLOB_LENGTH])
        data = batch.buffer[offset : offset + length]
        try:
            name = name_of(int(index[ALGORITHM]))
            if name is None:
                return None, UNKNOWN_ALGORITHM
            raw = decode_bytes(name, int(index[ELEM_SIZE]), data, self.format.nbytes)
        except DecodeError as error:
            return None, error.status
        return raw.view(self.format.dtype).reshape(self.format.shape), OK


def warm_up() -> None:
    """Compile the kernels, or load them from numba's cache (seconds the first time on a machine)."""
    batch = FrameBatch.allocate(64, 1)
    none = np.zeros(0, np.int64)
    decoder = CpuDecoder(FrameFormat(8, 8, np.dtype(np.uint16)))
    # One instance of the kernels serves all demands.
    decoder._decode(batch, none, Weights(np.ones((1, 8, 8), np.int64)), None)
    total, valid = np.zeros((8, 8), np.int64), np.zeros((8, 8), np.int64)
    add_frames(np.zeros((1, 8, 8), np.uint16), none, NODATA, total, valid)
    empty = np.frombuffer((0).to_bytes(8, "big") + (8192).to_bytes(4, "big"), np.uint8)
    for algorithm in ("bslz4", "lz4"):
        decode_bytes(algorithm, 2, empty, 0)
