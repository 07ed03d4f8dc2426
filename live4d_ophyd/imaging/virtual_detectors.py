"""Virtual detectors: methods that sum the counts under a shape on the pattern, one image each.

A detector is a small frozen value that turns into a weight map once the frame shape is known. Positions are
(row, col) in px with whole numbers at pixel centres, lengths in px. Any thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.method import SCAN, Output, Sums, center_on
from live4d_ophyd.imaging.weights import combined_weights
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: rows of a large detector that are computed at a time
_ROWS_AT_ONCE = 64

#: metadata of positions, and of lengths
PIXELS = {"units": "px"}
LENGTH = {**PIXELS, "least": 0.0}


@dataclass(frozen=True)
class _Round:
    """What disk and annulus share: a name, a centre and an edge."""

    #: name of the image, an identifier
    name: str
    #: (row, col), px; None is the middle of the frame
    center: tuple[float, float] | None = field(default=None, metadata=PIXELS)
    #: linear edge of 1 px (float weights) instead of whole pixels (exact integer sums)
    soft: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"detector name {self.name!r}: expected an identifier, letters, digits and _")
        if self.center is not None:
            numbers = all(isinstance(x, Real) and math.isfinite(x) for x in self.center)
            if not numbers or len(self.center) != 2:
                raise ValueError(
                    f"center of detector {self.name} is {self.center}: expected (row, col) in px"
                )
            object.__setattr__(self, "center", (float(self.center[0]), float(self.center[1])))
        if not isinstance(self.soft, bool | np.bool_):
            raise ValueError(f"soft of detector {self.name} is {self.soft!r}: expected True or False")
        object.__setattr__(self, "soft", bool(self.soft))

    def weights(self, shape: tuple[int, int]) -> np.ndarray:
        """Weight map ``(rows, cols)``: int64 of 0 and 1, or float64 with a soft edge.

        Raises ValueError when no pixel of a frame of this shape lies on the detector.
        """
        first, band = self.band(shape)
        weights = np.zeros(shape, np.float64 if self.soft else np.int64)
        weights[first : first + len(band)] = band
        return weights

    def band(self, shape: tuple[int, int]) -> tuple[int, np.ndarray]:
        """The rows that the detector may reach: the first one, and weights ``(rows, cols)``, bool or float64.

        All other rows weigh nothing. Raises as `weights`.
        """
        center = self.center_on(shape)
        rows, cols = (_reached(c, self._reach() + 0.5, n) for c, n in zip(center, shape))
        weights = np.zeros((len(rows), shape[1]), np.float64 if self.soft else bool)
        across = np.arange(cols.start, cols.stop) - center[1]
        # Some rows at a time: distances of millions of pixels leave the cache.
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            down = np.arange(rows.start, rows.stop)[first : first + _ROWS_AT_ONCE, np.newaxis] - center[0]
            part = weights[first : first + _ROWS_AT_ONCE, cols.start : cols.stop]
            # np.hypot takes six times as long; these are no lengths that overflow when squared.
            part[...] = self._at(np.sqrt(down * down + across * across))
        if not weights.any():
            raise ValueError(
                f"{self._in_words(center)} has no pixel on a frame of {shape[0]} x {shape[1]} px"
            )
        return rows.start, weights

    def center_on(self, shape: tuple[int, int]) -> tuple[float, float]:
        """The centre on frames of this shape, (row, col) in px."""
        return center_on(self.center, shape)

    # The contract of methods --------------------------------------------------------------------

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums:
        return Sums((self.name,), (self.band(series.format.shape),))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        return {self.name: Output(SCAN, scan.shape, "counts", hinted=True)}

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Scatter:
        return Scatter(scan, 1, device)

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        return {self.name: Scatter.merged(parts, scan, 1)[0]}

    # What a shape is ------------------------------------------------------------------------------

    def _at(self, distance: np.ndarray) -> np.ndarray:
        """Weight at a distance from the centre, px."""
        raise TypeError(f"{type(self).__name__} is no detector: use Disk or Annulus")

    def _reach(self) -> float:
        """Distance from the centre behind which nothing weighs, px, without a soft edge."""
        raise TypeError(f"{type(self).__name__} is no detector: use Disk or Annulus")

    def _in_words(self, center: tuple[float, float]) -> str:
        sizes = {k: v for k, v in asdict(self).items() if k not in ("name", "center", "soft")}
        lengths = ", ".join(f"{name} {value:g} px" for name, value in sizes.items())
        return f"detector {self.name} (center row {center[0]:g}, col {center[1]:g}, {lengths})"


def _reached(center: float, reach: float, pixels: int) -> range:
    """Of ``pixels`` in a line those that are not further than ``reach`` from ``center``."""
    low, high = np.clip([np.ceil(center - reach), np.floor(center + reach) + 1], 0, pixels)
    return range(int(low), int(high))


def _within(distance: np.ndarray, radius: float, soft: bool) -> np.ndarray:
    return np.clip(radius - distance + 0.5, 0.0, 1.0) if soft else distance <= radius


def _length(value: float, what: str) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}: expected a length in px")
    return float(value)


@dataclass(frozen=True)
class Disk(_Round):
    """Pixels within ``radius`` of the centre: bright field, or one diffraction disk."""

    radius: float = field(kw_only=True, metadata=LENGTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "radius", _length(self.radius, f"radius of detector {self.name}"))
        if self.radius <= 0:
            raise ValueError(f"radius of detector {self.name} is {self.radius:g} px: expected more than 0")

    def _at(self, distance: np.ndarray) -> np.ndarray:
        return _within(distance, self.radius, self.soft)

    def _reach(self) -> float:
        return self.radius


@dataclass(frozen=True)
class Annulus(_Round):
    """Pixels further than ``inner`` from the centre and within ``outer``: annular bright or dark field."""

    inner: float = field(kw_only=True, metadata=LENGTH)
    outer: float = field(kw_only=True, metadata=LENGTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("inner", "outer"):
            object.__setattr__(self, name, _length(getattr(self, name), f"{name} of detector {self.name}"))
        if not 0 <= self.inner < self.outer:
            raise ValueError(
                f"detector {self.name} reaches from {self.inner:g} to {self.outer:g} px: "
                "expected 0 <= inner < outer"
            )

    def _at(self, distance: np.ndarray) -> np.ndarray:
        # As a difference, so that a soft ring thinner than its edges is not counted twice.
        whole, hole = (_within(distance, radius, self.soft) for radius in (self.outer, self.inner))
        return whole - hole if self.soft else whole & ~hole

    def _reach(self) -> float:
        return self.outer


Detector = Disk | Annulus


def weight_maps(
    detectors: Sequence[Detector],
    shape: tuple[int, int],
    pixel_mask: np.ndarray | None = None,
    gain: np.ndarray | None = None,
) -> Weights:
    """Weights of several detectors, one map each in their order.

    ``pixel_mask`` ``(rows, cols)``: pixels that are not 0 (or True) are bad and weigh nothing. ``gain``
    ``(rows, cols)``: factor on each pixel's counts. Integer weights (exact sums) when every edge is hard and
    there is no gain, float otherwise. Raises ValueError for another shape, a gain that is not finite on a
    good pixel of a detector, and a detector without a good pixel.
    """
    if not detectors:
        raise ValueError("no virtual detector: expected at least one")
    return combined_weights([Sums((d.name,), (d.band(shape),)) for d in detectors], shape, pixel_mask, gain)
