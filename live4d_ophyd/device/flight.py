"""Flying: a movie of rasters back to back in one series, one Event each, from kickoff to the last collect.

In: readings of the device after each raster, from the engine client's thread. Out: Events, in the RunEngine's. A movie
is described before its first raster: outputs whose size only the detector knows are not in it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from live4d_ophyd.device.raw_frames import EventFile
from live4d_ophyd.device.requesting import Requesting
from live4d_ophyd.device.statuses import RasterStatus
from live4d_ophyd.engine import AcquisitionRequest


@dataclass(frozen=True, eq=False)
class _Raster:
    """One that is over: when, what was read, the detector's settings to come, and the file of its frames."""

    time: float
    readings: dict[str, Any]
    detectors: Future
    file: EventFile | None


class Flight:
    """One movie; ``status`` is done when it is."""

    def __init__(self, status: RasterStatus) -> None:
        self.status = status
        self._rasters: deque[_Raster] = deque()
        self._taken: deque[_Raster] | None = None  # the next Events, if that is settled

    @property
    def collected(self) -> bool:
        """Whether it is over, and all of its Events were asked for."""
        return self.status.done and not self._rasters and not self._taken

    def add(self, readings: dict[str, Any], detectors: Future, file: EventFile | None = None) -> None:
        """A raster is over; ``detectors`` will have readings of the detector's settings."""
        self._rasters.append(_Raster(time.time(), readings, detectors, file))

    def take(self) -> list[EventFile]:
        """Settle which rasters the next `events` are of, those that ended by now; the files of those new to them."""
        new = []
        # A flight may have been ended while the detector was asked for its settings: its rasters stay.
        while self._rasters and (self._rasters[0].detectors.done() or self.status.done):
            new.append(self._rasters.popleft())
        self._taken = deque([*(self._taken or ()), *new])
        return [raster.file for raster in new if raster.file is not None]

    def events(self) -> Iterator[dict[str, Any]]:
        """Events of the rasters that ended since the last call, or until `take`."""
        if self._taken is None:
            self.take()
        taken, self._taken = self._taken, None
        while taken:
            raster = taken.popleft()
            readings, detectors = raster.readings, raster.detectors
            armed = detectors.result() if detectors.done() else {}
            readings |= {key: entry for key, entry in armed.items() if key in readings}
            yield {
                "time": raster.time,
                "data": {key: entry["value"] for key, entry in readings.items()},
                "timestamps": {key: entry["timestamp"] for key, entry in readings.items()},
            }


class Flying(Requesting):
    """A device that takes movies, as Bluesky's ``Flyable``."""

    _flight: Flight | None = None
    _kicked_off = False  #: whether there is a movie that nobody has asked the keys of
    _with_frames = False  #: whether the stream of movies has recorded frames

    def start(
        self, request: AcquisitionRequest, status: RasterStatus, flight: Flight | None = None
    ) -> RasterStatus:
        """Begin with ``request``; what comes ends ``status``, and rasters are added to ``flight``."""
        raise NotImplementedError

    def describe_readings(self) -> dict[str, Any]:
        """The data keys of `read`."""
        raise NotImplementedError

    def describe_frames(self) -> dict[str, Any]:
        """The data key of recorded frames, if there will be some and their size is known."""
        raise NotImplementedError

    def kickoff(self) -> RasterStatus:
        """Start a movie of ``movie_rasters`` rasters in one series; returns at once. Movies have no patterns."""
        request = self.movie_request(self.movie_rasters.get())
        self._flight, self._kicked_off = Flight(RasterStatus(self)), True
        self.start(request, self._flight.status, self._flight)
        started = RasterStatus(self)
        started.set_finished()
        return started

    def complete(self) -> RasterStatus:
        """Status of the movie."""
        return self._newest_flight().status

    def describe_collect(self) -> dict[str, Any]:
        """The data keys of a movie.

        Before the kickoff they are those of a stream that is declared, recorded frames among them:
        ``bps.declare_stream(live4d, name="live4d_movie", collect=True)``, as `plans.movie` does it. Otherwise Bluesky
        asks when it collects, wants the name of the stream, and refuses documents of frames.
        """
        keys = self.without_unknown(self.describe_readings())
        frames = {} if self._kicked_off else self.describe_frames()
        self._with_frames = bool(frames)
        if not self._kicked_off:
            return keys | frames
        self._kicked_off = False
        return {f"{self.name}_movie": keys}

    def collect(self) -> Iterator[dict[str, Any]]:
        """Events of the rasters that ended since the last call."""
        flight = self._newest_flight()
        yield from flight.events()
        if flight.collected:
            self._kicked_off = False

    def _newest_flight(self) -> Flight:
        if self._flight is None:
            raise RuntimeError(f"{self.name} has no movie: kick it off first")
        return self._flight
