"""What of a batch is still to be done when it has been sorted: frames under way in the decoder, the end behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from live4d_ophyd.decode.decoder import Decoder
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.frames.batch import IMAGE, RECEIVED_NS, FrameBatch


class Pending(Protocol):
    """One step; those of a receive thread are finished in order."""

    @property
    def ready(self) -> bool:
        """Whether `finish` need not wait."""

    def finish(self) -> None: ...


class ChannelUnderWay:
    """The same frames as a further channel has them, under way from the start; in order before `FramesUnderWay`.

    ``batch`` (n,) has an entry for each of them: those that are no IMAGE do not have the channel. ``refuse`` takes the
    reasons of those without numbers. ``positions`` (n,): -1 for none.
    """

    def __init__(
        self,
        channel: str,
        tracker: FrameTracker,
        refuse: Callable[[int, FrameBatch, int], None],
        decoder: Decoder,
        imaging: Imaging,
        batch: FrameBatch,
        positions: np.ndarray,
    ) -> None:
        self.channel, self.batch, self._tracker = channel, batch, tracker
        #: (n,) statuses, and whether a pixel that is weighed holds no count; once finished
        self.status = np.where(batch.status == IMAGE, 0, batch.status)
        self.flagged = np.zeros(batch.count, bool)
        self._refuse, self._decoder, self._imaging = refuse, decoder, imaging
        self._taken = np.flatnonzero((self.status == 0) & (positions >= 0))
        self._positions = positions[self._taken]
        self._decoded = decoder.submit(batch, self._taken, imaging.prepared.channels[channel].demand)

    @property
    def ready(self) -> bool:
        return self._decoded.ready

    def finish(self) -> None:
        """Feed the channel's methods."""
        with self._tracker.working():
            for part in self._decoded.parts():
                with self._decoder.working():
                    self._imaging.add(self._positions[part.at], part, self.channel)
                at = self._taken[part.at]
                self.status[at], self.flagged[at] = part.status, part.flagged
        for bad in np.flatnonzero(self.status).tolist():
            self._refuse(int(self.status[bad]), self.batch, bad)


class FramesUnderWay:
    """Claimed frames of one batch, under way in the decoder from the start; ``further``: in other channels.

    ``positions`` (n,): -1 for none, as of flyback and lead-in. ``record`` takes all of them, with their positions, and
    what the decoder said.
    """

    def __init__(
        self,
        tracker: FrameTracker,
        refuse: Callable[[int, FrameBatch, int], None],
        decoder: Decoder,
        imaging: Imaging,
        batch: FrameBatch,
        entries: np.ndarray,
        positions: np.ndarray,
        record: Callable[[FrameBatch, np.ndarray, np.ndarray, np.ndarray], None] | None = None,
        further: Sequence[ChannelUnderWay] = (),
    ) -> None:
        self._record, self._further = record, further
        self._tracker, self._refuse = tracker, refuse
        self._decoder, self._imaging = decoder, imaging
        self._batch, self._entries, self._all_positions = batch, entries, positions
        self._imaged = np.flatnonzero(positions >= 0)
        self._positions = positions[self._imaged]
        self._decoded = decoder.submit(batch, entries[self._imaged], imaging.prepared.channels[""].demand)

    @property
    def ready(self) -> bool:
        return self._decoded.ready

    def finish(self) -> None:
        """Feed the methods, then book the frames."""
        status = np.zeros(len(self._entries), np.int64)
        flagged = np.zeros(len(self._entries), bool)
        with self._tracker.working():  # decoding, and a slow method, is not the stream's silence
            for part in self._decoded.parts():
                with self._decoder.working():
                    self._imaging.add(self._positions[part.at], part)
                at = self._imaged[part.at]
                status[at], flagged[at] = part.status, part.flagged
        batch, entries = self._batch, self._entries
        if self._record is not None:
            self._record(batch, entries, self._all_positions, status)
        for bad in np.flatnonzero(status).tolist():
            self._refuse(int(status[bad]), batch, int(entries[bad]))
        self._tracker.finish(
            batch.image_id[entries], status == 0, batch.column(RECEIVED_NS)[entries], flagged,
            {each.channel: (each.status == 0, each.flagged) for each in self._further},
        )  # fmt: skip


class End:
    """The end of the series, behind the frames that came before it."""

    ready = True

    def __init__(self, finish: Callable[[], None]) -> None:
        self.finish = finish
