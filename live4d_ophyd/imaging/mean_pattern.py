"""MeanPattern: the mean diffraction pattern of each raster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.imaging.accumulators import PatternSums
from live4d_ophyd.imaging.method import PATTERN, Output, Patterns, checked_name
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo


@dataclass(frozen=True)
class OfPatterns:
    """What methods share that make one pattern of all frames of a raster."""

    #: name of the output, an identifier
    name: str
    #: False: no pattern is made
    enabled: bool = True

    def __post_init__(self) -> None:
        checked_name(self.name)
        object.__setattr__(self, "enabled", checks.switch(f"enabled of {self.name}", self.enabled))

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Patterns:
        return Patterns()

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        shape = (0, 0) if series is None else series.format.shape
        return {self.name: Output(PATTERN, shape, "counts")} if self.enabled else {}


@dataclass(frozen=True)
class MeanPattern(OfPatterns):
    """Mean diffraction pattern of each raster, (q_y, q_x) counts a frame.

    Pixels that hold no count are left out of the mean; a pixel that never held one, and a masked pixel, is NaN.
    """

    name: str = "pattern"

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> PatternSums:
        return PatternSums(series, device)

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        pattern = np.full(series.format.shape, np.nan)
        merged = PatternSums.merged(parts)
        if merged is not None:
            total, frames = merged
            good = frames > 0 if series.pixel_mask is None else (frames > 0) & ~series.pixel_mask
            np.divide(total, frames, out=pattern, where=good)
        return {self.name: pattern}
