"""Flying: a movie of rasters back to back in one series, one Event each, from kickoff to the last collect.

In: readings of the device after each raster, from the engine client's thread. Out: Events, in the RunEngine's. A movie
is described before its first raster: outputs whose size only the detector knows are not in it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from live4d_ophyd.device.requesting import Requesting
from live4d_ophyd.device.statuses import RasterStatus
from live4d_ophyd.engine import AcquisitionRequest


class Flight:
    """One movie; ``status`` is done when it is."""

    def __init__(self, status: RasterStatus) -> None:
        self.status = status
        self._rasters: deque[tuple[float, dict[str, Any], Future]] = deque()

    def add(self, readings: dict[str, Any], detectors: Future) -> None:
        """A raster is over; ``detectors`` will have readings of the detector's settings."""
        self._rasters.append((time.time(), readings, detectors))

    def events(self) -> Iterator[dict[str, Any]]:
        """Events of the rasters that ended since the last call."""
        # A flight may have been ended while the detector was asked for its settings: its rasters stay.
        while self._rasters and (self._rasters[0][2].done() or self.status.done):
            when, readings, detectors = self._rasters.popleft()
            armed = detectors.result() if detectors.done() else {}
            readings |= {key: entry for key, entry in armed.items() if key in readings}
            yield {
                "time": when,
                "data": {key: entry["value"] for key, entry in readings.items()},
                "timestamps": {key: entry["timestamp"] for key, entry in readings.items()},
            }


class Flying(Requesting):
    """A device that takes movies, as Bluesky's ``Flyable``."""

    _flight: Flight | None = None

    def start(
        self, request: AcquisitionRequest, status: RasterStatus, flight: Flight | None = None
    ) -> RasterStatus:
        """Begin with ``request``; what comes ends ``status``, and rasters are added to ``flight``."""
        raise NotImplementedError

    def describe_readings(self) -> dict[str, Any]:
        """The data keys of `read`."""
        raise NotImplementedError

    def kickoff(self) -> RasterStatus:
        """Start a movie of ``movie_rasters`` rasters in one series; returns at once. Movies have no patterns."""
        request = self.movie_request(self.movie_rasters.get())
        self._flight = Flight(RasterStatus(self))
        self.start(request, self._flight.status, self._flight)
        started = RasterStatus(self)
        started.set_finished()
        return started

    def complete(self) -> RasterStatus:
        """Status of the movie."""
        return self._kicked_off().status

    def describe_collect(self) -> dict[str, Any]:
        return {f"{self.name}_movie": self.without_unknown(self.describe_readings())}

    def collect(self) -> Iterator[dict[str, Any]]:
        """Events of the rasters that ended since the last call."""
        return self._kicked_off().events()

    def _kicked_off(self) -> Flight:
        if self._flight is None:
            raise RuntimeError(f"{self.name} has no movie: kick it off first")
        return self._flight
