"""Exposures: the acquisitions of one device, one at a time, each from its start to its end.

In: what the engine says of the one that runs. Out: calls of its `Observer`, and of the scan generator. An acquisition
that is cancelled or has failed passes nothing on, whatever the engine still sends. This module knows no ophyd.
Threads: `start` and `cancel` come from any; what the engine says comes in the engine client's, what the scan generator
says in its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from live4d_ophyd.device.scan_start import ScanStarter
from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest, RasterResult
from live4d_ophyd.engine.process.protocol import Armed, Done, Event, Failed, Lost, ProgressMade, RasterDone
from live4d_ophyd.engine.results import Progress


class Engine(Protocol):
    """What an exposure asks of the engine's client."""

    @property
    def alive(self) -> bool: ...
    def acquire(
        self, generation: int, request: AcquisitionRequest, on_event: Callable[[Any], None]
    ) -> None: ...
    def cancel(self, generation: int) -> None: ...


class Observer(Protocol):
    """What is told of an exposure.

    `armed`, `progressed` and `raster_done` come from within the fence: no cancel intervenes. Its last call is
    `ended`, `failed` or `cancelled`, one of them, once.
    """

    def armed(self) -> None:
        """The detector is armed; the scan starts when this returns."""

    def progressed(self, progress: Progress, arrays: Mapping[str, np.ndarray] | None) -> None:
        """So far; with arrays by output where a preview was asked for."""

    def raster_done(self, raster: RasterResult) -> None:
        """A raster is over. What this raises fails the exposure."""

    def ended(self) -> None:
        """All that was asked for has come."""

    def failed(self, error: Exception) -> None: ...
    def cancelled(self) -> None: ...


@dataclass(frozen=True, eq=False)
class _Exposure:
    generation: int
    engine: Engine
    request: AcquisitionRequest
    observer: Observer


class Exposures:
    """Starts, fences and ends the exposures of a device; ``scan`` prepares, starts and stops the scan of each."""

    def __init__(self, scan: ScanStarter | None = None) -> None:
        self._scan = scan
        self._fence = threading.RLock()
        self._generation = 0
        self._running: _Exposure | None = None

    @property
    def running(self) -> Observer | None:
        """The observer of the exposure that runs."""
        running = self._running
        return None if running is None else running.observer

    def start(self, engine: Engine, request: AcquisitionRequest, observer: Observer) -> None:
        """Cancel what runs and begin with ``request``, when the scan is prepared; returns at once."""
        with self._fence:
            before, self._running = self._running, None
            self._generation += 1
            exposure = _Exposure(self._generation, engine, request, observer)
        self._cancelled(before)
        with self._fence:
            overtaken, self._running = self._running, exposure
        self._cancelled(overtaken)  # of a start in another thread meanwhile
        begin = partial(self._acquire, exposure)
        if self._scan is not None and self._scan.prepares:
            failed = partial(self._scan_failed, exposure, "prepare")
            self._scan.prepare(request.grid, request.series.rasters_per_trigger, begin, failed)
        else:
            begin()

    def cancel(self) -> None:
        """Fence off what runs, and end it in the engine and at the scan generator. Nothing to do where nothing runs."""
        self._cancelled(self._end(self._running))

    def _cancelled(self, exposure: _Exposure | None) -> None:
        if exposure is not None:
            self._cancel_engine_and_scan(exposure)
            exposure.observer.cancelled()

    def _acquire(self, exposure: _Exposure) -> None:
        try:
            with self._fence:  # a cancel comes before it, or behind it
                if exposure is not self._running:
                    return
                exposure.engine.acquire(exposure.generation, exposure.request, partial(self._hear, exposure))
        except Exception as error:
            self._fail(exposure, error)

    def _hear(self, exposure: _Exposure, event: Event) -> None:
        """What the engine says; runs in the engine client's thread."""
        end: Callable[[], None] = _go_on  # outside of the fence: who waits for the end may do anything
        with self._fence:
            if exposure is not self._running:
                return
            match event:
                case Armed():
                    exposure.observer.armed()
                    if self._scan is not None:
                        self._scan.start(partial(self._scan_failed, exposure, "start"))
                case ProgressMade(progress=progress, outputs=outputs):
                    exposure.observer.progressed(progress, outputs)
                case RasterDone(raster=raster):
                    try:
                        exposure.observer.raster_done(raster)
                    except Exception as error:
                        end = partial(self._fail, exposure, error)
                case Done():
                    self._end(exposure)
                    end = exposure.observer.ended
                case Failed(error=error) | Lost(error=error):
                    end = partial(self._fail, exposure, error)
        end()

    def _scan_failed(self, exposure: _Exposure, step: str, error: Exception) -> None:
        assert self._scan is not None
        what = "scan_start" if self._scan.name == "scan_start" else f"{self._scan.name}.{step}"
        armed = "; the detector was disarmed" if step == "start" else "; nothing was armed"
        failure = AcquisitionError(f"{what} failed ({type(error).__name__}: {error}){armed}")
        failure.__cause__ = error
        self._fail(exposure, failure)

    def _fail(self, exposure: _Exposure, error: Exception) -> None:
        """End ``exposure`` if it still runs, here, in the engine and at the scan generator."""
        if self._end(exposure) is not None:
            self._cancel_engine_and_scan(exposure)
            exposure.observer.failed(error)

    def _end(self, exposure: _Exposure | None) -> _Exposure | None:
        """Put ``exposure`` behind the fence; None if it is there already."""
        with self._fence:
            if exposure is not self._running:
                return None
            self._running = None
            return exposure

    def _cancel_engine_and_scan(self, exposure: _Exposure) -> None:
        if exposure.engine.alive:
            exposure.engine.cancel(exposure.generation)
        if self._scan is not None:
            self._scan.stop()


def _go_on() -> None:
    """Not the end."""
