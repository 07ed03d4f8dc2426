"""ScanStarter: makes the scan generator ready, starts it when the detector is armed, stops it when the scan fails.

Each scan has a thread ``live4d-scan-prepare``, one ``live4d-scan-start`` and, if it is stopped, ``live4d-scan-stop``:
all may last, and neither the RunEngine's loop nor the engine's events must wait for them. `stop` may be called from
any.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from live4d_ophyd.scan import ScanGrid

log = logging.getLogger(__name__)

#: how long a scan waits for the end of the one before, whose probe may still be on its way back, s
PREVIOUS_S = 60.0


@runtime_checkable
class ScanGenerator(Protocol):
    """What a `Live4D` asks of a scan generator. Each may return an ophyd status, which is waited for, or take its time.

    An exception, or a status that fails, fails the trigger, and the detector is left idle.
    """

    def prepare(self, grid: ScanGrid) -> Any:
        """Take the geometry of the scan that comes, before the detector is armed. Refuse what cannot be scanned.

        No pulse may reach the detector before `start`. For movies it is ``prepare(grid, rasters)``: so many rasters
        follow each other after one `start`, without a pause.
        """
        ...

    def start(self) -> Any:
        """Start the scan that was prepared; the detector is armed. Returns when it runs, or a status of its end."""
        ...

    def stop(self) -> Any:
        """End the scan now, or do not begin it. Called when it fails or is cancelled, from any thread.

        That may be while the other two run, when the scan is over, or twice.
        """
        ...


class _Scan:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = True
        self.prepared = False  #: `prepare` was called,
        self.ready = False  #: and has returned
        self.started = False
        self.over = threading.Event()
        self.stopping: threading.Thread | None = None


class ScanStarter:
    """``scan_generator``: see `ScanGenerator`. ``scan_start`` is one without `prepare`: what starts the scan.

    That is a callable, or an ophyd object that is set to 1, or, if it cannot be set, triggered; it is stopped by its
    own ``stop()``, if it has one, as long as the status that it returned is not done. Raises ValueError for anything
    else, and for both.
    """

    def __init__(self, scan_start: Any = None, scan_generator: Any = None) -> None:
        self._prepare: Callable[..., Any] | None = None
        self.name = "scan_start" if scan_generator is None else "scan_generator"
        if scan_generator is not None:
            if scan_start is not None:
                raise ValueError("scan_start and scan_generator both start the scan: pass one of them")
            if not isinstance(scan_generator, ScanGenerator):
                raise ValueError(
                    f"scan_generator is {scan_generator!r}; it must have prepare(grid), start() and stop()"
                )
            self._prepare, self._start = scan_generator.prepare, scan_generator.start
        elif callable(scan_start):
            self._start = scan_start
        elif hasattr(scan_start, "set"):
            self._start = lambda: scan_start.set(1)
        elif hasattr(scan_start, "trigger"):
            self._start = scan_start.trigger
        else:
            raise ValueError(f"scan_start is {scan_start!r}; it must be a callable or an ophyd object")
        stops = scan_start if scan_generator is None else scan_generator
        self._stop: Callable[[], Any] | None = getattr(stops, "stop", None)
        self._scan: _Scan | None = None

    @property
    def prepares(self) -> bool:
        """Whether a scan has to be prepared before the detector is armed."""
        return self._prepare is not None

    def prepare(
        self, grid: ScanGrid, rasters: int, then: Callable[[], None], on_failure: Callable[[Exception], None]
    ) -> None:
        """Prepare ``rasters`` scans of ``grid``, then call ``then``; returns at once.

        Only where it `prepares`. What goes wrong is told ``on_failure``; if the scan is stopped meanwhile, neither is
        called.
        """
        before, self._scan = self._scan, _Scan()
        arguments = (self._scan, before, (grid,) if rasters == 1 else (grid, rasters), then, on_failure)
        threading.Thread(
            target=self._run_prepare, args=arguments, name="live4d-scan-prepare", daemon=True
        ).start()

    def _run_prepare(
        self,
        scan: _Scan,
        before: _Scan | None,
        arguments: tuple[Any, ...],
        then: Callable[[], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        assert self._prepare is not None
        try:
            _await_end(before)
            with scan.lock:
                if not scan.wanted:
                    scan.over.set()
                    return
                scan.prepared = True
            status = self._prepare(*arguments)
            if hasattr(status, "wait"):
                status.wait()
        except Exception as error:
            scan.over.set()
            if scan.wanted:
                on_failure(error)
            return
        with scan.lock:
            scan.ready = wanted = scan.wanted
        if wanted:
            then()
        else:
            self._stop_now()  # stopped while it was being prepared
            scan.over.set()

    def start(self, on_failure: Callable[[Exception], None]) -> None:
        """Start a scan, the one prepared if there is `prepare`; returns at once.

        What goes wrong is told ``on_failure``, unless the scan was stopped.
        """
        before, scan = None, self._scan
        if self._prepare is None or scan is None:
            before, scan = scan, _Scan()
            self._scan = scan
        arguments = (scan, before, on_failure)
        threading.Thread(target=self._run, args=arguments, name="live4d-scan-start", daemon=True).start()

    def _run(self, scan: _Scan, before: _Scan | None, on_failure: Callable[[Exception], None]) -> None:
        try:
            _await_end(before)
            with scan.lock:
                if not scan.wanted:
                    return
                scan.started = True
            status = self._start()
            if not scan.wanted:
                self._stop_now()  # stopped while it was being started
            if hasattr(status, "wait"):
                status.wait()
        except Exception as error:
            if scan.wanted:
                on_failure(error)
        finally:
            scan.over.set()

    def stop(self) -> None:
        """Stop the scan that runs or is prepared, or keep it from starting; returns at once.

        The next scan waits until the generator has.
        """
        scan = self._scan
        if scan is None:
            return
        with scan.lock:
            scan.wanted = False
            # A generator's start may return when the scan has begun: only the generator knows whether it is over.
            running = scan.prepared or (scan.started and not scan.over.is_set())
            if scan.ready and not scan.started:
                scan.over.set()
        if running:
            scan.stopping = threading.Thread(target=self._stop_now, name="live4d-scan-stop", daemon=True)
            scan.stopping.start()

    def wait(self, timeout: float) -> None:
        """Wait until the generator has stopped, if it was told to."""
        if self._scan is not None and self._scan.stopping is not None:
            self._scan.stopping.join(timeout)

    def _stop_now(self) -> None:
        if self._stop is None:
            return
        try:
            self._stop()
        except Exception as error:
            log.error("the scan generator could not be stopped: %s", error)


def _await_end(before: _Scan | None) -> None:
    if before is None:
        return
    if before.stopping is not None:
        before.stopping.join(PREVIOUS_S)
    if not before.over.wait(PREVIOUS_S) or (before.stopping is not None and before.stopping.is_alive()):
        raise TimeoutError(f"the scan before has not ended within {PREVIOUS_S:g} s")
