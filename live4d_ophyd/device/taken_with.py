"""TakenWith: the settings that the newest image was taken with, for its Event.

In: the device's settings as of the trigger, and the detector's as it was armed, which are asked for beside the raster
in a thread ``live4d-settings``: what the engine says must be heard meanwhile. Out: readings. While a raster runs, and
as long as the device is staged, nobody else asks the detector.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from live4d_ophyd.device.detector_settings import DetectorSettings

log = logging.getLogger(__name__)


class TakenWith:
    """Of one device.

    ``detector`` is None where nobody can be asked; ``stays_armed``: for many rasters, all with the same settings;
    ``staged`` says whether the device is.
    """

    def __init__(
        self, detector: DetectorSettings | None, *, stays_armed: bool, staged: Callable[[], bool]
    ) -> None:
        self._detector = detector
        self._stays_armed = stays_armed
        self._staged = staged
        self._lock = threading.Lock()
        self._readings: dict[str, Any] = {}
        self._newest: Future | None = None
        self._armed: dict[str, Any] | None = None  #: of the detector, while it stays armed

    def begin(self, readings: dict[str, Any]) -> Future:
        """A raster begins with these readings of the device's settings; the future has the detector's, once armed."""
        detectors: Future = Future()
        with self._lock:
            self._readings, self._newest = readings, detectors
        if self._detector is None:
            detectors.set_result({})
        return detectors

    def armed(self, detectors: Future) -> None:
        """The detector is armed: ask for its settings. ``detectors`` is what `begin` gave for the raster."""
        if self._detector is None:
            return
        self._detector.hold()
        with self._lock:
            armed = self._armed
            if armed is not None and detectors is self._newest:
                self._readings.update(armed)
        if armed is not None:  # it stays armed from the trigger before
            detectors.set_result(armed)
            return
        arguments = (self._detector, detectors)
        threading.Thread(target=self._ask, args=arguments, name="live4d-settings", daemon=True).start()

    def _ask(self, detector: DetectorSettings, detectors: Future) -> None:
        settings: dict[str, Any] = {}
        try:
            settings = detector.as_armed()
        except Exception as error:
            log.error("%s: not in the Event, as they could not be asked for: %s", detector.name, error)
        with self._lock:
            if detectors is self._newest:
                self._readings.update(settings)
                if self._staged():
                    detector.hold()  # the RunEngine reads and describes without a request
                    self._armed = settings if self._stays_armed else None
                else:
                    detector.invalidate()
        detectors.set_result(settings)

    def put_into(self, readings: dict[str, Any]) -> None:
        """Replace those of ``readings`` that are settings."""
        with self._lock:
            readings.update({key: self._readings[key] for key in readings.keys() & self._readings.keys()})

    def series_over(self) -> None:
        """The detector will be armed anew."""
        with self._lock:
            self._armed = None

    def stage_over(self) -> None:
        """What is still asked of the detector is of no use any more, and what is known of it may change."""
        if self._detector is None:
            return
        with self._lock:
            self._newest = self._armed = None
            self._detector.invalidate()
