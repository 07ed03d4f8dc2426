"""Outlines: virtual detectors as they lie on the pattern, in px, and which settings it means to move or resize one.

In: a device's methods and calibration. Out: frozen values that a window draws, and values by the names of the device's
signals, in the units of these. Any thread; it knows no Qt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.imaging.drawn_detectors import Mask, Points, Polygon
from live4d_ophyd.imaging.virtual_detectors import VirtualDetector, center_in_px, lengths_of

Position = tuple[float, float]
Values = dict[str, Any]

#: how far apart centres are that are one, px
SAME_PX = 0.02


@dataclass(frozen=True)
class Rings:
    """A disk, an annulus or segments: circles about a centre."""

    name: str  #: of the method
    center: Position  #: (row, col), px
    radii: tuple[float, ...]  #: px
    lengths: tuple[str, ...]  #: signals of the radii
    px: float  #: how many one unit of the signals is
    follows: bool = False  #: the centre is that of the calibration
    center_signal: str = ""
    sectors: int = 0
    rotation: float = 0.0  #: of the sectors, degrees
    rings: int = 1

    def moved(self, center: Position) -> Values:
        """Settings with the centre at ``center``, (row, col) in px."""
        return {self.center_signal: (float(center[0]), float(center[1]))}

    def resized(self, index: int, radius: float) -> Values:
        """Settings with the radius of this index of ``radius`` px."""
        return {self.lengths[index]: float(radius) / self.px}


@dataclass(frozen=True)
class Drawn:
    """A polygon's corners, or points with a radius; ``radius`` is None for a polygon."""

    name: str
    points: tuple[Position, ...]  #: (row, col), px
    radius: float | None
    px: float
    origin: Position  #: of positions in the signals' unit, px

    def placed(self, points: Any) -> Values:
        """Settings with the points at these, (n, 2) in px."""
        there = (np.asarray(points, float) - self.origin) / self.px
        return {f"{self.name}_points": tuple((float(row), float(col)) for row, col in there)}

    def resized(self, radius: float) -> Values:
        return {f"{self.name}_radius": float(radius) / self.px}


@dataclass(frozen=True, eq=False)
class Area:
    """A mask: where its weights are not 0, (q_y, q_x) bool."""

    name: str
    pixels: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Area) and self.name == other.name and np.array_equal(self.pixels, other.pixels)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.pixels.shape))


Outline = Rings | Drawn | Area
#: the name of the bright-field disk's outline, as the calibration has it
CALIBRATION = "calibration"


def outlines(device: Any, shape: tuple[int, int], instead: Values | None = None) -> dict[str, Outline | str]:
    """By the names of methods: the outline, or in words why it is not known. Methods without one are left out.

    Parameters
    ----------
    device : with ``methods(instead)`` and ``calibration(instead)``, as Live4D
    shape : of the frames, (q_y, q_x)
    instead : values that wait to be set, by the names of signals
    """
    calibration = device.calibration(instead)
    found: dict[str, Outline | str] = {}
    for method in device.methods(instead):
        for part in _parts(method):
            try:
                outline = _outline(method.name, part, shape, calibration)
            except ValueError as error:
                found[method.name] = str(error)
                break
            if outline is not None:
                found[method.name] = outline
                break
    if any(isinstance(outline, Rings) and outline.follows for outline in found.values()):
        found[CALIBRATION] = _of_calibration(calibration)
    return found


def sharing_center(found: dict[str, Outline | str], center: Position) -> list[Rings]:
    """Of ``found`` those that have a centre of their own there: they are moved together."""
    rings = [outline for outline in found.values() if isinstance(outline, Rings) and not outline.follows]
    return [ring for ring in rings if np.hypot(*np.subtract(ring.center, center)) < SAME_PX]


def in_words(outline: Outline | str, unit: str) -> str:
    """``15 px``, ``0.5 to 1 bright-field radii, 7.5 to 15 px``: for a list."""
    if isinstance(outline, str):
        return outline
    if isinstance(outline, Area):
        return f"{np.count_nonzero(outline.pixels)} px"
    if isinstance(outline, Drawn):
        return f"{len(outline.points)} {'corners' if outline.radius is None else 'points'}"
    in_px = f"{_range(outline.radii)} px"
    if unit == "px":
        return in_px
    lengths = _range([radius / outline.px for radius in outline.radii])
    units = unit if unit != "bf" else "bright-field radius" if lengths == "1" else "bright-field radii"
    return f"{lengths} {units}, {in_px}"


def _range(lengths: Sequence[float]) -> str:
    return " to ".join(f"{length:.4g}" for length in lengths)


def _parts(method: Any) -> Iterator[Any]:
    yield method
    if is_dataclass(method):
        yield from (value for field in fields(method) if is_dataclass(value := getattr(method, field.name)))


def _outline(name: str, part: Any, shape: tuple[int, int], calibration: Calibration) -> Outline | None:
    if isinstance(part, Mask):
        return Area(name, part.array != 0)
    if isinstance(part, Points | Polygon):
        there, px = part.on(shape, calibration), calibration.in_px(part.unit, name)
        origin = (0.0, 0.0) if part.unit == "px" else center_in_px(None, shape, calibration)
        radius = there.radius if isinstance(there, Points) else None
        return Drawn(name, there.points, radius, px, origin)
    lengths = sorted(lengths_of(part)) if hasattr(part, "center") and hasattr(part, "unit") else []
    if not lengths or not (isinstance(part, VirtualDetector) or hasattr(part, "sectors")):
        return None
    there = part.on(shape, calibration)
    return Rings(
        name=name,
        center=there.center,
        radii=tuple(getattr(there, length) for length in lengths),
        lengths=tuple(f"{name}_{length}" for length in lengths),
        px=calibration.in_px(part.unit, name),
        follows=part.center is None and calibration.center is not None,
        center_signal=f"{name}_center",
        sectors=getattr(part, "sectors", 0),
        rotation=getattr(part, "rotation", 0.0),
        rings=getattr(part, "rings", 1),
    )


def _of_calibration(calibration: Calibration) -> Rings:
    assert calibration.center is not None
    known = calibration.bf_radius is not None
    return Rings(
        name=CALIBRATION,
        center=calibration.center,
        radii=(calibration.bf_radius,) if calibration.bf_radius is not None else (),
        lengths=("calibration_bf_radius",) * known,
        px=1.0,
        center_signal="calibration_center",
    )
