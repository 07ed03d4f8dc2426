"""Drift: where the specimen has moved to from raster to raster of a movie, and their sum with that undone.

`Drift` is the live method: made of another method's images, with a state that goes from raster to raster of one series.
`path_of` (one raster against a reference), `MovedSum` (values put to where the specimen was) and `Followed` (raster
after raster) are its parts, and those of the offline form (runs/drift.py). Positions move: no frame and no image is
resampled. All pairs are (row, col) in scan positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.imaging.method import SCAN, UNIT, Images, Output, checked_name, number
from live4d_ophyd.imaging.registration import LEAST_CONFIDENCE, Displacement, Reason, displacement, is_empty
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: rows of a strip: with fewer the slow axis is off by half a position
LEAST_STRIP = 16
#: how far a strip may be from where the whole raster is, scan positions
STRIP_SEARCH = 4.0
#: part of a raster that a pixel of a sum has at least, or it is NaN
_LEAST_WEIGHT = 0.5


# One raster ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Path:
    """Where the specimen was during one raster; NaN where ``whole`` was not found."""

    whole: Displacement
    #: (rows, 2) displacement while each row was scanned
    rows: np.ndarray
    #: of the strips: middle rows (strips,), displacements (strips, 2) NaN where not found, confidences (strips,)
    middles: np.ndarray = field(default_factory=lambda: np.zeros(0))
    strips: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    confidences: np.ndarray = field(default_factory=lambda: np.zeros(0))


def path_of(
    image: np.ndarray,
    reference: np.ndarray,
    search: float,
    about: tuple[float, float] = (0.0, 0.0),
    strips: int = 1,
    least_confidence: float = LEAST_CONFIDENCE,
) -> Path:
    """Displacement of ``image`` (rows, cols) from ``reference``, as a whole and, with ``strips``, as its rows go by.

    Strips are compared with all of the reference. A line, from three strips on a parabola, is fitted to those that are
    sure enough: single strips would be off by more than they say in the slow direction.
    """
    rows = len(image)
    whole = displacement(image, reference, search, about, least_confidence)
    if not whole.found:
        return Path(whole, np.full((rows, 2), np.nan))
    path = np.tile([whole.row, whole.col], (rows, 1))
    if strips == 1:
        return Path(whole, path)
    edges = np.linspace(0, rows, strips + 1).round().astype(int)
    middles, found, confidences = np.empty(strips), np.full((strips, 2), np.nan), np.zeros(strips)
    for strip, (first, last) in enumerate(pairwise(edges)):
        middles[strip] = (first + last - 1) / 2
        one = displacement(
            image[first:last], reference, STRIP_SEARCH, (whole.row - first, whole.col), least_confidence
        )
        confidences[strip] = one.confidence
        if one.found:
            found[strip] = one.row + first, one.col
    sure = np.isfinite(found).all(axis=1)
    if sure.sum() >= 2:
        degree = min(int(sure.sum()) - 1, 2)
        half, fitted = rows / strips / 2, np.polynomial.Polynomial.fit
        for axis in (0, 1):
            line = fitted(middles[sure], found[sure, axis], degree, domain=[0, rows - 1], w=confidences[sure])
            # Beyond the strips that are sure it stays as it was at their edges: a parabola would run away.
            path[:, axis] = line(np.clip(np.arange(rows), middles[sure][0] - half, middles[sure][-1] + half))
    return Path(whole, path, middles, found, confidences)


class MovedSum:
    """Images added up in the frame of the reference, each value where the specimen was when it was taken."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.rasters = 0
        self._total, self._weight = np.zeros(shape), np.zeros(shape)

    def add(self, image: np.ndarray, path: np.ndarray) -> None:
        """Put values (rows, cols) to their positions less ``path``, shared by the four pixels around.

        ``path`` is (rows, 2), where the specimen was while each row was taken, or (rows, cols, 2).
        """
        rows, cols = np.nonzero(np.isfinite(image))
        values = image[rows, cols]
        at = np.stack([rows, cols]) - (path[rows] if path.ndim == 2 else path[rows, cols]).T
        corner = np.floor(at).astype(int)
        part = at - corner
        n, m = shape = self._total.shape
        for dy in (0, 1):
            for dx in (0, 1):
                y, x = corner[0] + dy, corner[1] + dx
                share = np.abs(1 - dy - part[0]) * np.abs(1 - dx - part[1])
                on = (y >= 0) & (y < n) & (x >= 0) & (x < m)
                flat = y[on] * m + x[on]
                self._total += np.bincount(flat, (share * values)[on], n * m).reshape(shape)
                self._weight += np.bincount(flat, share[on], n * m).reshape(shape)
        self.rasters += 1

    def mean(self) -> np.ndarray:
        """(rows, cols) the mean of the rasters that saw each pixel; NaN where not half of one did."""
        mean = np.full(self._total.shape, np.nan)
        np.divide(self._total, self._weight, out=mean, where=self._weight >= _LEAST_WEIGHT)
        return mean

    def copy(self) -> MovedSum:
        """Another one that goes on by itself."""
        other = MovedSum(self._total.shape)
        other.rasters, other._total, other._weight = self.rasters, self._total.copy(), self._weight.copy()
        return other


# A movie ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Followed:
    """What is known after some rasters."""

    total: MovedSum
    #: of the newest raster that was found
    last: tuple[float, float] = (0.0, 0.0)
    #: of the newest raster; None before the first
    path: Path | None = None

    def with_raster(
        self,
        image: np.ndarray,
        search: float,
        strips: int = 1,
        least_confidence: float = LEAST_CONFIDENCE,
    ) -> Followed:
        """With one raster more, compared with the sum so far, near where the one before was.

        A raster that is not found is not added. If the sum has one raster only, that may be the one that is no good:
        the new one takes its place as the reference.
        """
        if is_empty(image):
            nowhere = np.full((len(image), 2), np.nan)
            return replace(self, path=Path(Displacement.none(Reason.EMPTY), nowhere))
        confidence = math.nan
        if self.total.rasters:
            path = path_of(image, self.total.mean(), search, self.last, strips, least_confidence)
            if path.whole.found:
                total = self.total.copy()
                total.add(image, path.rows)
                return Followed(total, (path.whole.row, path.whole.col), path)
            if self.total.rasters > 1:
                return replace(self, path=path)
            confidence = path.whole.confidence
        here = Displacement(0.0, 0.0, confidence, Reason.REFERENCE)
        total = MovedSum(image.shape)
        total.add(image, np.zeros((len(image), 2)))
        return Followed(total, path=Path(here, np.zeros((len(image), 2))))


@dataclass(frozen=True, eq=False)
class Fit:
    """What a raster began with, and what there is with it."""

    before: Followed
    now: Followed


@dataclass(frozen=True)
class Drift:
    """Where the specimen has drifted to since the first raster of a series, and the sum of its rasters without that.

    Made of the images of another method, each raster compared with the sum of those before. ``<name>`` is the mean of
    the rasters so far at moved positions, in the frame of the first one; times ``<name>_rasters`` it is their sum.
    ``<name>_row`` and ``<name>_col``, in the scan's unit, say by how much what is seen has moved towards larger rows
    and columns; ``<name>_confidence`` is from 0 to 1. A raster below ``least_confidence`` is left out of the sum, its
    drift is NaN and ``<name>_reason`` not 0 (see `live4d_ophyd.imaging.registration.Reason`).

    With ``strips`` each raster is compared in so many strips of rows, too, so that a drift that changes within it is
    undone. What the drift does within the first raster stays: see `live4d_ophyd.drift_corrected`.
    """

    name: str
    #: name of the image
    image: str = field(default="adf", metadata=UNIT)
    #: how far the specimen may move from raster to raster, scan positions; on a lattice less than half its period
    search: float = field(default=8.0, kw_only=True, metadata={"least": 1.0})
    #: of rows, at least 16 each; 1: the raster as a whole
    strips: int = field(default=1, kw_only=True)
    #: from 0 to 1
    least_confidence: float = field(default=LEAST_CONFIDENCE, kw_only=True, metadata={"least": 0.0})
    #: False: nothing is made
    enabled: bool = field(default=True, kw_only=True)

    refit_rows: ClassVar[int] = 16

    def __post_init__(self) -> None:
        checked_name(self.name)
        checked_name(self.image)
        set_ = object.__setattr__
        for name in ("search", "least_confidence"):
            set_(self, name, number(f"{self.name}.{name}", getattr(self, name)))
        if self.search < 1:
            raise ValueError(f"{self.name}.search is {self.search:g}; expected at least 1 scan position")
        if not 0 <= self.least_confidence <= 1:
            raise ValueError(f"{self.name}.least_confidence is {self.least_confidence:g}; expected 0 to 1")
        set_(self, "strips", checks.whole(f"{self.name}.strips", self.strips, 1, 64))
        set_(self, "enabled", checks.switch(f"{self.name}.enabled", self.enabled))

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Images:
        checked_strips(self.strips, scan.rows, self.name)
        return Images((self.image,))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        name = self.name
        return {
            name: Output(SCAN, scan.shape),
            f"{name}_row": Output((), (), scan.unit, hinted=True),
            f"{name}_col": Output((), (), scan.unit, hinted=True),
            f"{name}_confidence": Output((), (), hinted=True),
            f"{name}_rasters": Output((), ()),
            f"{name}_reason": Output((), ()),
        }

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Any:
        raise TypeError("it is made of images")

    def refit(
        self,
        series: SeriesInfo,
        scan: ScanGrid,
        parts: Mapping[str, np.ndarray],
        fit: Fit | None,
        stop: Callable[[], bool],
    ) -> Fit:
        before = Followed(MovedSum(scan.shape)) if fit is None else fit.before
        now = before.with_raster(parts[self.image], self.search, self.strips, self.least_confidence)
        return Fit(before, now)

    def next_raster(self, fit: Fit) -> Fit:
        """What the next raster of the series begins with."""
        return Fit(fit.now, replace(fit.now, path=None))

    def results(
        self, series: SeriesInfo, scan: ScanGrid, parts: Mapping[str, np.ndarray], fit: Fit | None
    ) -> Mapping[str, np.ndarray]:
        name, image = self.name, np.full(scan.shape, np.nan)
        row = col = confidence = reason = math.nan
        rasters = 0
        if fit is not None:
            image, rasters = fit.now.total.mean(), fit.now.total.rasters
            if fit.now.path is not None:
                whole = fit.now.path.whole
                row, col = fit.now.path.rows.mean(axis=0) * scan.steps
                confidence, reason = whole.confidence, float(whole.reason)
        numbers = {"row": row, "col": col, "confidence": confidence, "rasters": rasters, "reason": reason}
        return {
            name: image,
            **{f"{name}_{key}": np.array(float(value)) for key, value in numbers.items()},
        }


def checked_strips(strips: int, rows: int, what: str) -> None:
    """Raise ValueError where strips would have fewer than `LEAST_STRIP` rows."""
    if strips > 1 and rows // strips < LEAST_STRIP:
        raise ValueError(
            f"{what} has {strips} strips of a scan of {rows} rows; expected at least {LEAST_STRIP} rows each: at most "
            f"{max(1, rows // LEAST_STRIP)}"
        )
