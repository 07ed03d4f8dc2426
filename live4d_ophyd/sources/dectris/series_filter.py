"""SeriesFilter: which messages of a stream are of the one series that is taken, and what they mean.

In: batches of indexed messages, from all connections. Out: items in order (`source.Item`): the start, frames, the end.
Frames go on as they are; the rare other messages are read one by one. Every receive thread calls it with its own
batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from live4d_ophyd.frames.batch import IMAGE, NO_CHANNEL, SERIES_ID, UNIQUE_ID, FrameBatch
from live4d_ophyd.sources.dectris.deliveries import Deliveries
from live4d_ophyd.sources.dectris.header import header_of
from live4d_ophyd.sources.dectris.index import fill_from_message, hash_unique_id, index_images
from live4d_ophyd.sources.dectris.messages import (
    EndMessage,
    ImageMessage,
    StartMessage,
    StreamError,
    read_message,
)
from live4d_ophyd.sources.source import (
    Ended,
    Foreign,
    Frames,
    Item,
    SeriesHeader,
    SeriesKey,
    Started,
    Unreadable,
)

log = logging.getLogger(__name__)

#: frames that overtook their `start` on another connection are held this long, s
WAIT_FOR_START_S = 0.5
#: and up to this many bytes; also the limit of what is kept for the next acquisition
HOLD_BYTES = 1 << 30
#: this many reasons, and other series, are told apart: hostile messages can differ without end
KEPT = 20


@dataclass
class Memory:
    """What the series of one stream leave for those after them."""

    #: series that are over: what still comes of them is ignored
    finished: set[SeriesKey] = field(default_factory=set)
    #: messages that came behind the end of the last series taken
    left_over: list[FrameBatch] = field(default_factory=list)


class SeriesFilter:
    """The one series that is taken, identified by its `start` message or by what `arm` answered.

    ``channel`` is the data channel that is wanted, "" the first that the series names; ``armed``: the detector is armed
    for it, so that no other series can be meant.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        channel: str = "",
        connections: int = 1,
        armed: bool = False,
    ) -> None:
        self.key: SeriesKey | None = None
        self._channel = channel
        self.start: StartMessage | None = None
        self.unusable: dict[
            str, str
        ] = {}  #: why `start` or `end` messages could not be used, and which it was
        self.others: Counter[int] = Counter()  #: frames of other series that were ignored, by series id
        self._memory = memory
        self._wanted, self._connections, self._armed = channel, connections, armed
        self._lock = threading.Lock()
        self._waiting: deque[FrameBatch] | None = None
        self._held: list[FrameBatch] = []
        self._held_since = 0.0
        self._start_overdue = False
        self._begun = False  # a frame of it came: its channel does not change any more
        self._end_came = False
        self._deliveries = Deliveries()

    @property
    def name(self) -> str:
        return "?" if self.key is None else str(self.key[0])

    @property
    def channel(self) -> str:
        """The data channel that is taken; "" until the series has named one."""
        return self._channel

    @property
    def header(self) -> SeriesHeader | None:
        """What the series says of itself; None as long as its start has not come."""
        return self.header_of(self.channel)

    def header_of(self, channel: str) -> SeriesHeader | None:
        """What it says where the frames of ``channel`` are taken."""
        return None if self.start is None or self.key is None else header_of(self.start, self.key, channel)

    def expect(self, series_id: int) -> None:
        """Take this series and no other: the detector was armed for it."""
        self.key = (series_id, 0)

    def left_over(self) -> FrameBatch | None:
        """The next batch of what came behind the end of the series before. For one thread."""
        if (
            self._waiting is None
        ):  # only what is there now: it may have to wait again, for a series behind this one
            self._waiting, self._memory.left_over[:] = deque(self._memory.left_over), []
        return self._waiting.popleft() if self._waiting else None

    def finish(self) -> None:
        """The series is over for us: what still comes of it is ignored by those behind it."""
        self._memory.left_over.extend(self._waiting or ())  # behind what had to wait again
        if self.key is not None:
            self._memory.finished.add(self.key)

    def accept(self, batch: FrameBatch) -> Iterator[Item]:
        """What is in the batch; runs in the thread that received it."""
        if self._connections > 1:
            self._deliveries.add(batch)
        if self._held and not self._must_wait_for_start():
            with self._lock:
                held, self._held = self._held, []
            for earlier in held:
                yield from self._sort(earlier)
        yield from self._sort(batch)

    def _sort(self, batch: FrameBatch) -> Iterator[Item]:
        begin = 0
        for entry in np.flatnonzero((batch.status != IMAGE) & (batch.status != NO_CHANNEL)).tolist():
            yield from self._images(batch, begin, entry)
            yield from self._message(batch, entry)
            begin = entry + 1
        yield from self._images(batch, begin, batch.count)

    def all_came(self, connections: Sequence[int], last_missing: int) -> bool:
        """Whether each of these connections has brought all it has to bring of the series, as far as can be told."""
        return self.key is not None and self._deliveries.all_came(self.key[0], connections, last_missing)

    def why_unusable(self, batch: FrameBatch, entry: int) -> str:
        """Why an entry that is no IMAGE cannot be used."""
        if batch.status[entry] != NO_CHANNEL:
            return "column-major and split arrays are not supported in a live stream"
        message = read_message(batch.message(entry))
        assert isinstance(message, ImageMessage)
        named = "asked for" if self._wanted else "the first of the series; channel= chooses another one"
        return f"no channel {self.channel!r} ({named}); the frame has {', '.join(message.channels)}"

    # Messages that are no plain image message ---------------------------------------------------

    def _message(self, batch: FrameBatch, entry: int) -> Iterator[Item]:
        try:
            message = read_message(batch.message(entry))
            if isinstance(message, ImageMessage):
                # Legal, but nothing the fast path knows: read in full, then treated like any other.
                fill_from_message(batch, entry, message, batch.channel)
                yield from self._images(batch, entry, entry + 1)
                return
        except StreamError as error:
            if error.message_type in ("start", "end"):
                self._refuse(error.message_type, str(error))
            else:
                yield Unreadable(str(error))
            return
        if isinstance(message, StartMessage):
            yield from self._begin(message, batch, entry)
        elif isinstance(message, EndMessage):
            if self.key is None and self._must_wait_for_start():
                self._hold(batch, entry, entry + 1)
            elif self._is_ours(message.series_id, hash_unique_id(message.series_unique_id)):
                self._end_came = True
                yield Ended()
            elif self._end_came:
                yield from self._hold_for_next_series(batch, entry, entry + 1)
        else:
            log.info("ignored a message of type %r", message.type)

    def _begin(self, start: StartMessage, batch: FrameBatch, entry: int) -> Iterator[Item]:
        key = (start.series_id, hash_unique_id(start.series_unique_id))
        with self._lock:
            ended = self._end_came
            over = self.key is not None and (ended or self._begun)
            if self.key is not None and self.key[1] == 0 and self.key[0] == start.series_id:
                over = False  # the series that was armed, now with its unique id
            elif key in self._memory.finished or key == self.key:
                return
            elif self._armed:
                log.info("ignored the start of series %d: series %s was armed", start.series_id, self.name)
                return
            elif over:
                if not ended:
                    log.warning("series %d began before series %s was over", start.series_id, self.name)
                self._end_came = True
            elif self.key is not None:
                log.warning(
                    "series %d replaces series %s, which brought no frame", start.series_id, self.name
                )
            if not over:
                if not self._begun:
                    self._channel = self._wanted or next(iter(start.channels), "")
                self.key = key
                self.start = start  # the last: what overtook it is taken now
        if over:
            yield from self._hold_for_next_series(batch, entry, entry + 1)
            if not ended:
                yield Ended()
            return
        if start.notes:
            log.warning("series %d: not understood and left out: %s", start.series_id, "; ".join(start.notes))
        header = self.header
        assert header is not None
        yield Started(header)

    def _is_ours(self, series_id: int, unique_id: int) -> bool:
        if self.key is None or series_id != self.key[0]:
            return False
        if not self.key[1] and unique_id and (series_id, unique_id) in self._memory.finished:
            return False  # of a detector that was restarted and counts its series from 1 again
        return unique_id == self.key[1] or 0 in (unique_id, self.key[1])

    def _refuse(self, kind: str, reason: str) -> None:
        """A `start` or `end` that cannot be read: no frame is bad for it."""
        with self._lock:
            new = reason not in self.unusable and len(self.unusable) < KEPT
            if new:
                self.unusable[reason] = kind
        if new:
            log.warning("series %s: the %s message cannot be used: %s", self.name, kind, reason)

    # Frames -------------------------------------------------------------------------------------

    def _images(self, batch: FrameBatch, begin: int, end: int) -> Iterator[Item]:
        if begin >= end:
            return
        if self._must_wait_for_start():
            self._hold(batch, begin, end)
            return
        entries = np.arange(begin, end)
        index = batch.index[begin:end]
        if self.key is None:
            ours = np.zeros(len(entries), bool)
        else:
            unique = index[:, UNIQUE_ID]
            ours = index[:, SERIES_ID] == self.key[0]
            if self.key[1]:
                ours &= (unique == self.key[1]) | (unique == 0)
            else:
                # Armed, and its start not here yet: see _is_ours.
                for number, earlier in self._memory.finished:
                    if earlier and number == self.key[0]:
                        ours &= unique != earlier
        if not ours.all():
            if self._end_came:
                yield from self._hold_for_next_series(batch, begin, end)
            else:
                self._count_others(index[~ours, SERIES_ID])
                yield Foreign(len(entries) - int(ours.sum()))
            entries = entries[ours]
        if not len(entries):
            return
        channel = self._decide_channel(batch, int(entries[0]))
        if batch.channel != channel.encode():
            index_images(batch, entries, channel)
        yield Frames(batch, entries)

    def _count_others(self, series_ids: np.ndarray) -> None:
        with self._lock:
            for series_id, count in zip(*np.unique(series_ids, return_counts=True)):
                if series_id in self.others or len(self.others) < KEPT:
                    self.others[int(series_id)] += int(count)

    def _decide_channel(self, batch: FrameBatch, entry: int) -> str:
        """The series' channel: what the user or `start` named, else the first one of the first frame."""
        with self._lock:
            self._begun = True
            if not self.channel:
                message = read_message(batch.message(entry))
                assert isinstance(message, ImageMessage)
                self._channel = next(iter(message.channels))
            return self.channel

    def _hold_for_next_series(self, batch: FrameBatch, begin: int, end: int) -> Iterator[Item]:
        """Hold what came after the end of this series for the next acquisition: it may be the next series."""
        left_over = self._memory.left_over
        if sum(b.buffer.nbytes for b in left_over) < HOLD_BYTES:
            left_over.append(batch.copy(begin, end))
        else:
            yield Foreign(end - begin)

    # Frames, and `end`, that overtook their start on another connection -------------------------------------

    def _must_wait_for_start(self) -> bool:
        if self.start is not None or self._start_overdue or self._connections == 1:
            return False
        if self._held:
            waited = time.monotonic() - self._held_since
            held = sum(batch.buffer.nbytes for batch in self._held)
            self._start_overdue = self._end_came or waited > WAIT_FOR_START_S or held > HOLD_BYTES
        return not self._start_overdue

    def _hold(self, batch: FrameBatch, begin: int, end: int) -> None:
        with self._lock:
            if not self._held:
                self._held_since = time.monotonic()
            self._held.append(batch.copy(begin, end))
