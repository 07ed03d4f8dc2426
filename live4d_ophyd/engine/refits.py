"""Refits: what methods fit to the rows so far, while the frames go on.

In: the methods that refit, the raster that runs and how many of its rows are there. Out: the newest fit of each, which
`Imaging` keeps. Thread ``live4d-results``, for as long as a series lasts. The last fit of a raster, over all its rows,
is made by the thread that asks for the result.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from live4d_ophyd.engine.imaging import Imaging
from live4d_ophyd.engine.time_share import Share

log = logging.getLogger(__name__)

#: how often it is looked whether there are rows enough, s
_LOOK_S = 0.05
#: of the time, that fits of a method take at most: frames need the processor
SHARE = 0.5
#: how long a fit may go on that was told to stop, s
_STOP_S = 5.0


class Refits:
    """Of one series. ``rows`` tells how many rows of a raster are there; ``fail`` hears what ends the thread."""

    def __init__(
        self,
        imaging: Imaging,
        raster: int,
        rows: Callable[[int], int],
        fail: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._imaging, self._rows, self._fail = imaging, rows, fail
        self._raster: int | None = raster
        self._over = threading.Event()
        self._idle = threading.Lock()  # held while a fit is made
        self._thread = threading.Thread(target=self._work, name="live4d-results", daemon=True)
        self._thread.start()

    def begin_raster(self, raster: int) -> None:
        """The raster that runs from now on."""
        self._raster = raster

    def end_raster(self) -> None:
        """Make no more fits of the raster; one that is being made is given up, and waited for: for a while."""
        self._raster = None
        if self._idle.acquire(timeout=_STOP_S):
            self._idle.release()

    def end(self) -> None:
        """Let the thread end, and the fit that it makes."""
        self._over.set()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            log.warning(
                "a fit goes on %g s after it was told to stop: its method does not ask stop()", _STOP_S
            )

    def _work(self) -> None:
        try:
            self._refit_on()
        except BaseException as error:  # of the GPU: those of methods are noted
            self._fail(error)

    def _refit_on(self) -> None:
        fitted: dict[str, tuple[int, int]] = {}  # raster and rows of the newest fit, by method
        shares: dict[tuple[int, str], Share] = {}  # by raster and method
        while not self._over.wait(_LOOK_S):
            for method in self._imaging.refitting:
                with self._idle:
                    raster = self._raster
                    if raster is None:
                        break
                    share = shares.setdefault((raster, method.name), Share(SHARE))
                    rows = self._rows(raster)
                    before = fitted.get(method.name, (raster, 0))
                    new = rows - (before[1] if before[0] == raster else 0)
                    if new >= max(1, method.refit_rows) and not share.wait:
                        fitted[method.name] = raster, rows
                        with share.work():
                            self._imaging.refit(method, raster, partial(self._given_up, raster))
            shares = {key: share for key, share in shares.items() if key[0] == self._raster}

    def _given_up(self, raster: int) -> bool:
        return self._raster != raster or self._over.is_set()
