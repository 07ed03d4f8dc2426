"""DectrisConnection: one connection to the stream, as a source's connection."""

from __future__ import annotations

from collections.abc import Iterator

from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.sources.dectris.series_filter import SeriesFilter
from live4d_ophyd.sources.dectris.stream import StreamReceiver
from live4d_ophyd.sources.source import Item

#: How long a frame may wait for others that are decoded with it, s. A batch costs as much as some fifty frames, and an
#: image is to be 50 ms behind its frames at most.
_LINGER_S = 0.02


class DectrisConnection:
    """Connection ``number`` of a stream; ``series`` is the filter that all its connections share."""

    def __init__(self, receiver: StreamReceiver, number: int, series: SeriesFilter) -> None:
        self._receiver, self._number, self._series = receiver, number, series
        receiver.stop[0] = 0

    def receive(self, batch: FrameBatch, wait: float) -> Iterator[Item]:
        """Fill the batch, for up to ``wait`` s, and say what is in it, in order.

        What came behind the series before is said first, batch by batch, and ``batch`` then stays empty.
        """
        left_over = self._series.left_over() if self._number == 0 else None
        if left_over is not None:
            return self._series.accept(left_over)
        self._receiver.receive(batch, channel=self._series.channel.encode(), wait=wait, linger=_LINGER_S)
        batch.connection = self._number
        return self._series.accept(batch)

    def connected(self) -> bool:
        """Whether the detector is there."""
        return self._receiver.connected()

    def interrupt(self) -> None:
        """Make `receive` return soon. From any thread."""
        self._receiver.stop[0] = 1
