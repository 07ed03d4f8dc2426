"""Previews over a link: of each output only the rows that changed since the preview before, as float32. Both ends.

A raster grows by rows: most previews are small, whatever the scan's size. Rows that the link would carry for too long
are binned. They stay so until they change again; the result has every pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from live4d_ophyd.checks import shown

#: pixels binned into one at most, along each axis
MOST_BINNED = 16
#: pixels of an output at most: a preview is of what fits a raster
_MOST_PIXELS = 1 << 28


@dataclass(frozen=True, eq=False)
class Rows:
    """``count`` rows of an output of ``shape``, from ``first`` on, float32.

    With ``binned`` k > 1 a value is the mean of k x k pixels, (ceil(count / k), ceil(cols / k)).
    """

    first: int
    count: int
    binned: int
    shape: tuple[int, ...]
    values: np.ndarray

    def __post_init__(self) -> None:
        whole, part, bins = tuple(self.shape), self.values.shape, self.binned
        rows = whole[0] if whole else 0
        fits = (
            1 <= bins <= (MOST_BINNED if len(whole) == 2 else 1)
            and min(whole, default=0) >= 0
            and 0 <= self.first <= self.first + self.count <= rows
            and part == (_binned_shape((self.count, *whole[1:]), bins) if whole else ())
            and (bins == 1 or math.prod(whole) <= _MOST_PIXELS)
        )
        if self.values.dtype != np.float32 or not fits:
            raise ValueError(
                f"{shown(self.count)} rows from {shown(self.first)} of {shown(whole)}, binned by {shown(bins)}, are "
                f"{shown(self.values)}; expected float32 within it"
            )

    @property
    def whole(self) -> bool:
        return not self.shape or self.count == self.shape[0]

    def pixels(self) -> np.ndarray:
        """The rows with a value for each pixel, (count, ...) float64."""
        values = self.values.astype(np.float64)
        if self.binned == 1:
            return values
        for axis, n in enumerate((self.count, self.shape[1])):
            values = np.take(values, np.arange(n) // self.binned, axis)
        return values


class Changes:
    """The engine's end: what the session has seen, and what is new."""

    def __init__(self) -> None:
        self._number = -1
        self._there: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """The session may have nothing."""
        self._number, self._there = -1, {}

    def of(self, outputs: Mapping[str, np.ndarray], room: float = math.inf) -> tuple[int, dict[str, Rows]]:
        """Number of this preview, 0 for a whole one, and the rows that are not as in the one before.

        Images are binned, as little as will do, where all would take more than ``room`` bytes.
        """
        if outputs.keys() != self._there.keys():
            self.reset()
        now = {name: np.asarray(array, np.float32) for name, array in outputs.items()}
        known = self._there if self._number >= 0 else {}
        changed = {name: _changed(known.get(name), array) for name, array in now.items()}
        parts = {
            name: array[rows] if array.ndim else array
            for (name, array), rows in zip(now.items(), changed.values())
        }
        bins = 1
        while bins < MOST_BINNED and _nbytes(parts, bins) > room:
            bins *= 2
        rows = {
            name: Rows(
                changed[name].start,
                changed[name].stop - changed[name].start,
                bins if part.ndim == 2 else 1,
                now[name].shape,
                _binned(part, bins) if part.ndim == 2 and bins > 1 else part,
            )
            for name, part in parts.items()
        }
        self._there = now
        self._number += 1
        return self._number, rows


def _changed(before: np.ndarray | None, now: np.ndarray) -> slice:
    """The rows from the first to the last that changed; all that there are of what has another shape than before."""
    if now.ndim == 0:
        return slice(0, 0)
    if before is None or before.shape != now.shape or now.size == 0:
        return slice(0, len(now))
    differs = (before != now) & ~(np.isnan(before) & np.isnan(now))
    rows = np.flatnonzero(differs.reshape(len(now), -1).any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)


def _binned_shape(shape: tuple[int, ...], bins: int) -> tuple[int, ...]:
    return tuple(-(-n // bins) for n in shape)


def _nbytes(parts: Mapping[str, np.ndarray], bins: int) -> int:
    return sum(
        4 * math.prod(_binned_shape(part.shape, bins if part.ndim == 2 else 1)) for part in parts.values()
    )


def _binned(image: np.ndarray, bins: int) -> np.ndarray:
    """Means of the pixels with a value, NaN where none has one."""
    rows, cols = _binned_shape(image.shape, bins)
    padded = np.full((rows * bins, cols * bins), np.nan, np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = padded.reshape(rows, bins, cols, bins)
    there = ~np.isnan(blocks)
    sums = np.where(there, blocks, 0).sum(axis=(1, 3), dtype=np.float64)
    counts = there.sum(axis=(1, 3))
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0).astype(np.float32)


class Picture:
    """The session's end: the outputs as they are after each preview."""

    def __init__(self) -> None:
        self._number = -1
        self._outputs: dict[str, np.ndarray] = {}

    def update(self, number: int, rows: Mapping[str, Rows]) -> dict[str, np.ndarray] | None:
        """All outputs, float64; None where the preview builds on one that did not come.

        Raises ValueError for rows of an output that is not there.
        """
        if number == 0:
            self._outputs = {}
        elif number != self._number + 1:
            return None
        outputs = {}
        for name, part in rows.items():
            whole = self._outputs.get(name)
            if part.whole:
                whole = part.pixels()
            elif whole is None or whole.shape != tuple(part.shape):
                raise ValueError(f"rows of {shown(name)}, of which nothing came before")
            else:
                whole = whole.copy()  # others may look at the one before
                whole[part.first : part.first + part.count] = part.pixels()
            outputs[name] = whole
        self._number, self._outputs = number, outputs
        return dict(outputs)
