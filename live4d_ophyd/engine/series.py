"""Series: what receive threads do with what a source says, from the start over frames to the end.

``accept`` goes through what is in a batch: new frames go to the decoder, everything else is booked at once. It returns
what is still to be done, in order, when the decoder is: to feed the imaging methods and book the frames in the tracker.
Every receive thread calls it with its own batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np

from live4d_ophyd.decode import Backend
from live4d_ophyd.engine.errors import ScanMismatch
from live4d_ophyd.engine.frame_format import plausible
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.header_scan import disagreement
from live4d_ophyd.engine.pending import End, Pending
from live4d_ophyd.engine.preparation import Preparation
from live4d_ophyd.engine.projection import Projection
from live4d_ophyd.engine.reasons import why_implausible
from live4d_ophyd.engine.recorder import FrameRecorder
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.frames.batch import IMAGE, RECEIVED_NS, FrameBatch
from live4d_ophyd.sources.source import (
    Foreign,
    Frames,
    Item,
    SeriesHeader,
    SeriesKey,
    SeriesSource,
    Started,
    Unreadable,
)

log = logging.getLogger(__name__)

#: a series may be armed anew a few times before it brings frames; a stream of nothing but starts is silent
STARTS_AWAITED = 5
#: this many reasons of bad frames are logged as they come; all are counted
REASONS_LOGGED = 5
#: and this many are told apart
REASONS_KEPT = 20


class Series:
    """The one series that an acquisition takes from ``source``."""

    def __init__(
        self,
        request: AcquisitionRequest,
        tracker: FrameTracker,
        source: SeriesSource,
        preparation: Preparation,
        recorder: FrameRecorder | None = None,
    ) -> None:
        self.request = request
        self.tracker = tracker
        self.source = source
        self.reasons: Counter[str] = Counter()
        #: the series has ended, or the acquisition waits no longer for its end; every frame that came is booked
        self.ended = False
        self._started = 0
        self.projection = Projection(request, tracker, preparation, self._refuse, source, recorder)
        self._lock = threading.Lock()

    @property
    def key(self) -> SeriesKey | None:
        return self.source.key

    @property
    def name(self) -> str:
        return self.source.name

    def accept(self, items: Iterator[Item], backend: Backend) -> list[Pending]:
        """Everything in a batch; runs in the thread that received it, and whose frames ``backend`` decodes.

        The batch must stay as it is until all that is returned is finished, in that order.
        """
        return [step for item in items for step in self._accept(item, backend)]

    def _accept(self, item: Item, backend: Backend) -> Iterator[Pending]:
        if isinstance(item, Frames):
            yield from self._accept_frames(item.batch, item.entries, backend)
        elif isinstance(item, Started):
            self._begin(item.header)
        elif isinstance(item, Unreadable):
            self._refuse(item.reason)
            self.tracker.unreadable()
        elif isinstance(item, Foreign):
            self.tracker.foreign(item.frames)
        else:
            yield from self.projection.finish(backend)
            yield End(self._end)

    def _begin(self, header: SeriesHeader) -> None:
        number, grid = header.key[0], self.request.grid
        against = disagreement(header.note, grid, armed_here=self.request.source.armed_here)
        if against:
            raise ScanMismatch(
                f"series {number}: the microscope scans something else than the grid: {against}",
                remedy="set scan_rows, scan_cols and the like to what is scanned, or pass a scan_generator that takes "
                "it from them",
            )
        if header.frames is not None and header.frames != self.request.series.frames:
            log.warning(
                "series %d announces %d frames, the grid needs %d (%d x %d x %d rasters)",
                number, header.frames, self.request.series.frames, *grid.shape, self.request.rasters,
            )  # fmt: skip
        self._started += 1
        if self._started > STARTS_AWAITED:
            return
        with self.tracker.changed:
            self.tracker.last_activity = time.monotonic()
        self.projection.prepare_early()

    def _end(self) -> None:
        with self.tracker.changed:
            if self.ended:  # a stream of nothing but ends is silent
                return
            self.ended = True
            self.tracker.last_activity = time.monotonic()
            self.tracker.changed.notify_all()

    def _refuse(self, reason: str, frames: int = 1) -> None:
        with self._lock:
            if reason not in self.reasons and len(self.reasons) >= REASONS_KEPT:
                reason = "other reasons"  # hostile messages can differ without end
            new = reason not in self.reasons
            self.reasons[reason] += frames
            if new and len(self.reasons) <= REASONS_LOGGED:
                log.warning("series %s: bad frame: %s", self.name, reason)

    def _accept_frames(self, batch: FrameBatch, entries: np.ndarray, backend: Backend) -> Iterator[Pending]:
        entries = entries[self.tracker.claim(batch.image_id[entries])]
        usable = batch.status[entries] == IMAGE
        self._refuse_frames(batch, entries[~usable])
        entries = entries[usable]
        if self.projection.imaging is None:  # later, all must have the format that the first ones had
            entries = self._believed(batch, entries)
        if len(entries):
            yield from self.projection.accept(batch, entries, backend)

    def _believed(self, batch: FrameBatch, entries: np.ndarray) -> np.ndarray:
        """Those that have the content for the size that they claim."""
        enough = plausible(batch, entries)
        if len(bad := entries[~enough]):
            self._refuse(why_implausible(batch, int(bad[0]), self.source), len(bad))
            self._finish_bad(batch, bad)
        return entries[enough]

    def _refuse_frames(self, batch: FrameBatch, entries: np.ndarray) -> None:
        """Book claimed frames whose data cannot be taken; those of a batch share their reason."""
        if not len(entries):
            return
        self._refuse(self.source.why_unusable(batch, int(entries[0])), len(entries))
        self._finish_bad(batch, entries)

    def _finish_bad(self, batch: FrameBatch, entries: np.ndarray) -> None:
        times = batch.column(RECEIVED_NS)[entries]
        none = np.zeros(len(entries), bool)
        self.tracker.finish(batch.image_id[entries], none, times, none)
