"""What of a batch is still to be done when it has been sorted: images under way in the decoder, the end behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, device

from live4d_ophyd.decode import Decoder, Sums
from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.frames.batch import RECEIVED_NS, FrameBatch
from live4d_ophyd.imaging.methods import Method
from live4d_ophyd.scan import ScanGrid


class Pending(Protocol):
    """One step; those of a receive thread are finished in order."""

    @property
    def ready(self) -> bool:
        """Whether `finish` need not wait."""

    def finish(self) -> None: ...


class Images:
    """Claimed images of one batch. Their sums are under way from the start; pixels are decoded when finishing."""

    def __init__(
        self,
        grid: ScanGrid,
        tracker: FrameTracker,
        refuse: Callable[[int, FrameBatch, int], None],
        decoder: Decoder,
        methods: list[Method],
        batch: FrameBatch,
        rows: np.ndarray,
        saturated_is_nan: bool = False,
    ) -> None:
        self._saturated_is_nan = saturated_is_nan
        self._tracker, self._refuse = tracker, refuse
        self._decoder, self._methods = decoder, methods
        self._batch, self._rows = batch, rows
        positions = grid.positions(batch.image_id[rows])
        self._imaged = positions >= 0  # the others are flyback and lead-in
        self._positions = positions[self._imaged]
        self._sums: list[Sums | None] = [
            None if method.weights is None else decoder.submit_sums(batch, method.weights, rows[self._imaged])
            for method in methods
        ]

    @property
    def ready(self) -> bool:
        return all(sums is None or sums.ready for sums in self._sums)

    def finish(self) -> None:
        """Feed the methods, then book the images."""
        statuses = np.zeros(len(self._positions), np.int64)
        saturated = np.zeros(len(self._rows), bool)
        for method, sums in zip(self._methods, self._sums):
            if sums is None:
                status = self._feed_pixels(method)
            else:
                values, status, found = sums.result()
                good = status == 0
                saturated[self._imaged] |= found.any(axis=1)
                if self._saturated_is_nan and found.any():
                    values = np.where(found, np.nan, values)
                method.add(self._positions[good], values[good])
            statuses = np.minimum(statuses, status)
        good = np.ones(len(self._rows), bool)
        good[self._imaged] = statuses == 0
        batch, rows = self._batch, self._rows
        for row, status in zip(rows[~good], statuses[statuses != 0]):
            self._refuse(int(status), batch, int(row))
        self._tracker.settle(batch.image_id[rows], good, batch.column(RECEIVED_NS)[rows], saturated)

    def _feed_pixels(self, method: Method) -> np.ndarray:
        """Give a method the pixels; returns the frames' statuses, (n,) int64."""
        rows = self._rows[self._imaged]
        statuses = np.zeros(len(rows), np.int64)
        with self._decoder.errors():
            for part, pixels, status in self._decoder.frames_in_parts(self._batch, rows):
                good = np.flatnonzero(status == 0)
                if len(good) < len(status):
                    xp = array_namespace(pixels)  # torch has no indexing of unsigned integers on a GPU
                    pixels = xp.take(pixels, xp.asarray(good, device=device(pixels)), axis=0)
                method.add(self._positions[part][good], pixels)
                statuses[part] = status
        return statuses


class End:
    """The end of the series, behind the images that came before it."""

    ready = True

    def __init__(self, finish: Callable[[], None]) -> None:
        self.finish = finish
