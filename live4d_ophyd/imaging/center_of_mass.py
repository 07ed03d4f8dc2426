"""CenterOfMass: where the intensity of each pattern lies, from exact integer projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.method import SCAN, Output, Sums, checked_name
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk, outputs_in_px, results_in_px
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo


@dataclass(frozen=True)
class CenterOfMass:
    """Centre of mass of the counts inside a virtual detector, relative to its centre, for every scan position.

    With weights w of the detector and pixels (r, c): ``<name>_sum`` is M = sum w I in counts; ``<name>_y`` and
    ``<name>_x`` are sum w I r / M - r0 and sum w I c / M - c0 in px, with (r0, c0) the centre of ``within``. They are
    NaN where there are no counts. y is the detector's row, x its column: nothing is rotated into the scan. With a hard
    edge and no gain the three sums are exact integers as long as int64 holds them. (Waddell and Chapman, Optik 54, 83
    (1979); Mueller et al., Nat. Commun. 5, 5653 (2014).)
    """

    name: str
    #: the pixels that count; its own name is not used, nor whether it is enabled
    within: Disk | Annulus
    #: False: nothing is made
    enabled: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        checked_name(self.name)
        if not isinstance(self.within, Disk | Annulus):
            raise ValueError(f"within of {self.name} is {self.within!r}; expected a Disk or an Annulus")
        # One name for all that mean the same: what is asked for compares equal.
        object.__setattr__(self, "within", replace(self.within, name=self.name, enabled=True))
        object.__setattr__(self, "enabled", checks.switch(f"{self.name}.enabled", self.enabled))

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums:
        shape = series.format.shape
        first, weights = self.within.band(shape, series.calibration)
        weights = weights.astype(np.int64 if weights.dtype == bool else np.float64)
        row, col = _origin(first, weights)
        rows, cols = np.arange(first, first + len(weights))[:, np.newaxis] - row, np.arange(shape[1]) - col
        maps = [weights, weights * rows, weights * cols]
        if weights.dtype == np.int64 and series.format.dtype.kind in "iu":
            largest = max(int(np.abs(one).sum()) for one in maps) * int(np.iinfo(series.format.dtype).max)
            if largest >= 2**63:  # sums might not fit int64
                maps = [one.astype(np.float64) for one in maps]
        names = (f"{self.name}_sum", f"{self.name}_y", f"{self.name}_x")
        return Sums(names, tuple((first, one) for one in maps))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        units = {"sum": "counts", "y": "px", "x": "px"}
        images = {f"{self.name}_{what}": Output(SCAN, scan.shape, unit) for what, unit in units.items()}
        return {**images, **outputs_in_px(self.within, self.name)}

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Scatter:
        return Scatter(scan, 3, device)

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        total, rows, cols = Scatter.merged(parts, scan, 3)
        shape, calibration = series.format.shape, series.calibration
        origin = _origin(*self.within.band(shape, calibration))
        center = self.within.center_on(shape, calibration)
        row, col = center[0] - origin[0], center[1] - origin[1]
        counts = np.where(total == 0, np.nan, total)
        return {
            f"{self.name}_sum": total,
            f"{self.name}_y": rows / counts - row,
            f"{self.name}_x": cols / counts - col,
            **results_in_px(self.within, self.name, series),
        }


def _origin(first: int, weights: np.ndarray) -> tuple[int, int]:
    """Where the maps count rows and columns from: near the centre, so that sums stay small.

    A detector of a single row or column gets an origin one pixel away from it: with its own, all its weights were 0.
    """
    rows, cols = first + np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    row, col = (round(float(there.mean())) - (len(there) == 1) for there in (rows, cols))
    return row, col
