"""Virtual detectors of any shape: disks at a list of points, a polygon, a mask.

Positions are (row, col). In px they are on the detector, (0, 0) the middle of its first pixel; in mrad or in radii of
the bright-field disk they count from the disk's centre. Any thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.calibration import Calibration, checked_unit
from live4d_ophyd.imaging.method import LENGTH, UNIT, Output
from live4d_ophyd.imaging.virtual_detectors import (
    VirtualDetector,
    between,
    center_in_px,
    checked_radius,
    reached,
)
from live4d_ophyd.sources.source import SeriesInfo

Positions = tuple[tuple[float, float], ...]

#: of a list, which a run records as a text
MOST_POSITIONS = 1000


def positions(what: str, value: Any, least: int = 1) -> Positions:
    """A list of (row, col), or the JSON text of one, as tuples of floats. Raises ValueError that names ``what``."""
    expected = f"expected {least} to {MOST_POSITIONS} positions (row, col)"
    try:
        array = np.asarray(json.loads(value) if isinstance(value, str) else value, float)
    except (ValueError, TypeError):
        raise ValueError(f"{what} are {checks.shown(value)}; {expected}") from None
    if array.ndim != 2 or array.shape[1] != 2 or not least <= len(array) <= MOST_POSITIONS:
        raise ValueError(f"{what} have the shape {array.shape}; {expected}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} are not all finite; {expected}")
    return tuple((float(row), float(col)) for row, col in array)


@dataclass(frozen=True)
class _Placed(VirtualDetector):
    """What points and polygon share: positions in a unit."""

    #: (row, col) of each
    points: Positions = field(metadata={"units_of": "unit"})
    #: what positions and lengths are in: "px", "mrad", or "bf", radii of the bright-field disk
    unit: str = field(default="px", kw_only=True, metadata=UNIT)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_unit(f"detector {self.name}", self.unit)
        what = f"points of detector {self.name}"
        object.__setattr__(self, "points", positions(what, self.points, self._least()))

    def on(self: Any, shape: tuple[int, int], calibration: Calibration) -> Any:
        if self.unit == "px":
            return self
        scale = calibration.in_px(self.unit, self.name)
        points = np.asarray(self.points) * scale + center_in_px(None, shape, calibration)
        return replace(self, **{"points": points, "unit": "px", **self._scaled(scale)})

    def _outputs_in_px(self) -> Mapping[str, Output]:
        if self.unit == "px":
            return {}
        lengths = {f"{self.name}_{name}_px": Output((), (), "px", preview=False) for name in self._scaled(1)}
        points = Output(("point", "row_col"), (len(self.points), 2), "px", preview=False)
        return {f"{self.name}_points_px": points, **lengths}

    def _results_in_px(self, series: SeriesInfo) -> Mapping[str, np.ndarray]:
        there = self.on(series.format.shape, series.calibration)
        keys = [key.removeprefix(f"{self.name}_") for key in self._outputs_in_px()]
        return {f"{self.name}_{key}": np.asarray(getattr(there, key.removesuffix("_px"))) for key in keys}

    def _least(self) -> int:
        """How many positions it needs."""
        return 1

    def _scaled(self, scale: float) -> dict[str, float]:
        """Its lengths, times ``scale``."""
        return {}


@dataclass(frozen=True)
class Points(_Placed):
    """Pixels within ``radius`` of any of the points: a list of diffraction spots. Each pixel counts once.

    A radius of 0.5 px takes the pixel of a point, two or four where the point lies on an edge between pixels. Raises
    ValueError where a point has no pixel on the frame.
    """

    radius: float = field(kw_only=True, metadata=LENGTH)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "radius", checked_radius(self))

    def _scaled(self, scale: float) -> dict[str, float]:
        return {"radius": self.radius * scale}

    def _band(self, shape: tuple[int, int]) -> tuple[int, np.ndarray]:
        row_of = [row for row, _ in self.points]
        rows = between(min(row_of) - self.radius, max(row_of) + self.radius, shape[0])
        weights = np.zeros((len(rows), shape[1]), bool)
        for row, col in self.points:
            near_rows, near_cols = (reached(at, self.radius, n) for at, n in zip((row, col), shape))
            down = np.arange(near_rows.start, near_rows.stop)[:, np.newaxis] - row
            across = np.arange(near_cols.start, near_cols.stop) - col
            disk = down * down + across * across <= self.radius**2
            if not disk.any():
                raise ValueError(
                    f"the point row {row:g}, col {col:g} of detector {self.name}, radius {self.radius:g} px, has no "
                    f"pixel on a frame of {shape[0]} x {shape[1]} px"
                )
            here = slice(near_rows.start - rows.start, near_rows.stop - rows.start)
            weights[here, near_cols.start : near_cols.stop] |= disk
        return rows.start, weights


@dataclass(frozen=True)
class Polygon(_Placed):
    """Pixels whose centres lie inside a polygon with these corners, which may be concave.

    Where edges cross each other, what lies inside an even number of times is outside. Of a centre on an edge, the
    polygon takes those on its upper and left edges: polygons side by side share no pixel.
    """

    def _least(self) -> int:
        return 3

    def _band(self, shape: tuple[int, int]) -> tuple[int, np.ndarray]:
        corners = np.asarray(self.points)
        rows = between(corners[:, 0].min(), corners[:, 0].max(), shape[0])
        y, x = np.arange(rows.start, rows.stop)[:, np.newaxis], np.arange(shape[1])
        inside = np.zeros((len(rows), shape[1]), bool)
        for (row, col), (next_row, next_col) in zip(corners, np.roll(corners, -1, axis=0)):
            if row == next_row:
                continue
            crosses = (row <= y) != (next_row <= y)
            with np.errstate(
                over="ignore", divide="ignore", invalid="ignore"
            ):  # rows that a flat edge does not cross
                reached = (y - row) / (next_row - row)
                inside ^= crosses & (x >= col + reached * (next_col - col))
        return rows.start, inside


@dataclass(frozen=True, eq=False)
class Mask(VirtualDetector):
    """Any weights: an array (q_y, q_x) of the frame's shape. Sums are exact if it holds bools or integers.

    The run records its size and SHA-256 digest, and its path where a plan sets ``<name>_array`` to that of a ``.npy``
    file.
    """

    array: np.ndarray

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self.array, f"array of detector {self.name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same = all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name != "array")
        return same and self.array.dtype == other.array.dtype and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash((self.name, self.enabled, self.array.shape))

    def _band(self, shape: tuple[int, int]) -> tuple[int, np.ndarray]:
        if self.array.shape != tuple(shape):
            raise ValueError(
                f"array of detector {self.name} has the shape {self.array.shape}, the frames have {tuple(shape)}"
            )
        rows = np.flatnonzero(self.array.any(axis=1))
        band = self.array[rows[0] : rows[-1] + 1]
        return int(rows[0]), band if band.dtype == bool else band.astype(
            np.float64 if band.dtype.kind == "f" else np.int64
        )


def check_weights(array: Any, what: str = "it") -> None:
    """Raise ValueError unless it can be the weights of a detector."""
    expected = "expected weights (q_y, q_x): bools, integers, or finite floats, not all 0"
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ValueError(f"{what} is {checks.shown(array)}; {expected}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"{what} has {np.count_nonzero(~np.isfinite(array))} values that are not finite; {expected}"
        )
    if not array.any():
        raise ValueError(f"{what} is 0 everywhere; {expected}")
