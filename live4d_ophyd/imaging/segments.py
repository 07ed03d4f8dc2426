"""Segments: images of the sectors and rings of an annulus, for differential phase contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration, checked_unit
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.method import LENGTH, PIXELS, SCAN, UNIT, Output, Sums, checked_name, number
from live4d_ophyd.imaging.virtual_detectors import (
    center_in_px,
    lengths_of,
    outputs_in_px,
    results_in_px,
)
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo


@dataclass(frozen=True)
class Segments:
    """``rings`` x ``sectors`` images, each summed over one part of an annulus.

    Ring 0 is the innermost; rings have the same width. Sector 0 begins at the direction in which the scan's columns
    run (+x), and sectors follow towards that of its rows (+y). ``rotation`` turns the detector into the scan, positive
    from its rows towards its columns, as that of `DPC` does. Pixels further than ``inner`` from the centre and within
    ``outer`` belong to exactly one segment, whole pixels: sums are exact. Outputs are ``<name>_<ring>_<sector>``,
    counts."""

    name: str
    #: (row, col), px; None is the centre of the calibration, and without one the middle of the frame
    center: tuple[float, float] | None = field(default=None, metadata=PIXELS)
    outer: float = field(kw_only=True, metadata=LENGTH)
    inner: float = field(default=0.0, kw_only=True, metadata=LENGTH)
    rings: int = field(default=1, kw_only=True)
    sectors: int = field(default=4, kw_only=True)
    #: from the detector to the scan, degrees
    rotation: float = field(default=0.0, kw_only=True, metadata={"units": "deg"})
    #: what inner and outer are in: "px", "mrad", or "bf", radii of the bright-field disk
    unit: str = field(default="px", kw_only=True, metadata=UNIT)
    #: False: no images are made
    enabled: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        checked_name(self.name)
        checked_unit(self.name, self.unit)
        set_ = object.__setattr__
        set_(self, "enabled", checks.switch(f"{self.name}.enabled", self.enabled))
        if self.center is not None:
            row, col = self.center
            set_(self, "center", (number(f"{self.name}.center", row), number(f"{self.name}.center", col)))
        for name in ("inner", "outer", "rotation"):
            set_(self, name, number(f"{self.name}.{name}", getattr(self, name)))
        for name in ("rings", "sectors"):
            set_(self, name, checks.whole(f"{self.name}.{name}", getattr(self, name), 1, 64))
        if not 0 <= self.inner < self.outer:
            raise ValueError(
                f"{self.name} reaches from inner = {self.inner:g} {self.unit} to outer = {self.outer:g} {self.unit}; "
                "expected 0 <= inner < outer"
            )

    @property
    def _names(self) -> list[str]:
        return [
            f"{self.name}_{ring}_{sector}" for ring in range(self.rings) for sector in range(self.sectors)
        ]

    def on(self, shape: tuple[int, int], calibration: Calibration) -> Segments:
        """The same segments in px, on frames of this shape."""
        scale = calibration.in_px(self.unit, self.name)
        lengths = {name: getattr(self, name) * scale for name in lengths_of(self)}
        center = center_in_px(self.center, shape, calibration)
        return replace(self, **lengths, center=center, unit="px")

    def segment_of(self, shape: tuple[int, int], calibration: Calibration = NOT_CALIBRATED) -> np.ndarray:
        """Which segment each pixel belongs to, ring * sectors + sector, (q_y, q_x) int64; -1: none."""
        return self.on(shape, calibration)._segment_of(shape)

    def _segment_of(self, shape: tuple[int, int]) -> np.ndarray:
        """As `segment_of`, of segments in px."""
        assert self.center is not None
        row, col = self.center
        y, x = np.ogrid[: shape[0], : shape[1]]
        distance = np.hypot(y - row, x - col)
        angle = np.degrees(np.arctan2(y - row, x - col)) - self.rotation
        sector = np.floor((angle % 360) * (self.sectors / 360)).astype(int) % self.sectors
        width = (self.outer - self.inner) / self.rings
        # A distance that is the outer radius of a ring belongs to it, as that of the annulus does.
        ring = np.ceil((distance - self.inner) / width).astype(int) - 1
        inside = (distance > self.inner) & (distance <= self.outer)
        if self.inner == 0:
            inside |= distance == 0
        return np.where(inside, np.clip(ring, 0, self.rings - 1) * self.sectors + sector, -1)

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums:
        segment = self.segment_of(series.format.shape, series.calibration)
        rows = np.flatnonzero((segment >= 0).any(axis=1))
        first = int(rows[0]) if len(rows) else 0
        band = segment[first : first + len(rows)]
        return Sums(tuple(self._names), tuple((first, band == number) for number in range(len(self._names))))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        images = {name: Output(SCAN, scan.shape, "counts") for name in self._names}
        return {**images, **outputs_in_px(self, self.name)}

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Scatter:
        return Scatter(scan, len(self._names), device)

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        images = dict(zip(self._names, Scatter.merged(parts, scan, len(self._names))))
        return {**images, **results_in_px(self, self.name, series)}
