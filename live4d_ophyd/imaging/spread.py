"""Spread: the weight of bad pixels given to their good neighbours, so that a sum is as if they counted their mean.

In: the demand of methods, and a pixel mask. Out: maps without weight on bad pixels that have good neighbours, and what
the sums under them are divided by. Integer maps stay integers: shares are k / n of a weight, so maps are multiplied by
the least common multiple of all n. Their sums are then exact, and equal on every backend. Any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from live4d_ophyd.imaging.method import Sums

_AROUND = [(row, col) for row in (-1, 0, 1) for col in (-1, 0, 1) if (row, col) != (0, 0)]


def good_neighbours(mask: np.ndarray) -> np.ndarray:
    """How many of the 8 neighbours of each pixel are good, (q_y, q_x) int64; ``mask`` (q_y, q_x) bool, True is bad."""
    good = np.pad(~np.asarray(mask, bool), 1).astype(np.int64)
    rows, cols = np.shape(mask)
    return sum(good[1 + row : 1 + row + rows, 1 + col : 1 + col + cols] for row, col in _AROUND)  # type: ignore[return-value]


def spread_sums(
    sums: Mapping[str, Sums], mask: np.ndarray, dtype: np.dtype
) -> tuple[dict[str, Sums], np.ndarray | None]:
    """The demands of methods with the weight of bad pixels on their good neighbours in the 3 x 3 around them, equally.

    Also what the sums of each map are divided by then, (maps,) float64; None where that is 1 for all. Demands
    that are not to be `spread` stay as they are. ``mask``
    ``(q_y, q_x)`` bool, True is bad: those without a good neighbour keep their weight, which is for the caller to take
    from them. ``dtype`` of the pixels: integer maps whose sums might not fit int64 become floats. The same as
    multiplying maps with frames in which bad pixels hold the mean of their good neighbours (LiberTEM's
    ``correct_dot_masks``).
    """
    counts = good_neighbours(mask)
    repaired = np.asarray(mask, bool) & (counts > 0)
    divisors: list[int] = []
    demands = {}
    for name, demand in sums.items():
        if not demand.spread:
            demands[name] = demand
            divisors += [1] * len(demand.bands)
            continue
        spread = [_spread(first, weights, repaired, mask, counts, dtype) for first, weights in demand.bands]
        demands[name] = replace(demand, bands=tuple((first, weights) for first, weights, _ in spread))
        divisors += [divisor for _, _, divisor in spread]
    return demands, np.array(divisors, np.float64) if any(divisor != 1 for divisor in divisors) else None


def _spread(
    first: int,
    weights: np.ndarray,
    repaired: np.ndarray,
    mask: np.ndarray,
    counts: np.ndarray,
    dtype: np.dtype,
) -> tuple[int, np.ndarray, int]:
    """Of one map: its first row, its weights times the divisor, and that."""
    rows, cols = np.nonzero(repaired[first : first + len(weights)] & (weights != 0))
    if not len(rows):
        return first, weights, 1
    moved, rows = weights[rows, cols], rows + first
    shares = counts[rows, cols]
    divisor = int(np.lcm.reduce(shares)) if weights.dtype.kind in "biu" else 1
    if weights.dtype.kind in "biu" and not _fits(weights, divisor, dtype):
        weights, divisor = weights.astype(np.float64), 1
    exact = weights.dtype.kind in "biu"
    # A row more on either side, as neighbours may be outside of the map.
    begin, end = max(0, first - 1), min(len(mask), first + len(weights) + 1)
    out = np.zeros((end - begin, weights.shape[1]), np.int64 if exact else np.float64)
    out[first - begin : first - begin + len(weights)] = weights
    out *= divisor
    out[rows - begin, cols] = 0
    share = moved.astype(np.int64) * (divisor // shares) if exact else moved / shares
    for row, col in _AROUND:
        y, x = rows + row, cols + col
        there = (y >= 0) & (y < len(mask)) & (x >= 0) & (x < weights.shape[1])
        there[there] = ~mask[y[there], x[there]]
        np.add.at(out, (y[there] - begin, x[there]), share[there])
    return begin, out, divisor


def _fits(weights: np.ndarray, divisor: int, dtype: np.dtype) -> bool:
    """Whether sums of all pixels fit int64."""
    if dtype.kind not in "iu":
        return True
    total = float(np.abs(weights, dtype=np.float64).sum()) * divisor
    return total * float(np.iinfo(dtype).max) < 2**62
