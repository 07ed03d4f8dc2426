"""Flight: a movie of rasters back to back in one series, one Event each, from kickoff to the last collect.

In: readings of the device after each raster, from the engine client's thread. Out: Events, in the RunEngine's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from live4d_ophyd.device.statuses import RasterStatus


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
