"""Virtual detectors: methods that sum the counts under a shape on the pattern, one image each.

A detector is a small frozen value that turns into a weight map once the frame shape and the calibration are known.
Positions are (row, col) with whole numbers at pixel centres. Lengths are in the detector's ``unit``: px, mrad, or radii
of the bright-field disk. Any thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration, checked_unit
from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.method import LENGTH, PIXELS, SCAN, UNIT, Output, Sums, center_on
from live4d_ophyd.imaging.weights import combined_weights
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: rows of a large detector that are computed at a time
_ROWS_AT_ONCE = 64

_Own = TypeVar("_Own", bound="VirtualDetector")


@dataclass(frozen=True)
class VirtualDetector:
    """What all virtual detectors share: a name, and one image of the counts under their weights."""

    #: name of the image, an identifier
    name: str
    #: False: no image is made
    enabled: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"detector name {self.name!r}: expected an identifier, letters, digits and _")
        object.__setattr__(self, "enabled", checks.switch(f"enabled of detector {self.name}", self.enabled))

    def weights(self, shape: tuple[int, int], calibration: Calibration = NOT_CALIBRATED) -> np.ndarray:
        """Weight map ``(rows, cols)``: int64, or float64 where weights are no whole numbers.

        Raises ValueError when no pixel of a frame of this shape lies on the detector, and for lengths in a unit that
        the calibration does not know.
        """
        first, band = self.band(shape, calibration)
        weights = np.zeros(shape, np.float64 if band.dtype.kind == "f" else np.int64)
        weights[first : first + len(band)] = band
        return weights

    def band(
        self, shape: tuple[int, int], calibration: Calibration = NOT_CALIBRATED
    ) -> tuple[int, np.ndarray]:
        """The rows that the detector may reach: the first one, and weights ``(rows, cols)``, bool, int or float64.

        All other rows weigh nothing. Raises as `weights`.
        """
        first, weights = self.on(shape, calibration)._band(shape)
        if not weights.any():
            raise ValueError(
                f"{self._in_words(shape, calibration)} has no pixel on a frame of {shape[0]} x {shape[1]} px"
            )
        return first, weights

    def on(self: _Own, shape: tuple[int, int], calibration: Calibration) -> _Own:
        """The same detector in px, with nothing left to be known, on frames of this shape."""
        return self

    def center_on(
        self, shape: tuple[int, int], calibration: Calibration = NOT_CALIBRATED
    ) -> tuple[float, float]:
        """The position that the detector is about, (row, col) in px."""
        raise TypeError(f"{type(self).__name__} is about no position")

    # The contract of methods --------------------------------------------------------------------

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums:
        return Sums((self.name,), (self.band(series.format.shape, series.calibration),))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        return {self.name: Output(SCAN, scan.shape, "counts", hinted=True), **self._outputs_in_px()}

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Scatter:
        return Scatter(scan, 1, device)

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        return {self.name: Scatter.merged(parts, scan, 1)[0], **self._results_in_px(series)}

    # What a shape is ------------------------------------------------------------------------------

    def _band(self, shape: tuple[int, int]) -> tuple[int, np.ndarray]:
        """As `band`, of a detector in px."""
        raise TypeError(f"{type(self).__name__} is no detector: use Disk, Annulus, Points, Polygon or Mask")

    def _outputs_in_px(self) -> Mapping[str, Output]:
        """Outputs that say what was used in px, of a detector in another unit."""
        return {}

    def _results_in_px(self, series: SeriesInfo) -> Mapping[str, np.ndarray]:
        return {}

    def _in_words(self, shape: tuple[int, int], calibration: Calibration) -> str:
        return f"detector {self.name}"


# Lengths in px ------------------------------------------------------------------------------------


def lengths_of(shape: Any) -> list[str]:
    """Fields of a shape that are lengths in its ``unit``."""
    return [field.name for field in fields(shape) if field.metadata.get("units_of") == "unit"]


def outputs_in_px(shape: Any, name: str) -> dict[str, Output]:
    """Outputs that say what a shape in another unit than px was: ``<name>_inner_px``, ``<name>_center_row_px``."""
    if shape.unit == "px":
        return {}
    keys = [*lengths_of(shape), "center_row", "center_col"]
    return {f"{name}_{key}_px": Output((), (), "px", preview=False) for key in keys}


def results_in_px(shape: Any, name: str, series: SeriesInfo) -> dict[str, np.ndarray]:
    """The values of `outputs_in_px`."""
    if shape.unit == "px":
        return {}
    there = shape.on(series.format.shape, series.calibration)
    values = {key: getattr(there, key) for key in lengths_of(shape)}
    values["center_row"], values["center_col"] = there.center
    return {f"{name}_{key}_px": np.array(value) for key, value in values.items()}


def center_in_px(
    center: tuple[float, float] | None, shape: tuple[int, int], calibration: Calibration
) -> tuple[float, float]:
    """A centre, (row, col) px: the given one, else that of the calibration, else the middle of the frame."""
    return center_on(center or calibration.center, shape)


# Round detectors ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Round(VirtualDetector):
    """What disk and annulus share: a centre and an edge."""

    #: (row, col), px; None is the centre of the calibration, and without one the middle of the frame
    center: tuple[float, float] | None = field(default=None, metadata=PIXELS)
    #: linear edge of 1 px (float weights) instead of whole pixels (exact integer sums)
    soft: bool = field(default=False, kw_only=True)
    #: what the lengths are in: "px", "mrad", or "bf", radii of the bright-field disk
    unit: str = field(default="px", kw_only=True, metadata=UNIT)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_unit(f"detector {self.name}", self.unit)
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

    def on(self: Any, shape: tuple[int, int], calibration: Calibration) -> Any:
        scale = calibration.in_px(self.unit, self.name)
        lengths = {name: getattr(self, name) * scale for name in lengths_of(self)}
        return replace(self, **lengths, center=self.center_on(shape, calibration), unit="px")

    def center_on(
        self, shape: tuple[int, int], calibration: Calibration = NOT_CALIBRATED
    ) -> tuple[float, float]:
        """The centre on frames of this shape, (row, col) in px."""
        return center_in_px(self.center, shape, calibration)

    def _outputs_in_px(self) -> Mapping[str, Output]:
        return outputs_in_px(self, self.name)

    def _results_in_px(self, series: SeriesInfo) -> Mapping[str, np.ndarray]:
        return results_in_px(self, self.name, series)

    def _band(self, shape: tuple[int, int]) -> tuple[int, np.ndarray]:
        center = self.center_on(shape)
        rows, cols = (reached(c, self._reach() + 0.5, n) for c, n in zip(center, shape))
        weights = np.zeros((len(rows), shape[1]), np.float64 if self.soft else bool)
        across = np.arange(cols.start, cols.stop) - center[1]
        # Some rows at a time: distances of millions of pixels leave the cache.
        for first in range(0, len(rows), _ROWS_AT_ONCE):
            down = np.arange(rows.start, rows.stop)[first : first + _ROWS_AT_ONCE, np.newaxis] - center[0]
            part = weights[first : first + _ROWS_AT_ONCE, cols.start : cols.stop]
            # np.hypot takes six times as long; these are no lengths that overflow when squared.
            part[...] = self._at(np.sqrt(down * down + across * across))
        return rows.start, weights

    def _at(self, distance: np.ndarray) -> np.ndarray:
        """Weight at a distance from the centre, px."""
        raise TypeError(f"{type(self).__name__} is no detector: use Disk or Annulus")

    def _reach(self) -> float:
        """Distance from the centre behind which nothing weighs, px, without a soft edge."""
        raise TypeError(f"{type(self).__name__} is no detector: use Disk or Annulus")

    def _in_words(self, shape: tuple[int, int], calibration: Calibration) -> str:
        there = self.on(shape, calibration)
        lengths = ", ".join(f"{name} {getattr(there, name):g} px" for name in lengths_of(self))
        row, col = there.center
        return f"detector {self.name} (center row {row:g}, col {col:g}, {lengths})"


def reached(center: float, reach: float, pixels: int) -> range:
    """Of ``pixels`` in a line those that are not further than ``reach`` from ``center``."""
    return between(center - reach, center + reach, pixels)


def between(first: float, last: float, pixels: int) -> range:
    """Of ``pixels`` in a line those from ``first`` to ``last``, both included."""
    low, high = np.clip([np.ceil(first), np.floor(last) + 1], 0, pixels)
    return range(int(low), int(high))


def _within(distance: np.ndarray, radius: float, soft: bool) -> np.ndarray:
    return np.clip(radius - distance + 0.5, 0.0, 1.0) if soft else distance <= radius


def length(value: float, what: str, unit: str) -> float:
    """A length as a float. Raises ValueError that names what it is."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}: expected a length in {unit}")
    return float(value)


def checked_radius(detector: Any) -> float:
    """The radius of a detector as a float. Raises ValueError for what is no length, or not above 0."""
    what = f"radius of detector {detector.name}"
    radius = length(detector.radius, what, detector.unit)
    if radius <= 0:
        raise ValueError(f"{what} is {radius:g} {detector.unit}: expected more than 0")
    return radius


@dataclass(frozen=True)
class Disk(_Round):
    """Pixels within ``radius`` of the centre: bright field, or one diffraction disk."""

    radius: float = field(kw_only=True, metadata=LENGTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "radius", checked_radius(self))

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
            what = f"{name} of detector {self.name}"
            object.__setattr__(self, name, length(getattr(self, name), what, self.unit))
        if not 0 <= self.inner < self.outer:
            raise ValueError(
                f"detector {self.name} reaches from {self.inner:g} to {self.outer:g} {self.unit}: "
                "expected 0 <= inner < outer"
            )

    def _at(self, distance: np.ndarray) -> np.ndarray:
        # As a difference, so that a soft ring thinner than its edges is not counted twice.
        whole, hole = (_within(distance, radius, self.soft) for radius in (self.outer, self.inner))
        return whole - hole if self.soft else whole & ~hole

    def _reach(self) -> float:
        return self.outer


# In terms of the bright-field disk ----------------------------------------------------------------


def BF(name: str = "bf", **others: Any) -> Disk:
    """Bright field: the whole bright-field disk, wherever the calibration finds it. ``others`` as of `Disk`."""
    return Disk(name, **{"radius": 1.0, "unit": "bf", **others})


def ABF(name: str = "abf", **others: Any) -> Annulus:
    """Annular bright field: the outer half of the disk's radius (Okunishi, Microsc. Microanal. 15, 164, 2009)."""
    return Annulus(name, **{"inner": 0.5, "outer": 1.0, "unit": "bf", **others})


def ADF(name: str = "adf", **others: Any) -> Annulus:
    """Annular dark field: from 1.2 radii of the bright-field disk, clear of its edge, to 3."""
    return Annulus(name, **{"inner": 1.2, "outer": 3.0, "unit": "bf", **others})


def HAADF(name: str = "haadf", **others: Any) -> Annulus:
    """High-angle annular dark field: from 3 radii of the bright-field disk to 8, as far as the frame reaches."""
    return Annulus(name, **{"inner": 3.0, "outer": 8.0, "unit": "bf", **others})


Detector = VirtualDetector


def weight_maps(
    detectors: Sequence[VirtualDetector],
    shape: tuple[int, int],
    pixel_mask: np.ndarray | None = None,
    gain: np.ndarray | None = None,
    calibration: Calibration = NOT_CALIBRATED,
) -> Weights:
    """Weights of several detectors, one map each in their order.

    ``pixel_mask`` ``(rows, cols)``: pixels that are not 0 (or True) are bad and weigh nothing. ``gain``
    ``(rows, cols)``: factor on each pixel's counts. Integer weights (exact sums) when every edge is hard and
    there is no gain, float otherwise. Raises ValueError for another shape, a gain that is not finite on a
    good pixel of a detector, and a detector without a good pixel.
    """
    if not detectors:
        raise ValueError("no virtual detector: expected at least one")
    demands = [Sums((d.name,), (d.band(shape, calibration),)) for d in detectors]
    return combined_weights(demands, shape, pixel_mask, gain)
