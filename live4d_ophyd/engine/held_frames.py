"""HeldFrames: frames that cannot be decoded and came before a good one: only that tells the codec of their file.

In: entries of batches. Out: copies of them, later. Not of several threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from live4d_ophyd.frames.batch import ALGORITHM, BLOB_LENGTH, BLOB_OFFSET, FrameBatch
from live4d_ophyd.frames.codecs import CODECS

#: bytes that are held at most
HELD_BYTES = 64 << 20


@dataclass(frozen=True, eq=False)
class HeldFrame:
    """``number`` of a raster; ``row``, (1, columns): its index, for ``blob``."""

    raster: int
    number: int
    row: np.ndarray
    blob: np.ndarray


class HeldFrames:
    """None at first."""

    def __init__(self) -> None:
        self._frames: list[HeldFrame] = []
        self.nbytes = 0

    def hold(self, raster: int, batch: FrameBatch, entries: np.ndarray, numbers: np.ndarray) -> bool:
        """Copy frames, those whose index points into the batch; whether there was room for all of them."""
        for entry, number in zip(entries.tolist(), numbers.tolist()):
            row = batch.index[entry : entry + 1].copy()
            first, size = int(row[0, BLOB_OFFSET]), int(row[0, BLOB_LENGTH])
            if first < 0 or size < 0 or first + size > len(batch.buffer):
                continue
            if self.nbytes + size > HELD_BYTES:
                return False
            self.nbytes += size
            row[0, BLOB_OFFSET] = 0
            self._frames.append(HeldFrame(raster, number, row, batch.buffer[first : first + size].copy()))
        return True

    def codecs(self, raster: int) -> np.ndarray:
        """Numbers of the codecs that the frames of a raster name, as far as there are such, (n,)."""
        named = np.array([f.row[0, ALGORITHM] for f in self._frames if f.raster == raster], np.int64)
        return named[(named >= 0) & (named < len(CODECS))]

    def take(self) -> list[HeldFrame]:
        """All of them; none is held any more."""
        frames, self._frames, self.nbytes = self._frames, [], 0
        return frames
