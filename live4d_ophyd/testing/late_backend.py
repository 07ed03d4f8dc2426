"""LateBackend: decodes only when its result is taken, as a GPU does at the latest: batches must outlive that.

On the CPU, in the thread that takes the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from live4d_ophyd.decode import CpuDecoder, Decoded, Part, Saturation
from live4d_ophyd.decode.decoder import Demand
from live4d_ophyd.frames.batch import BatchMemory, FrameBatch
from live4d_ophyd.frames.format import FrameFormat


class _LateFrames:
    def __init__(self, decoder: CpuDecoder, batch: FrameBatch, entries: np.ndarray, demand: Demand) -> None:
        self._decoder, self._arguments, self._asked = decoder, (batch, entries, demand), 0

    @property
    def ready(self) -> bool:
        self._asked += 1
        return self._asked > 3

    def parts(self) -> Iterator[Part]:
        return self._decoder.submit(*self._arguments).parts()


class LateDecoder:
    """A `CpuDecoder` that is called late."""

    backend = "late"

    def __init__(self, frame: FrameFormat, saturation: Saturation) -> None:
        self._decoder = CpuDecoder(frame, saturation=saturation)
        self.format = frame

    @property
    def copies(self) -> int:
        return self._decoder.copies

    @property
    def decodes(self) -> int:
        return self._decoder.decodes

    def submit(self, batch: FrameBatch, entries: np.ndarray, demand: Demand) -> Decoded:
        return _LateFrames(self._decoder, batch, entries, demand)

    def working(self) -> AbstractContextManager[None]:
        return self._decoder.working()


class LateBackend:
    """Batches of a few messages, two of them under way while the next is received."""

    name = "late"
    detail = "for tests"
    in_flight = 2

    def of_lane(self, lane: int) -> LateBackend:
        return self

    @property
    def memory(self) -> BatchMemory:
        return BatchMemory(6000)

    def decoder(self, frame: FrameFormat, *, saturation: Saturation) -> LateDecoder:
        return LateDecoder(frame, saturation)
