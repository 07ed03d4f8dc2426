"""Where a run's virtual detectors lie on the pattern, as lines to draw.

In: settings by their full names, as configuration and Events have them. Out: `Outline`, px, (0, 0) the middle of the
first pixel. Any thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_STEPS = 97  # corners of a circle


@dataclass(frozen=True)
class Outline:
    """Lines (rows, cols) of one detector."""

    name: str
    lines: tuple[tuple[np.ndarray, np.ndarray], ...]


def outlines(settings: Mapping[str, Any], device: str, shape: tuple[int, int] | None = None) -> list[Outline]:
    """The detectors of ``device`` whose place is known; ``shape`` of the pattern, for centres that are its middle."""
    of_device = {
        key.removeprefix(f"{device}_"): value
        for key, value in settings.items()
        if key.startswith(f"{device}_")
    }
    if shape is None:
        shape = detector_shape(settings, device)
    names = [key.removesuffix("_kind") for key in of_device if key.endswith("_kind")]
    found = []
    for name in names:
        if of_device.get(f"{name}_enabled") in (False, 0):
            continue
        lines = tuple(_lines(_Detector(of_device, name, shape)))
        if lines:
            found.append(Outline(name, lines))
    return found


def detector_shape(settings: Mapping[str, Any], device: str) -> tuple[int, int] | None:
    """(q_y, q_x) of the device's detector, px; None where no setting says it."""
    rows, cols = (settings.get(f"{device}_detector_{axis}_pixels") for axis in "yx")
    if isinstance(rows, int) and isinstance(cols, int) and 0 < rows * cols <= 1 << 26:
        return rows, cols
    return None


class _Detector:
    """One detector's settings in px."""

    def __init__(self, settings: Mapping[str, Any], name: str, shape: tuple[int, int] | None) -> None:
        self._settings, self._name, self._shape = settings, name, shape

    def get(self, key: str) -> Any:
        return self._settings.get(f"{self._name}_{key}")

    def length(self, key: str) -> float | None:
        """In px: as an Event says that it was, else from the unit and the calibration."""
        if (measured := _number(self.get(f"{key}_px"))) is not None:
            return measured
        value, scale = _number(self.get(key)), self.scale()
        return None if value is None or scale is None else value * scale

    def scale(self) -> float | None:
        """Px of the unit."""
        unit = self.get("unit") or "px"
        if unit == "bf":
            return _number(self._settings.get("calibration_bf_radius"))
        if unit == "mrad":
            angle = _number(self._settings.get("calibration_mrad_per_px"))
            return 1 / angle if angle else None
        return 1.0 if unit == "px" else None

    def center(self) -> tuple[float, float] | None:
        rows_cols = (
            (self.get("center_row_px"), self.get("center_col_px")),
            (self.get("center_row"), self.get("center_col")),
            self.get("center"),
            self._settings.get("calibration_center"),
            (self._settings.get("calibration_center_row"), self._settings.get("calibration_center_col")),
        )
        for place in rows_cols:
            if isinstance(place, Sequence | np.ndarray) and len(place) == 2:
                row, col = _number(place[0]), _number(place[1])
                if row is not None and col is not None:
                    return row, col
        return None if self._shape is None else ((self._shape[0] - 1) / 2, (self._shape[1] - 1) / 2)

    def points(self) -> list[tuple[float, float]]:
        for key, scale in (("points_px", 1.0), ("points", self.scale())):
            value = self.get(key)
            try:
                places = np.asarray(json.loads(value) if isinstance(value, str) else value, float)
            except (ValueError, TypeError):
                continue
            if scale is not None and places.ndim == 2 and places.shape[1] == 2:
                middle = (0.0, 0.0) if key == "points_px" or scale == 1.0 else self.center() or (0.0, 0.0)
                return [(row * scale + middle[0], col * scale + middle[1]) for row, col in places]
        return []


def _lines(detector: _Detector) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    radius = detector.length("radius")
    if points := detector.points():
        if radius:
            yield from (circle(point, radius) for point in points)
        elif len(points) > 2:
            corners = np.asarray([*points, points[0]])
            yield corners[:, 0], corners[:, 1]
        return
    center = detector.center()
    if center is None:
        return
    inner, outer = detector.length("inner"), detector.length("outer")
    rings = int(_number(detector.get("rings")) or 1)
    radii = [radius] if radius else list(np.linspace(inner or 0.0, outer, rings + 1)) if outer else []
    yield from (circle(center, r) for r in radii if r > 0)
    sectors = int(_number(detector.get("sectors")) or 0)
    if outer and sectors > 1:
        begin = math.radians(_number(detector.get("rotation")) or 0.0)
        for n in range(sectors):
            angle = begin + 2 * math.pi * n / sectors
            ends = np.array([inner or 0.0, outer])
            yield center[0] + ends * math.sin(angle), center[1] + ends * math.cos(angle)


def circle(center: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(rows, cols) of a closed circle, px."""
    angle = np.linspace(0, 2 * math.pi, _STEPS)
    return center[0] + radius * np.sin(angle), center[1] + radius * np.cos(angle)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
