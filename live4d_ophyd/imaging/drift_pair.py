"""Drift from two scans at a right angle: it shears one along its rows and the other along its columns.

In: two images, the second of a scan that was turned by 90 degrees. Out: `PairDrift`, the speed of the drift and both
images added up without it. A drift is known from one scan only as far as the specimen is; two that distort it
otherwise tell it (Ophus et al., Ultramicroscopy 162, 1 (2016)). All pairs are (row, col) in positions of the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from live4d_ophyd.imaging.drift import STRIP_SEARCH, MovedSum
from live4d_ophyd.imaging.registration import LEAST_CONFIDENCE, Displacement, Reason, displacement

#: of the patches that are compared: the least side, in smaller ones there is too little, and the part of a raster
_SIDE, _PART = 32, 3
#: patches without which there is no speed
_LEAST_PATCHES = 4
#: how far a patch may be from the fit, positions
_APART = 1.0
#: how often what is left is measured again, with what was found undone
_PASSES = 2


@dataclass(frozen=True, eq=False)
class PairDrift:
    """What is found; NaN unless ``reason`` is FOUND."""

    #: (2,) by which the specimen moves while one raster is scanned, towards larger rows and columns
    speed: np.ndarray
    #: (2,) standard error of the speed, from how the patches scatter
    error: np.ndarray
    #: of the patches, the median
    confidence: float
    reason: Reason
    #: (rows, cols) mean of both, without the drift, in the frame of the middle of the first
    image: np.ndarray = field(repr=False)


def drift_of_pair(
    first: Any,
    second: Any,
    turned: int = 90,
    search: float = 8.0,
    least_confidence: float = LEAST_CONFIDENCE,
) -> PairDrift:
    """Drift at a constant speed, from two images of the same place.

    Parameters
    ----------
    first, second : (rows, cols) array
        NaN where no frame came: ``image(run, "adf")`` of two runs. The steps of both directions are equal.
    turned : 90 or -90
        How the second scan was turned: 90 if its fast axis runs along the first one's slow axis, -90 against it.
    search : float, optional
        How far the two images may be from each other, scan positions.
    least_confidence : float, optional
        Patches below are not used, and nothing is applied if fewer than four are above.

    Raises
    ------
    ValueError
        The second image, turned back, has not the shape of the first.
    """
    if turned not in (90, -90):
        raise ValueError(f"turned is {turned!r}; expected 90 or -90 degrees")
    one, other = np.asarray(first, float), np.asarray(second, float)
    # Exact: no value changes, only its place.
    other = np.rot90(other, -1 if turned == 90 else 1)
    if one.shape != other.shape or one.ndim != 2:
        raise ValueError(
            f"the images have the shapes {np.shape(first)} and {np.shape(second)}; expected two of a pair at a right "
            "angle: of a square raster, or one as wide as the other is high"
        )
    rows, cols = one.shape
    # When each position was scanned, in rasters from the middle.
    when = (np.arange(rows) - (rows - 1) / 2) / rows, (np.arange(cols) - (cols - 1) / 2) / cols
    times = [np.tile(when[0][:, None], (1, cols)), np.tile(when[1] * (-1 if turned == 90 else 1), (rows, 1))]
    speed, apart = np.zeros(2), np.zeros(2)
    error, confidence = np.full(2, np.nan), 0.0
    for _ in range(_PASSES):
        images = []
        for image, time, offset in zip((one, other), times, (np.zeros(2), apart)):
            moved = MovedSum(one.shape)
            moved.add(image, offset + time[..., np.newaxis] * speed)
            images.append(moved.mean())
        left = _left(images[0], images[1], times, search, least_confidence)
        if isinstance(left, Displacement):
            return PairDrift(
                np.full(2, np.nan), error, left.confidence, left.reason, np.full(one.shape, np.nan)
            )
        more, off, error, confidence = left
        speed, apart = speed + more, apart + off
    both = MovedSum(one.shape)
    for image, time, offset in zip((one, other), times, (np.zeros(2), apart)):
        both.add(image, offset + time[..., np.newaxis] * speed)
    return PairDrift(speed, error, confidence, Reason.FOUND, both.mean())


def _left(
    one: np.ndarray, other: np.ndarray, times: list[np.ndarray], search: float, least_confidence: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float] | Displacement:
    """Speed, distance, the error of the speed and the confidence of what drift is left between two images.

    Each patch of the other is displaced by speed x (when it was scanned - when the one was) + distance.
    """
    whole = displacement(other, one, search, least_confidence=0.0)
    if not whole.found:
        return whole
    places, found, confidences = [], [], []
    for rows in _patches(one.shape[0]):
        for cols in _patches(one.shape[1]):
            about = whole.row - rows.start, whole.col - cols.start
            here = displacement(other[rows, cols], one, STRIP_SEARCH, about, least_confidence)
            confidences.append(here.confidence)
            if here.found:
                places.append(float((times[1][rows, cols] - times[0][rows, cols]).mean()))
                found.append((here.row + rows.start, here.col + cols.start))
    design, values = np.column_stack([places, np.ones(len(places))]), np.array(found).reshape(-1, 2)
    good = np.ones(len(places), bool)
    for _ in range(3):
        if good.sum() < _LEAST_PATCHES or np.ptp(design[good, 0]) < 0.3:
            return Displacement.none(Reason.UNCERTAIN, float(np.median(confidences)))
        solution = np.linalg.lstsq(design[good], values[good], rcond=None)[0]
        apart = np.hypot(*(values - design @ solution).T)
        good = apart <= max(_APART, 2.5 * float(np.median(apart)))
    residual = values[good] - design[good] @ solution
    variance = (residual**2).sum(axis=0) / max(1, good.sum() - 2)
    error = np.sqrt(variance * np.linalg.inv(design[good].T @ design[good])[0, 0])
    return solution[0], solution[1], error, float(np.median(confidences))


def _patches(n: int) -> list[slice]:
    """Of an axis of n positions, each half over the next."""
    side = min(n, max(_SIDE, n // _PART))
    count = max(1, math.ceil(2 * (n - side) / side) + 1)
    return [
        slice(first, first + side) for first in np.linspace(0, n - side, count).round().astype(int).tolist()
    ]
