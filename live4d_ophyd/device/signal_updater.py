"""SignalUpdater: what an exposure brings, into the signals of its device and its status. See `exposure.Observer`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from live4d_ophyd.device.flight import Flight
from live4d_ophyd.device.raw_frames import EventFile
from live4d_ophyd.device.statuses import RasterStatus
from live4d_ophyd.engine import RasterResult
from live4d_ophyd.engine.process.client import EngineLost
from live4d_ophyd.engine.results import Progress


class Publishes(Protocol):
    """A device, as far as it is told what an exposure brings."""

    taken_with: Any
    preview: Any

    def publish(self, raster: RasterResult) -> EventFile | None: ...

    def read(self) -> Any: ...

    def without_unknown(self, readings: Any) -> Any: ...

    def disarm_for_lost_engine(self) -> None: ...


class SignalUpdater:
    """Of a trigger, or of a movie if there is a ``flight``; ``detectors`` will have the detector's settings."""

    def __init__(
        self, device: Publishes, status: RasterStatus, detectors: Future, flight: Flight | None = None
    ) -> None:
        self.flight = flight
        self._device = device
        self._status = status
        self._detectors = detectors

    def armed(self) -> None:
        self._device.taken_with.armed(self._detectors)

    def progressed(self, progress: Progress, arrays: Mapping[str, np.ndarray] | None) -> None:
        if arrays is not None:
            fraction = progress.frames_received / progress.frames_expected
            self._device.preview.update(arrays, fraction, progress.saturated)
        self._status.report(progress)

    def raster_done(self, raster: RasterResult) -> None:
        file = self._device.publish(raster)
        if self.flight is not None:
            readings = self._device.without_unknown(self._device.read())
            self.flight.add(readings, self._detectors, file)

    def ended(self) -> None:
        # An Event has the detector's settings, too.
        self._detectors.add_done_callback(lambda _: self._status.set_finished())

    def failed(self, error: Exception) -> None:
        if isinstance(error, EngineLost):
            self._device.disarm_for_lost_engine()
        self._status.set_exception(error)

    def cancelled(self) -> None:
        if not self._status.done:
            # Not an exception: RunEngine.resume() would raise it although the raster is taken again.
            self._status.set_finished()
