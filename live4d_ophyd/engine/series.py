"""Series: what the receive threads do with messages, from `start` over images to `end`.

``take`` sorts a batch: images go to the decoder, the rare other messages are read one by one. It returns what is
still to be done, in order, when the decoder is: to feed the imaging methods and book the images in the tracker. Every
receive thread calls it with its own batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from live4d_ophyd.decode import Backend
from live4d_ophyd.engine.deliveries import Deliveries
from live4d_ophyd.engine.errors import AcquisitionError
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.header_scan import disagreement
from live4d_ophyd.engine.pending import End, Pending
from live4d_ophyd.engine.preparation import Preparation
from live4d_ophyd.engine.projection import Projection
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.frames.batch import (
    IMAGE,
    NO_CHANNEL,
    RECEIVED_NS,
    SERIES_ID,
    UNIQUE_ID,
    FrameBatch,
)
from live4d_ophyd.sources.dectris.index import fill_from_message, hash_unique_id, index_images
from live4d_ophyd.sources.dectris.messages import (
    EndMessage,
    ImageMessage,
    StartMessage,
    StreamError,
    read_message,
)

log = logging.getLogger(__name__)

#: images that overtook their `start` on another connection are held this long, s
WAIT_FOR_START_S = 0.5
#: and up to this many bytes; also the limit of what is kept for the next acquisition
HOLD_BYTES = 1 << 30
#: this many reasons of bad messages are logged as they come; all are counted
REASONS_LOGGED = 5
#: and this many are told apart
REASONS_KEPT = 20

SeriesKey = tuple[int, int]
"""(series id, hash of the unique id; 0 where it is not known)"""


@dataclass
class Memory:
    """What the series of one stream leave for those after them."""

    #: series that are over: what still comes of them is left alone
    finished: set[SeriesKey] = field(default_factory=set)
    #: messages that came behind the end of the last series taken
    left_over: list[FrameBatch] = field(default_factory=list)
    preparation: Preparation = field(default_factory=Preparation)


class Series:
    """The one series an acquisition takes, identified by its `start` message or by what `arm` answered."""

    def __init__(
        self,
        request: AcquisitionRequest,
        tracker: FrameTracker,
        backend: Backend,
        memory: Memory,
    ) -> None:
        self.request = request
        self.tracker = tracker
        self.key: SeriesKey | None = None
        self.ended = False  #: nothing of it comes any more, and what came is booked
        self.reasons: Counter[str] = Counter()
        self.unusable: dict[
            str, str
        ] = {}  #: why `start` or `end` messages could not be used, and which it was
        self.others: Counter[int] = Counter()  #: images of other series that were left alone, by series id
        self.projection = Projection(request, tracker, backend, memory.preparation, self._refuse)
        self._memory = memory
        self._lock = threading.Lock()
        self._held: list[FrameBatch] = []
        self._held_since = 0.0
        self._start_overdue = False
        self._channel_settled = False  # by an image: it does not change any more
        self._end_came = False
        self._deliveries = Deliveries()

    @property
    def name(self) -> str:
        return "?" if self.key is None else str(self.key[0])

    @property
    def start(self) -> StartMessage | None:
        return self.projection.start

    @property
    def channel(self) -> str:
        """The data channel that is summed; "" until the series has named one."""
        return self.projection.channel

    def expect(self, series_id: int) -> None:
        """Take this series and no other: the detector was armed for it."""
        self.key = (series_id, 0)
        self.projection.name, self.projection.key = self.name, self.key

    def take(self, batch: FrameBatch) -> list[Pending]:
        """Everything in the batch; runs in the thread that received it.

        The batch must stay as it is until all that is returned is finished, in that order.
        """
        if self.request.receivers > 1:
            self._deliveries.add(batch)
        if self._held and not self._must_wait_for_start():
            self._take_held()
        return self._sort(batch)

    def _sort(self, batch: FrameBatch) -> list[Pending]:
        pending: list[Pending] = []
        begin = 0
        for row in np.flatnonzero((batch.status != IMAGE) & (batch.status != NO_CHANNEL)).tolist():
            pending += self._take_images(batch, begin, row)
            pending += self._take_message(batch, row)
            begin = row + 1
        return pending + self._take_images(batch, begin, batch.count)

    def all_came(self, connections: Sequence[int]) -> bool:
        """Whether each of these connections has brought all it has to bring of the series, as far as can be told."""
        return self.key is not None and self._deliveries.all_came(
            self.key[0], connections, self.tracker.last_missing
        )

    # Messages that are no plain image -----------------------------------------------------------

    def _take_message(self, batch: FrameBatch, row: int) -> list[Pending]:
        try:
            message = read_message(batch.message(row))
            if isinstance(message, ImageMessage):
                # Legal, but nothing the fast path knows: read in full, then treated like any other.
                fill_from_message(batch, row, message, batch.channel)
                return self._take_images(batch, row, row + 1)
        except StreamError as error:
            if error.message_type in ("start", "end"):
                self._refuse_other(error.message_type, str(error))
            else:
                self._refuse(str(error))
                self.tracker.unreadable()
            return []
        if isinstance(message, StartMessage):
            return self._begin(message, batch, row)
        if isinstance(message, EndMessage):
            if self.key is None and self._must_wait_for_start():
                self._hold(batch, row, row + 1)
            elif self._is_ours(message.series_id, hash_unique_id(message.series_unique_id)):
                self._end_came = True
                return [*self.projection.finish(), End(self._end)]
            elif self._end_came:
                self._leave(batch, row, row + 1)
        else:
            log.info("left alone a message of type %r", message.type)
        return []

    def _begin(self, start: StartMessage, batch: FrameBatch, row: int) -> list[Pending]:
        key = (start.series_id, hash_unique_id(start.series_unique_id))
        with self._lock:
            if self.key is not None and self.key[1] == 0 and self.key[0] == start.series_id:
                pass  # the series that was armed, now with its unique id
            elif key in self._memory.finished or key == self.key:
                return []
            elif self.request.control is not None:
                log.info("left alone the start of series %d: series %s was armed", start.series_id, self.name)
                return []
            elif self.key is not None and (self._end_came or self.tracker.begun):
                if not self._end_came:
                    log.warning("series %d began before series %s was over", start.series_id, self.name)
                self._end_came = True
                self._leave(batch, row, row + 1)
                return [*self.projection.finish(), End(self._end)]
            elif self.key is not None:
                log.warning(
                    "series %d replaces series %s, which brought no image", start.series_id, self.name
                )
            if not self._channel_settled:
                self.projection.channel = self.request.channel or next(iter(start.channels), "")
            self.key = key
            self.projection.name, self.projection.key = self.name, self.key
            self.projection.start = start  # the last: what overtook it is taken now
        if start.notes:
            log.warning("series %d: not understood and left out: %s", start.series_id, "; ".join(start.notes))
        against = disagreement(
            start.user_data, self.request.grid, armed_here=self.request.control is not None
        )
        if against:
            raise AcquisitionError(
                f"series {start.series_id}: the microscope scans something else than the grid: {against}. Set "
                "scan_rows, scan_cols and the like to what is scanned, or pass a scan_generator that takes it from them"
            )
        announced = start.number_of_images
        if announced is not None and announced != self.request.frames:
            log.warning(
                "series %d announces %d images, the grid needs %d (%d x %d x %d rasters)",
                start.series_id, announced, self.request.frames, *self.request.grid.shape, self.request.rasters,
            )  # fmt: skip
        with self.tracker.changed:
            self.tracker.last_activity = time.monotonic()
        self.projection.prepare_early()
        return []

    def _end(self) -> None:
        self._end_came = True
        with self.tracker.changed:
            self.ended = True
            self.tracker.last_activity = time.monotonic()
            self.tracker.changed.notify_all()

    def _is_ours(self, series_id: int, unique_id: int) -> bool:
        if self.key is None or series_id != self.key[0]:
            return False
        if not self.key[1] and unique_id and (series_id, unique_id) in self._memory.finished:
            return False  # of a detector that was restarted and counts its series from 1 again
        return unique_id == self.key[1] or 0 in (unique_id, self.key[1])

    def _refuse(self, reason: str, images: int = 1) -> None:
        with self._lock:
            if reason not in self.reasons and len(self.reasons) >= REASONS_KEPT:
                reason = "other reasons"  # hostile messages can differ without end
            new = reason not in self.reasons
            self.reasons[reason] += images
            if new and len(self.reasons) <= REASONS_LOGGED:
                log.warning("series %s: bad image: %s", self.name, reason)

    def _refuse_other(self, kind: str, reason: str) -> None:
        """A `start` or `end` that cannot be read: no image is bad for it."""
        with self._lock:
            new = reason not in self.unusable and len(self.unusable) < REASONS_KEPT
            if new:
                self.unusable[reason] = kind
        if new:
            log.warning("series %s: the %s message cannot be used: %s", self.name, kind, reason)

    # Images -------------------------------------------------------------------------------------

    def _take_images(self, batch: FrameBatch, begin: int, end: int) -> list[Pending]:
        if begin >= end:
            return []
        if self._must_wait_for_start():
            self._hold(batch, begin, end)
            return []
        rows = np.arange(begin, end)
        index = batch.index[begin:end]
        if self.key is None:
            ours = np.zeros(len(rows), bool)
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
                self._leave(batch, begin, end)
            else:
                self.tracker.foreign(len(rows) - int(ours.sum()))
                self._count_others(index[~ours, SERIES_ID])
            rows = rows[ours]
        if not len(rows):
            return []
        channel = self._settle_channel(batch, int(rows[0]))
        if batch.channel != channel.encode():
            index_images(batch, rows, channel)
        rows = rows[self.tracker.claim(batch.image_id[rows])]
        usable = batch.status[rows] == IMAGE
        self._refuse_images(batch, rows[~usable])
        rows = rows[usable]
        if not len(rows):
            return []
        return self.projection.take(batch, rows)

    def _count_others(self, series_ids: np.ndarray) -> None:
        with self._lock:
            for series_id, count in zip(*np.unique(series_ids, return_counts=True)):
                if series_id in self.others or len(self.others) < REASONS_KEPT:
                    self.others[int(series_id)] += int(count)

    def _settle_channel(self, batch: FrameBatch, row: int) -> str:
        """The series' channel: what the user or `start` named, else the first one of the first image."""
        with self._lock:
            self._channel_settled = True
            if not self.channel:
                message = read_message(batch.message(row))
                assert isinstance(message, ImageMessage)
                self.projection.channel = next(iter(message.channels))
            return self.channel

    def _refuse_images(self, batch: FrameBatch, rows: np.ndarray) -> None:
        """Book claimed images whose data cannot be taken; those of a batch share their reason."""
        if not len(rows):
            return
        reason = "column-major and split arrays are not supported in a live stream"
        if batch.status[rows[0]] == NO_CHANNEL:
            message = read_message(batch.message(int(rows[0])))
            assert isinstance(message, ImageMessage)
            named = (
                "asked for"
                if self.request.channel
                else "the first of the series; channel= chooses another one"
            )
            reason = f"no channel {self.channel!r} ({named}); the image has {', '.join(message.channels)}"
        self._refuse(reason, len(rows))
        times = batch.column(RECEIVED_NS)[rows]
        none = np.zeros(len(rows), bool)
        self.tracker.settle(batch.image_id[rows], none, times, none)

    def _leave(self, batch: FrameBatch, begin: int, end: int) -> None:
        """Keep what came after the end of this series for the next acquisition: it may be the next series."""
        left_over = self._memory.left_over
        if sum(b.buffer.nbytes for b in left_over) < HOLD_BYTES:
            left_over.append(batch.copy(begin, end))
        else:
            self.tracker.foreign(end - begin)

    # Images, and `end`, that overtook their start on another connection -------------------------------------

    def _must_wait_for_start(self) -> bool:
        if self.start is not None or self._start_overdue or self.request.receivers == 1:
            return False
        if self._held:
            waited = time.monotonic() - self._held_since
            held = sum(batch.buffer.nbytes for batch in self._held)
            self._start_overdue = self.ended or waited > WAIT_FOR_START_S or held > HOLD_BYTES
        return not self._start_overdue

    def _hold(self, batch: FrameBatch, begin: int, end: int) -> None:
        with self._lock:
            if not self._held:
                self._held_since = time.monotonic()
            self._held.append(batch.copy(begin, end))

    def _take_held(self) -> None:
        with self._lock:
            held, self._held = self._held, []
        for batch in held:
            for pending in self._sort(batch):
                pending.finish()
