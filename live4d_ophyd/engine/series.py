"""Series: what the receive threads do with messages, from `start` over images to `end`.

``take`` sorts a batch: images go to the decoder, the rare other messages are read one by one. It returns what is
still to be done, in order, when the decoder is: to feed the imaging methods and book the images in the ledger. Every
receive thread calls it with its own batches.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from live4d_ophyd.decode import Backend, FrameFormat
from live4d_ophyd.engine.deliveries import Deliveries
from live4d_ophyd.engine.frame_format import (
    agrees,
    announced_in_words,
    choose_format,
    formats_of,
    in_words,
)
from live4d_ophyd.engine.ledger import Ledger
from live4d_ophyd.engine.pending import End, Images, Pending
from live4d_ophyd.engine.preparation import Preparation
from live4d_ophyd.engine.reasons import why_bad
from live4d_ophyd.engine.spec import AcquisitionSpec
from live4d_ophyd.imaging.methods import MeanPattern, Method, VirtualImages
from live4d_ophyd.stream.arrays import EncodedArray
from live4d_ophyd.stream.batch import (
    IMAGE,
    NO_CHANNEL,
    RECEIVED_NS,
    SERIES_ID,
    UNIQUE_ID,
    FrameBatch,
)
from live4d_ophyd.stream.index import fill_from_message, hash_unique_id, index_images
from live4d_ophyd.stream.messages import EndMessage, ImageMessage, StartMessage, StreamError, read_message

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
    #: whether it was said that no pixel is masked
    unmasked_said: bool = False
    preparation: Preparation = field(default_factory=Preparation)


class Series:
    """The one series an acquisition takes, identified by its `start` message or by what `arm` answered."""

    def __init__(
        self,
        spec: AcquisitionSpec,
        ledger: Ledger,
        backend: Backend,
        memory: Memory,
    ) -> None:
        self.spec = spec
        self.ledger = ledger
        self.key: SeriesKey | None = None
        self.start: StartMessage | None = None
        self.ended = False  #: nothing of it comes any more, and what came is booked
        self.methods: list[Method] | None = None
        self.engine = ""  #: what decodes the images
        self.channel = spec.channel  #: the data channel that is summed; "" until the series has named one
        self.reasons: Counter[str] = Counter()
        self._backend = backend
        self._memory = memory
        self._frame: FrameFormat | None = None
        self._formats: Counter[FrameFormat] = Counter()  # of the first images
        self._unsettled: list[tuple[FrameBatch, np.ndarray]] = []  # images that wait for the format
        self._lock = threading.RLock()
        self._held: list[FrameBatch] = []
        self._held_since = 0.0
        self._start_overdue = False
        self._channel_settled = False  # by an image: it does not change any more
        self._end_came = False
        self._deliveries = Deliveries()
        self._of_thread = threading.local()

    @property
    def name(self) -> str:
        return "?" if self.key is None else str(self.key[0])

    @property
    def contradiction(self) -> str:
        """What `start` and an image say of the images where nothing has told who is right yet; else ""."""
        if self._frame is not None or not self._formats:
            return ""
        images = " or ".join(map(in_words, self._formats))
        return f"its start message announces {announced_in_words(self.start)}, what came is {images}"

    def expect(self, series_id: int) -> None:
        """Take this series and no other: the detector was armed for it."""
        self.key = (series_id, 0)

    def take(self, batch: FrameBatch) -> list[Pending]:
        """Everything in the batch; runs in the thread that received it.

        The batch must stay as it is until all that is returned is finished, in that order.
        """
        if self.spec.receivers > 1:
            self._deliveries.add(batch)
        if self._held and not self._must_wait_for_start():
            self._take_held()
        return self._sort(batch)

    def _sort(self, batch: FrameBatch) -> list[Pending]:
        pending: list[Pending] = []
        begin = 0
        for row in np.flatnonzero(~np.isin(batch.status, (IMAGE, NO_CHANNEL))).tolist():
            pending += self._take_images(batch, begin, row)
            pending += self._take_message(batch, row)
            begin = row + 1
        return pending + self._take_images(batch, begin, batch.count)

    def all_came(self, connections: Sequence[int]) -> bool:
        """Whether each of these connections has brought all it has to bring of the series, as far as can be told."""
        return self.key is not None and self._deliveries.all_came(
            self.key[0], connections, self.ledger.last_missing
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
            self._refuse(str(error))
            self.ledger.unreadable()
            return []
        if isinstance(message, StartMessage):
            return self._begin(message, batch, row)
        if isinstance(message, EndMessage):
            if self.key is None and self._must_wait_for_start():
                self._hold(batch, row, row + 1)
            elif self._is_ours(message.series_id, hash_unique_id(message.series_unique_id)):
                self._end_came = True
                return self._before_end()
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
            elif self.spec.control is not None:
                log.warning(
                    "left alone the start of series %d: series %s was armed", start.series_id, self.name
                )
                return []
            elif self.key is not None and (self._end_came or self.ledger.begun):
                if not self._end_came:
                    log.warning("series %d began before series %s was over", start.series_id, self.name)
                self._end_came = True
                self._leave(batch, row, row + 1)
                return self._before_end()
            elif self.key is not None:
                log.warning(
                    "series %d replaces series %s, which brought no image", start.series_id, self.name
                )
            if not self._channel_settled:
                self.channel = self.spec.channel or next(iter(start.channels), "")
            self.key, self.start = key, start
        if start.notes:
            log.warning("series %d: not understood and left out: %s", start.series_id, "; ".join(start.notes))
        announced = start.number_of_images
        if announced is not None and announced != self.spec.frames:
            log.warning(
                "series %d announces %d images, the grid needs %d (%d x %d x %d rasters)",
                start.series_id, announced, self.spec.frames, *self.spec.grid.shape, self.spec.rasters,
            )  # fmt: skip
        with self.ledger.changed:
            self.ledger.last_activity = time.monotonic()
        self._prepare_early()
        return []

    def _end(self) -> None:
        self._end_came = True
        with self.ledger.changed:
            self.ended = True
            self.ledger.last_activity = time.monotonic()
            self.ledger.changed.notify_all()

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
                self.ledger.foreign(len(rows) - int(ours.sum()))
            rows = rows[ours]
        if not len(rows):
            return []
        channel = self._settle_channel(batch, int(rows[0]))
        if batch.channel != channel.encode():
            index_images(batch, rows, channel)
        rows = rows[self.ledger.claim(batch.image_id[rows])]
        usable = batch.status[rows] == IMAGE
        self._refuse_images(batch, rows[~usable])
        rows = rows[usable]
        if not len(rows):
            return []
        with self.ledger.working():
            with self._lock:
                if self._frame is None:
                    self._formats.update(formats_of(batch, rows))
                    self._settle_format(self.ledger.all_claimed)
                if self._frame is None:
                    first = int(rows[0])
                    self._unsettled.append((batch.copy(first, int(rows[-1]) + 1), rows - first))
                    return []
            return [*self._take_unsettled(), self._decode(batch, rows)]

    def _settle_format(self, all_there: bool) -> None:
        """Prepare for the format of the series if the images so far tell it, all of them if no other comes."""
        if self._frame is None and self._formats:
            frame = choose_format(self.start, self._formats, all_there)
            if frame is not None:
                self._prepare(frame)

    def _take_unsettled(self) -> list[Pending]:
        """The images that waited for the format."""
        with self._lock:
            if self._frame is None:
                return []
            waited, self._unsettled = self._unsettled, []
        return [self._decode(batch, rows) for batch, rows in waited]

    def _before_end(self) -> list[Pending]:
        with self._lock, self.ledger.working():
            self._settle_format(all_there=True)
        return [*self._take_unsettled(), End(self._end)]

    def _decode(self, batch: FrameBatch, rows: np.ndarray) -> Pending:
        """Begin to sum images with this thread's decoder."""
        assert self._frame is not None
        assert self.methods is not None
        decoder = getattr(self._of_thread, "decoder", None)
        if decoder is None:
            decoder = self._of_thread.decoder = self._backend.decoder(self._frame, nodata=self.spec.nodata)
            self.engine = decoder.engine
        return Images(self.spec.grid, self.ledger, self._refuse_image, decoder, self.methods, batch, rows)

    def _settle_channel(self, batch: FrameBatch, row: int) -> str:
        """The series' channel: what the user or `start` named, else the first one of the first image."""
        with self._lock:
            self._channel_settled = True
            if not self.channel:
                message = read_message(batch.message(row))
                assert isinstance(message, ImageMessage)
                self.channel = next(iter(message.channels))
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
                "asked for" if self.spec.channel else "the first of the series; channel= chooses another one"
            )
            reason = f"no channel {self.channel!r} ({named}); the image has {', '.join(message.channels)}"
        self._refuse(reason, len(rows))
        times = batch.column(RECEIVED_NS)[rows]
        self.ledger.settle(batch.image_id[rows], np.zeros(len(rows), bool), times)

    def _refuse_image(self, status: int, batch: FrameBatch, row: int) -> None:
        assert self._frame is not None
        self._refuse(why_bad(status, batch, row, self._frame, self.start))

    def _prepare(self, frame: FrameFormat) -> None:
        """Make the methods, when the format of the frames is known."""
        spec, start = self.spec, self.start
        if start is None:
            log.warning(
                "series %s: no start message came; pixel masks of the detector are not known", self.name
            )
        elif not agrees(start, frame):
            log.warning(
                "series %s: the start message announces %s, but the images are %s: they are taken as they are",
                self.name, announced_in_words(start), in_words(frame),
            )  # fmt: skip
        mask, weights = self._memory.preparation.prepare(spec, frame.shape, self._detectors_mask())
        if (
            mask is None
            and start is not None
            and not start.pixel_mask_enabled
            and not self._memory.unmasked_said
        ):
            self._memory.unmasked_said = True
            log.warning(
                "series %s: no pixel is masked: dead and hot pixels are counted like all others. The stream brought no "
                "pixel mask%s, start %s that the detector applies its own, and none was given. Set header_detail of "
                "the detector's stream to 'all', or pass pixel_mask=...; calibrate_bright_field lists hot pixels",
                self.name, f" of channel {self.channel!r}" if start.pixel_mask else "",
                "does not say" if start.pixel_mask_enabled is None else "denies",
            )  # fmt: skip
        methods: list[Method] = [VirtualImages(weights, spec.grid)]
        if spec.pattern:
            methods.append(MeanPattern(frame, spec.grid, pixel_mask=mask, nodata=spec.nodata))
        self.methods = methods
        self._frame = frame  # the last: other threads may decode now

    def _detectors_mask(self) -> EncodedArray | None:
        """The pixels that the detector itself calls bad, as it sent them."""
        masks = self.start.pixel_mask if self.start else None
        return masks.get(self.channel) if masks else None

    def _prepare_early(self) -> None:
        """Make what `start` tells all about before images come: it is there then, `_prepare` finds it again."""
        start = self.start
        if start is None or not start.image_size_y or not start.image_size_x or not self.channel:
            return
        # What does not fit is said when an image shows that start is right.
        with self._lock, self.ledger.working(), contextlib.suppress(ValueError):
            shape = (start.image_size_y, start.image_size_x)
            self._memory.preparation.prepare(self.spec, shape, self._detectors_mask())

    def _leave(self, batch: FrameBatch, begin: int, end: int) -> None:
        """Keep what came after the end of this series for the next acquisition: it may be the next series."""
        left_over = self._memory.left_over
        if sum(b.buffer.nbytes for b in left_over) < HOLD_BYTES:
            left_over.append(batch.copy(begin, end))
        else:
            self.ledger.foreign(end - begin)

    # Images, and `end`, that overtook their start on another connection -------------------------------------

    def _must_wait_for_start(self) -> bool:
        if self.start is not None or self._start_overdue or self.spec.receivers == 1:
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
