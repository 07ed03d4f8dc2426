"""ScanStarter: starts the scan generator when the detector is armed, and stops it when nothing is to come of the scan.

Each scan has a thread ``live4d-scan-start``: starting it may take as long as the scan. `stop` may be called from any.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

#: how long a scan waits for the end of the one before, whose probe may still be on its way back, s
PREVIOUS_S = 60.0


class _Scan:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.wanted = True
        self.started = False
        self.over = threading.Event()


class ScanStarter:
    """``scan_start``: a callable, or an ophyd object that is set to 1, or, if it cannot be set, triggered.

    A status that it returns is waited for. It is stopped by its own ``stop()``, if it has one. Raises ValueError for
    anything else.
    """

    def __init__(self, scan_start: Any) -> None:
        if callable(scan_start):
            self._start: Callable[[], Any] = scan_start
        elif hasattr(scan_start, "set"):
            self._start = lambda: scan_start.set(1)
        elif hasattr(scan_start, "trigger"):
            self._start = scan_start.trigger
        else:
            raise ValueError(f"scan_start is {scan_start!r}; it must be a callable or an ophyd object")
        self._stop: Callable[[], Any] | None = getattr(scan_start, "stop", None)
        self._scan: _Scan | None = None

    def start(self, on_failure: Callable[[Exception], None]) -> None:
        """Start a scan; returns at once. What goes wrong is told ``on_failure``, unless the scan was stopped."""
        before, self._scan = self._scan, _Scan()
        arguments = (self._scan, before, on_failure)
        threading.Thread(target=self._run, args=arguments, name="live4d-scan-start", daemon=True).start()

    def _run(self, scan: _Scan, before: _Scan | None, on_failure: Callable[[Exception], None]) -> None:
        try:
            if before is not None and not before.over.wait(PREVIOUS_S):
                raise TimeoutError(f"the scan before has not ended within {PREVIOUS_S:g} s")
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
        """Stop the scan that runs, or keep it from starting."""
        scan = self._scan
        if scan is None:
            return
        with scan.lock:
            scan.wanted = False
            running = scan.started and not scan.over.is_set()
        if running:
            self._stop_now()

    def _stop_now(self) -> None:
        if self._stop is None:
            return
        try:
            self._stop()
        except Exception as error:
            log.error("the scan generator could not be stopped: %s", error)
