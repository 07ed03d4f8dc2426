"""A backend that decodes only when its result is taken, as a GPU does at the latest: batches must outlive that."""

from __future__ import annotations

from collections.abc import Iterator

from live4d_ophyd.decode import CpuDecoder, Decoded, Part
from live4d_ophyd.frames.batch import FrameBatch


class _LateFrames:
    def __init__(self, decoder: CpuDecoder, *arguments) -> None:
        self._decoder, self._arguments, self._asked = decoder, arguments, 0

    @property
    def ready(self) -> bool:
        self._asked += 1
        return self._asked > 3

    def parts(self) -> Iterator[Part]:
        return CpuDecoder.submit(self._decoder, *self._arguments).parts()


class LateDecoder(CpuDecoder):
    engine = "late"

    def submit(self, batch, entries, demand) -> Decoded:
        return _LateFrames(self, batch, entries, demand)


class LateBackend:
    name = "late"
    detail = "for tests"
    in_flight = 2

    def allocate(self) -> FrameBatch:
        return FrameBatch.allocate(6000)  # a few messages

    def decoder(self, frame, *, saturation):
        return LateDecoder(frame, saturation=saturation)
