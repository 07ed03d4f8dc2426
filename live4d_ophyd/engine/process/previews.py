"""Previews over a link: of each output only the rows that changed since the preview before, as float32. Both ends.

A raster grows by rows: most previews are small, whatever the scan's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from live4d_ophyd.checks import shown


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an output from ``first`` on, float32; all of it where ``shape`` is its shape."""

    first: int
    shape: tuple[int, ...]
    values: np.ndarray

    def __post_init__(self) -> None:
        whole, part = tuple(self.shape), self.values.shape
        fits = len(whole) == len(part) and whole[1:] == part[1:]
        if (
            self.values.dtype != np.float32
            or not fits
            or not 0 <= self.first <= (whole or (0,))[0] - (part or (0,))[0]
        ):
            raise ValueError(
                f"rows from {shown(self.first)} of {shown(whole)} are {shown(self.values)}; expected float32 within it"
            )


class Changes:
    """The engine's end: what the session has, and what is new."""

    def __init__(self) -> None:
        self._number = -1
        self._there: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """The session may have nothing."""
        self._number, self._there = -1, {}

    def of(self, outputs: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Rows]]:
        """Number of this preview, 0 for a whole one, and the rows that are not as in the one before."""
        if outputs.keys() != self._there.keys():
            self.reset()
        rows = {}
        for name, array in outputs.items():
            now = np.asarray(array, np.float32)
            rows[name] = _changed(self._there.get(name) if self._number >= 0 else None, now)
            self._there[name] = now
        self._number += 1
        return self._number, rows


def _changed(before: np.ndarray | None, now: np.ndarray) -> Rows:
    if before is None or before.shape != now.shape or now.size == 0 or now.ndim == 0:
        return Rows(0, now.shape, now)
    differs = (before != now) & ~(np.isnan(before) & np.isnan(now))
    rows = np.flatnonzero(differs.reshape(len(now), -1).any(axis=1))
    first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    return Rows(first, now.shape, now[first:end])


class Picture:
    """The session's end: the outputs as they are after each preview."""

    def __init__(self) -> None:
        self._number = -1
        self._outputs: dict[str, np.ndarray] = {}

    def take(self, number: int, rows: Mapping[str, Rows]) -> dict[str, np.ndarray] | None:
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
            if part.values.shape == tuple(part.shape):
                whole = part.values.astype(np.float64)
            elif whole is None or whole.shape != tuple(part.shape):
                raise ValueError(f"rows of {shown(name)}, of which nothing came before")
            else:
                whole = whole.copy()  # others may look at the one before
                whole[part.first : part.first + len(part.values)] = part.values
            outputs[name] = whole
        self._number, self._outputs = number, outputs
        return dict(outputs)
