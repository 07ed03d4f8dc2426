"""DectrisSeries: one series of a stream that is open, and what the stream can say of frames that do not come."""

from __future__ import annotations

import numpy as np

from live4d_ophyd.frames.batch import ALGORITHM, BLOB_LENGTH, BLOB_OFFSET, ELEM_SIZE, FrameBatch
from live4d_ophyd.frames.codecs import name_of
from live4d_ophyd.frames.encoded_array import StreamError
from live4d_ophyd.sources.dectris.connection import DectrisConnection
from live4d_ophyd.sources.dectris.index import index_images
from live4d_ophyd.sources.dectris.messages import ImageMessage, read_message
from live4d_ophyd.sources.dectris.other_client import dealt_out
from live4d_ophyd.sources.dectris.series_filter import SeriesFilter
from live4d_ophyd.sources.dectris.stream import DectrisStream
from live4d_ophyd.sources.source import SeriesHeader, SeriesKey

#: other clients' connections that are recognised
_OTHER_CLIENTS = 8


class DectrisSeries:
    """Of the ``stream`` at ``endpoint``. ``channel`` and ``armed`` as of `SeriesFilter`."""

    def __init__(self, endpoint: str, stream: DectrisStream, *, channel: str, armed: bool) -> None:
        self._endpoint, self._stream, self._armed = endpoint, stream, armed
        self._filter = SeriesFilter(
            stream.memory, channel=channel, connections=len(stream.receivers), armed=armed
        )
        self.connections = [
            DectrisConnection(receiver, number, self._filter)
            for number, receiver in enumerate(stream.receivers)
        ]

    @property
    def key(self) -> SeriesKey | None:
        return self._filter.key

    @property
    def name(self) -> str:
        return self._filter.name

    @property
    def channel(self) -> str:
        return self._filter.channel

    @property
    def header(self) -> SeriesHeader | None:
        return self._filter.header

    def expect(self, key: SeriesKey) -> None:
        """Take this series and no other: the detector was armed for it."""
        self._filter.expect(key[0])

    def interrupt(self) -> None:
        for connection in self.connections:
            connection.interrupt()

    def finish(self) -> None:
        self._filter.finish()

    def all_came(self, last_missing: int) -> bool:
        """Whether each connection has brought all it has to bring of the series, as far as can be told."""
        # One that is cut has nothing under way any more.
        alive = [number for number, connection in enumerate(self.connections) if connection.connected()]
        return self._filter.all_came(alive, last_missing)

    def header_of(self, channel: str) -> SeriesHeader | None:
        return self._filter.header_of(channel)

    def other_channels(self, batch: FrameBatch, entry: int) -> dict[str, SeriesHeader | None]:
        message = read_message(batch.message(entry))
        assert isinstance(message, ImageMessage)
        return {name: self._filter.header_of(name) for name in message.channels if name != self.channel}

    def of_channel(self, batch: FrameBatch, entries: np.ndarray, channel: str) -> FrameBatch:
        other = FrameBatch(
            batch.buffer, batch.index[entries].copy(), len(entries), channel.encode(), batch.connection
        )
        index_images(other, np.arange(len(entries)), channel)
        return other

    def algorithm_of(self, batch: FrameBatch, entry: int) -> str | None:
        index = batch.index[entry]
        if (name := name_of(int(index[ALGORITHM]))) is not None:
            return name
        try:
            message = read_message(batch.message(entry))
        except StreamError:
            return None
        if not isinstance(message, ImageMessage):
            return None
        offset, length = int(index[BLOB_OFFSET]), int(index[BLOB_LENGTH])
        blob = batch.buffer[offset : offset + length].tobytes()
        for channel in message.channels.values():
            # The index says where the wanted channel's data are, not what it is called.
            if channel.data == blob and channel.elem_size == index[ELEM_SIZE]:
                return channel.algorithm
        return None

    def why_unusable(self, batch: FrameBatch, entry: int) -> str:
        return self._filter.why_unusable(batch, entry)

    def why_nothing_came(self, waited: str, ended: bool) -> str:
        key, others = self.key, self._filter.others
        if key is not None and self._armed and others:
            came = ", ".join(f"{count} frames of series {n}" for n, count in others.most_common(3))
            return (
                f"series {self.name} was armed and brought no frame {waited}, but {came} came from {self._endpoint} "
                "and were ignored: does another session arm the detector, or does it still send an earlier series?"
            )
        if key is not None:
            what = "ended without a frame" if ended else f"brought no frame {waited}"
            return f"series {self.name} {what}: is the scan running, and triggering the detector?"
        if "start" in self._filter.unusable.values():
            reason = next(reason for reason, kind in self._filter.unusable.items() if kind == "start")
            return f"no series began {waited}: the start message that came cannot be used: {reason}"
        if others:
            return (
                f"{others.total()} frames of other series came from {self._endpoint} but no series began {waited}: "
                "the start message was missed (connect before arming), or another client took it"
            )
        if why := self._stream.why_not_connected():
            return f"there is no stream {waited} at {why}"
        if not self._stream.connected():
            return f"nothing answers at {self._endpoint} {waited}: is the detector (or the simulator) on?"
        return f"{self._endpoint} answers but no series began {waited}: arm the detector, or pass control=Simplon(...)"

    def why_frames_miss(self, came: np.ndarray, dropped: int | None) -> str:
        """Another client that reads the stream takes every so manieth message; "" where it does not look so."""
        dealt = None if dropped else dealt_out(came, len(self.connections) + _OTHER_CLIENTS)
        last_missing = int(np.max(np.flatnonzero(~came), initial=-1))
        if dealt is None or not self._filter.all_came(range(len(self.connections)), last_missing):
            return ""
        return (
            f"regularly {dealt[0]} of every {dealt[1]}, "
            + ("and the detector dropped none" if dropped == 0 else "as no slow host loses them")
            + f": another client reads the stream of {self._endpoint}, whose messages go to all clients in turn. End "
            "it: a viewer, a recorder, an engine or session that was left behind"
        )
