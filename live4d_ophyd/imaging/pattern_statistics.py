"""MaxPattern, StdPattern and LastPattern: patterns made of all frames of a raster, pixel by pixel.

As of `MeanPattern`: pixels that hold no count are left out; a pixel that never held one, and a masked pixel, is NaN.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from live4d_ophyd.imaging.accumulators import on_host
from live4d_ophyd.imaging.mean_pattern import OfPatterns
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: pixels that are worked on at once: as float64 they stay in the cache
_AT_ONCE = 1 << 17


class _Partials:
    """One state of a raster for each thread that adds, which no other thread changes."""

    def __init__(self, series: SeriesInfo, new: Callable[[], Any]) -> None:
        self._new = new
        self._limit = series.saturation
        self._of_thread: dict[int, Any] = {}

    def mine(self) -> Any:
        thread = threading.get_ident()
        if thread not in self._of_thread:
            self._of_thread[thread] = self._new()
        return self._of_thread[thread]

    def counts(self, patterns: Any) -> Any:
        """(n, q_y, q_x) as float64, NaN where a pixel holds no count."""
        xp = array_namespace(patterns)
        values = xp.astype(patterns, xp.float64)
        return values if self._limit is None else xp.where(values >= self._limit, xp.nan, values)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the states, on the host. It takes no more frames there."""
        states = [_on_host(state) for state in list(self._of_thread.values())]
        return {"_limit": self._limit, "_of_thread": dict(enumerate(states))}

    @staticmethod
    def of(parts: Sequence[_Partials]) -> list[Any]:
        return [state for part in parts for state in list(part._of_thread.values())]


def _on_host(state: Any) -> Any:
    """A state with NumPy's arrays in it."""
    if isinstance(state, list):
        return [_on_host(item) for item in state]
    return state if state is None or isinstance(state, int) else on_host(state)


def _pieces(patterns: Any) -> list[Any]:
    """The frames in lots that are small enough to be float64 for a moment."""
    lot = max(1, _AT_ONCE // max(1, patterns.shape[1] * patterns.shape[2]))
    return [patterns[first : first + lot] for first in range(0, len(patterns), lot)]


class _Maximum(_Partials):
    def __init__(self, series: SeriesInfo, device: Any) -> None:
        super().__init__(series, lambda: _filled(series.format.shape, -np.inf, device))

    def add(self, positions: Any, patterns: Any) -> None:
        mine = self.mine()
        xp = array_namespace(mine)
        for piece in _pieces(patterns):
            values = self.counts(piece)
            highest = xp.max(xp.where(xp.isnan(values), -xp.inf, values), axis=0)
            mine[...] = xp.where(highest > mine, highest, mine)


class _Moments(_Partials):
    """How many, their mean, and the sum of squared deviations from it: two of them merge without cancellation.

    (Chan, Golub and LeVeque, Am. Stat. 37, 242 (1983).)
    """

    def __init__(self, series: SeriesInfo, device: Any) -> None:
        super().__init__(series, lambda: _filled((3, *series.format.shape), 0.0, device))

    def add(self, positions: Any, patterns: Any) -> None:
        mine = self.mine()
        xp = array_namespace(mine)
        for piece in _pieces(patterns):
            values = self.counts(piece)
            there = ~xp.isnan(values)
            count = xp.sum(xp.astype(there, xp.float64), axis=0)
            mean = xp.sum(xp.where(there, values, 0.0), axis=0) / xp.where(count > 0, count, 1.0)
            away = xp.where(there, values - mean, 0.0)
            mine[...] = _together(mine, xp.stack([count, mean, xp.sum(away * away, axis=0)]))


def _together(one: Any, other: Any) -> Any:
    """The moments (3, q_y, q_x) of two sets of frames as those of all."""
    xp = array_namespace(one)
    count = one[0] + other[0]
    share = other[0] / xp.where(count > 0, count, 1.0)
    apart = other[1] - one[1]
    return xp.stack([count, one[1] + apart * share, one[2] + other[2] + apart * apart * one[0] * share])


class _Newest(_Partials):
    """The frame of the highest position, and that position."""

    def __init__(self, series: SeriesInfo, device: Any) -> None:
        super().__init__(series, lambda: [-1, None])

    def add(self, positions: Any, patterns: Any) -> None:
        if len(positions) == 0:
            return
        where = np.asarray(on_host(positions))
        newest, mine = int(where.argmax()), self.mine()
        if where[newest] > mine[0]:
            # A new list would not be seen by who reads now; both at once, so that nobody sees one without the other.
            mine[:] = int(where[newest]), self.counts(patterns[newest : newest + 1])[0]


def _filled(shape: tuple[int, ...], value: float, device: Any) -> Any:
    if device is None:
        return np.full(shape, value)
    import torch

    return torch.full(shape, value, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class _OfStates(OfPatterns):
    """A pattern that is made of the states of `_Partials`."""

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        states = _Partials.of(parts)
        shape = series.format.shape
        pattern = self._pattern(states, shape) if states else np.full(shape, np.nan)
        if series.pixel_mask is not None:
            pattern[series.pixel_mask] = np.nan
        return {self.name: pattern}

    def _pattern(self, states: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
        """``shape`` (q_y, q_x) float64, a new array, of the states of all threads."""
        raise NotImplementedError


@dataclass(frozen=True)
class MaxPattern(_OfStates):
    """The highest count of each pixel in a raster, (q_y, q_x): weak spots that few positions have."""

    name: str = "max_pattern"

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> _Maximum:
        return _Maximum(series, device)

    def _pattern(self, states: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
        highest = np.max([on_host(state) for state in states], axis=0)
        return np.where(np.isneginf(highest), np.nan, highest)


@dataclass(frozen=True)
class StdPattern(_OfStates):
    """Standard deviation of each pixel over a raster, (q_y, q_x) counts, of all frames: their number divides."""

    name: str = "std_pattern"

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> _Moments:
        return _Moments(series, device)

    def _pattern(self, states: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
        whole, *others = (on_host(state) for state in states)
        for other in others:
            whole = _together(whole, other)
        count, _, squares = whole
        deviation = np.full(count.shape, np.nan)
        np.sqrt(squares / np.maximum(count, 1), out=deviation, where=count > 0)
        return deviation


@dataclass(frozen=True)
class LastPattern(_OfStates):
    """The frame of the last position of a raster that came, (q_y, q_x) counts; rows are one behind the other."""

    name: str = "last_pattern"

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> _Newest:
        return _Newest(series, device)

    def _pattern(self, states: Sequence[Any], shape: tuple[int, int]) -> np.ndarray:
        _, newest = max((tuple(state) for state in states), key=lambda state: state[0])
        # In mid-raster a thread may have begun, and added nothing yet.
        return np.full(shape, np.nan) if newest is None else np.array(on_host(newest))
