"""DectrisConnection: one connection to the stream, as a source's connection."""

from __future__ import annotations

from collections.abc import Iterator

from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.sources.dectris.receiver import Receiver
from live4d_ophyd.sources.dectris.series_filter import SeriesFilter
from live4d_ophyd.sources.source import Item


class DectrisConnection:
    """Connection ``number`` of a stream; ``series`` is the filter that all its connections share."""

    def __init__(self, receiver: Receiver, number: int, series: SeriesFilter) -> None:
        self._receiver, self._number, self._series = receiver, number, series

    def receive(self, batch: FrameBatch, wait: float) -> Iterator[Item]:
        """Fill the batch, for up to ``wait`` s, and say what is in it, in order."""
        self._receiver.receive(batch, channel=self._series.channel.encode(), wait=wait)
        batch.connection = self._number
        return self._series.accept(batch)
