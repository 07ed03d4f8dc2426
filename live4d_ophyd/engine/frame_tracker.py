"""FrameTracker: which frames of a series came, and what became of each.

Every frame id is claimed once, by the receive thread that brings it, and finished once, as received or bad.
All methods may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from live4d_ophyd.engine import book_kernels
from live4d_ophyd.engine.results import Losses, Progress
from live4d_ophyd.scan import ScanGrid


class FrameTracker:
    """Book of the frames of ``rasters`` scans of ``grid``; ``channels``: imaged besides the source's."""

    def __init__(self, grid: ScanGrid, rasters: int, channels: Sequence[str] = ()) -> None:
        self.grid = grid
        self.rasters = rasters
        self.changed = threading.Condition()
        self._claimed = np.zeros(rasters * grid.frames, bool)
        self._received = np.zeros(rasters, np.int64)
        self._bad = np.zeros(rasters, np.int64)
        self._saturated = np.zeros(rasters, np.int64)
        #: frames received and saturated by raster, of further channels
        self._further = {
            name: (np.zeros(rasters, np.int64), np.zeros(rasters, np.int64)) for name in channels
        }
        #: where the frames of the raster that was closed last are, of further channels
        self.further_losses: dict[str, Losses] = {}
        self._first = np.full(rasters, np.nan)
        self._last = np.full(rasters, np.nan)
        self._over = 0  # rasters below this one are over: what comes late is not taken in any more
        self._newest = 0
        self._highest = -1  # of the frame ids that came
        self._unreadable = 0
        self._foreign = 0
        self._duplicates = 0
        self._beyond = 0
        self._working = 0  # threads that do something with what came
        self.last_activity = time.monotonic()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Time spent in here is not the stream's silence."""
        with self.changed:
            self._working += 1
        try:
            yield
        finally:
            with self.changed:
                self._working -= 1
                self.last_activity = time.monotonic()

    @property
    def silence(self) -> float:
        """How long the stream has brought nothing, s."""
        return 0.0 if self._working else time.monotonic() - self.last_activity

    def claim(self, image_ids: np.ndarray) -> np.ndarray:
        """Which of these frames are new, (n,) bool. Duplicates, late ones and ids beyond the grid are not."""
        new = np.empty(len(image_ids), bool)
        image_ids = np.ascontiguousarray(image_ids, np.int64)
        with self.changed:
            beyond, highest = book_kernels.claim(image_ids, self._claimed, self._over * self.grid.frames, new)
            self._beyond += beyond
            self._duplicates += len(image_ids) - beyond - int(np.count_nonzero(new))
            if highest >= 0:
                self._highest = max(self._highest, highest)
                # What does not move the series on must not keep the wait for it alive.
                self.last_activity = time.monotonic()
        return new

    def finish(
        self, image_ids: np.ndarray, good: np.ndarray, received_ns: np.ndarray, saturated: np.ndarray,
        further: Mapping[str, tuple[np.ndarray, np.ndarray]] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Book claimed frames as received where ``good``, else as bad; times in ns of time.monotonic.

        ``further``: what is good, and saturated, of the same frames in other channels.
        """
        if not len(image_ids):
            return
        image_ids = np.ascontiguousarray(image_ids, np.int64)
        received_ns = np.ascontiguousarray(received_ns, np.int64)
        with self.changed:
            first, last = book_kernels.book(
                image_ids, self.grid.frames, good, received_ns, saturated,
                self._received, self._bad, self._saturated, self._first, self._last,
            )  # fmt: skip
            if first < 0:
                raise IndexError(f"frames of raster {last} of {self.rasters} were never claimed")
            for channel, (good_there, saturated_there) in further.items():
                rasters = image_ids // self.grid.frames - first
                for count, booked in zip(self._further[channel], (good_there, good_there & saturated_there)):
                    new = np.bincount(rasters[booked])
                    count[first : first + len(new)] += new
            self._newest = max(self._newest, last)
            self.last_activity = time.monotonic()
            # Only what ends a raster wakes the waiting thread: on two cores every wake-up is a frame less.
            if any(self.complete(raster) for raster in range(first, last + 1)):
                self.changed.notify_all()

    def foreign(self, count: int) -> None:
        """Book frames of other series."""
        with self.changed:
            self._foreign += count

    def unreadable(self) -> None:
        """Book a message that was no readable frame: bad, but no one knows which."""
        with self.changed:
            self._unreadable += 1

    @property
    def finished(self) -> int:
        """Frames received or bad so far."""
        return int(self._received.sum() + self._bad.sum())

    @property
    def received(self) -> int:
        return int(self._received.sum())

    @property
    def begun(self) -> bool:
        """Whether any frame came, finished or still being decoded."""
        return bool(self._claimed.any())

    @property
    def all_claimed(self) -> bool:
        """Whether every frame came, finished or still being decoded."""
        return bool(self._claimed.all())

    @property
    def came(self) -> np.ndarray:
        """Whether each frame came, finished or still being decoded: (frames of the series,) bool, a copy."""
        return self._claimed.copy()

    @property
    def last_missing(self) -> int:
        """The highest id that has not come; -1: all have."""
        return int(np.max(np.flatnonzero(~self._claimed), initial=-1))

    @property
    def strangers(self) -> int:
        """Frames of other series so far."""
        return self._foreign

    @property
    def beyond(self) -> int:
        """Frames so far whose ids the grid does not have."""
        return self._beyond

    def complete(self, raster: int) -> bool:
        """Every frame of the raster is finished."""
        return bool(self._received[raster] + self._bad[raster] == self.grid.frames)

    def overtaken(self, raster: int) -> bool:
        """The raster after the next one has begun: what is missing by now does not come any more."""
        return self._newest >= raster + 2

    def received_of(self, raster: int) -> int:
        """Frames of one raster received so far."""
        return int(self._received[raster])

    def arrived(self, raster: int) -> int:
        """Frames of one raster that came so far, whether finished or still being decoded."""
        frames = self.grid.frames
        return int(np.count_nonzero(self._claimed[raster * frames : (raster + 1) * frames]))

    def finished_of(self, raster: int) -> int:
        """Frames of one raster that are received or bad so far."""
        return int(self._received[raster] + self._bad[raster])

    def reached_end(self, raster: int) -> bool:
        """The raster's last frame came."""
        return bool(self._claimed[(raster + 1) * self.grid.frames - 1])

    def went_beyond(self, raster: int) -> bool:
        """Frames came that are behind the raster."""
        return self._highest >= (raster + 1) * self.grid.frames or self._beyond > 0

    def close(self, raster: int) -> tuple[Losses, float | None]:
        """End a raster; returns where its frames are and the rate from its first to its last, Hz."""
        with self.changed:
            self._over = raster + 1
            received, bad = int(self._received[raster]), int(self._bad[raster])
            unreadable = min(self._unreadable, self.grid.frames - received - bad)
            self._unreadable -= unreadable
            losses = Losses(
                expected=self.grid.frames,
                received=received,
                lost=self.grid.frames - received - bad - unreadable,
                bad=bad + unreadable,
                foreign=self._foreign,
                duplicates=self._duplicates,
                beyond=self._beyond,
                saturated=int(self._saturated[raster]),
            )
            self.further_losses = {
                channel: replace(
                    losses,
                    received=int(there[raster]),
                    bad=losses.expected - losses.lost - int(there[raster]),
                    saturated=int(saturated_there[raster]),
                )
                for channel, (there, saturated_there) in self._further.items()
            }
            return losses, self._rate(raster)

    def _rate(self, raster: int) -> float | None:
        frames = int(self._received[raster] + self._bad[raster])
        span = self._last[raster] - self._first[raster]
        return float((frames - 1) / span) if frames > 1 and span > 0 else None

    def progress_of(self, raster: int) -> Progress:
        """As of an acquisition of this raster alone."""
        with self.changed:
            rate, saturated = self._rate(raster), int(self._saturated[raster])
            return Progress(self.finished_of(raster), self.grid.frames, rate, 0, saturated)

    def progress(self) -> Progress:
        with self.changed:
            raster = min(self._over, self.rasters - 1)
            return Progress(
                self.finished, len(self._claimed), self._rate(raster), raster, int(self._saturated[raster])
            )

    @property
    def saturated(self) -> int:
        """Frames so far with a pixel under a virtual detector that holds no count."""
        return int(self._saturated.sum())
