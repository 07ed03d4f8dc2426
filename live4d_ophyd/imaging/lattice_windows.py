"""Windows about the diffraction disks of a lattice, and their weight maps: counts, first moments, background.

In: centre, lattice vectors and radius of the disks, and the pixel mask. Out: `Windows`, and of each disk a `Maps`.
Plain NumPy, any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from live4d_ophyd.imaging.lattice_search import LEAST_GAP, around
from live4d_ophyd.imaging.strain_kernels import LEAST_DISKS, LEAST_RING, RING
from live4d_ophyd.sources.source import SeriesInfo

#: part of a window's pixels that may be bad
_MOST_BAD = 0.1
#: orders along each vector that are looked at
_ORDERS = 9
#: lattice points about one whose disks might be in its ring of background
_AROUND = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if h or k], float)


@dataclass(frozen=True, eq=False)
class Windows:
    """Disks that are looked at, the nearest to the centre first: where they are without strain."""

    orders: np.ndarray  #: (disks, 2) of g1 and g2
    at: np.ndarray  #: (disks, 2) px
    start: np.ndarray  #: (3, 2) centre, g1, g2, px
    radius: float  #: of the disks, px
    margin: float  #: of the windows beyond them, px
    shortest: float  #: distance of two disks, px

    @property
    def reach(self) -> float:
        """Radius of the windows."""
        return self.radius + self.margin

    @property
    def widest(self) -> float:
        """Radius of a window that leaves out the disks beside its own, wherever a little strain moves them."""
        return self.radius + 0.8 * (self.shortest - 2 * self.radius)

    def background(self) -> np.ndarray:
        """Pixels of the ring about any window, (n, 2) from its middle; none where there are too few."""
        ring = around(self.start[1:], self.reach, RING)
        return ring if len(ring) >= LEAST_RING else ring[:0]


def bad_pixels(series: SeriesInfo) -> np.ndarray:
    """(q_y, q_x) bool."""
    if series.pixel_mask is None:
        return np.zeros(series.format.shape, bool)
    return np.asarray(series.pixel_mask) != 0


def windows_of(
    name: str,
    series: SeriesInfo,
    center: tuple[float, float],
    basis: np.ndarray,
    radius: float,
    margin: float,
    most: int,
) -> Windows:
    """At most so many disks at ``center`` + h ``basis[0]`` + k ``basis[1]`` (row, col) px, in pairs of g and -g.

    Windows reach ``margin`` beyond the disks, less where two would meet. Raises ValueError that names ``name`` where
    disks meet, and where too few lie on the frame and on good pixels.
    """
    shape, lengths = series.format.shape, np.hypot(*basis.T)
    if not abs(np.linalg.det(basis)) > 0.1 * lengths[0] * lengths[1]:
        raise ValueError(
            f"{name}.g1 is {_in_px(basis[0])} and {name}.g2 is {_in_px(basis[1])}; expected two directions"
        )
    along = np.arange(-_ORDERS, _ORDERS + 1)
    orders = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    away = np.hypot(*(orders @ basis).T)
    shortest = float(np.min(away[away > 0]))
    if shortest < 2 * radius + LEAST_GAP:
        raise ValueError(
            f"disks of {name} with a radius of {radius:.1f} px are {shortest:.1f} px apart; expected at least "
            f"{2 * radius + LEAST_GAP:.1f} px, as they must not meet: take a smaller convergence angle"
        )
    margin = min(margin, shortest / 2 - radius)
    at, bad = np.array(center) + orders @ basis, bad_pixels(series)
    chosen: list[int] = []
    for n in np.argsort(away, kind="stable").tolist():
        if tuple(orders[n]) < (0, 0):
            continue  # it comes with the opposite one
        opposite = len(orders) - 1 - n
        pair = sorted({n, opposite}, reverse=True)
        if len(chosen) + len(pair) > most:
            break
        chosen += [m for m in pair if _is_seen(at[m], radius + margin, bad)]
    if len(chosen) <= LEAST_DISKS:
        raise ValueError(
            f"{name} has {len(chosen)} disks with good pixels on frames of {shape[0]} x {shape[1]} px, about row "
            f"{center[0]:.1f}, col {center[1]:.1f} px and of radius {radius:.1f} px; expected at least "
            f"{LEAST_DISKS + 1}: check lattice, centre and pixel mask, or take a shorter camera length"
        )
    start = np.array([center, *basis], float)
    return Windows(orders[chosen].astype(float), at[chosen], start, float(radius), float(margin), shortest)


def _in_px(vector: np.ndarray) -> str:
    return f"({vector[0]:g}, {vector[1]:g}) px"


def _is_seen(at: np.ndarray, reach: float, bad: np.ndarray) -> bool:
    """Whether a window lies on the frame, nearly all of it on good pixels."""
    if (at - reach < -0.5).any() or (at + reach > np.array(bad.shape) - 0.5).any():
        return False
    rows, cols, distance = _box(at, reach, bad.shape)
    return float(bad[rows, cols][distance <= reach].mean()) <= _MOST_BAD


def _box(at: np.ndarray, reach: float, shape: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """The pixels near a place, and their distance from it."""
    top, left = np.clip(np.floor(at - reach), 0, None).astype(int)
    bottom, right = np.minimum(np.ceil(at + reach) + 1, shape).astype(int)
    rows, cols = slice(int(top), int(bottom)), slice(int(left), int(right))
    return rows, cols, _distance(at, rows, cols)


def _distance(at: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
    down = np.arange(rows.start, rows.stop)[:, np.newaxis] - at[0]
    return np.hypot(down, np.arange(cols.start, cols.stop) - at[1])


@dataclass(frozen=True, eq=False)
class Maps:
    """Of one disk: its weight maps, and what their sums are to be corrected for."""

    first: int  #: row of the detector that is row 0 of the maps
    maps: np.ndarray  #: (4, rows, q_x) int64: counts, rows, columns, ring
    origin: tuple[float, float]  #: of the moments, less what bad pixels move an even disk by, px
    window: int  #: good pixels of the window
    moments: tuple[float, float]  #: of these
    ring: int  #: good pixels of the background; 0: there are too few, and its map is that of the window


def maps_of(windows: Windows, disk: int, bad: np.ndarray) -> Maps:
    """Of a disk, by its number; ``bad`` (q_y, q_x) pixels weigh nothing, as the engine sees to."""
    at, reach = windows.at[disk], windows.reach
    rows, cols, distance = _box(at, reach + RING, bad.shape)
    good = ~bad[rows, cols]
    ring = (distance > reach) & (distance <= reach + RING) & good
    for neighbour in at + _AROUND @ windows.start[1:]:
        ring &= _distance(neighbour, rows, cols) > reach
    whole = (distance <= reach).astype(np.int64)
    enough = int(ring.sum()) >= LEAST_RING
    # About a whole pixel, for exact sums.
    row, col = round(float(at[0])), round(float(at[1]))
    y, x = np.arange(rows.start, rows.stop)[:, np.newaxis] - row, np.arange(cols.start, cols.stop) - col
    maps = np.zeros((4, len(y), bad.shape[1]), np.int64)
    for one, weights in zip(maps, (whole, whole * y, whole * x, ring if enough else whole)):
        one[:, cols] = weights
    seen = whole * good
    # Bad pixels move the centre of mass of a disk that is even: by so much, where it is without strain.
    even = np.clip(windows.radius + 0.5 - distance, 0, 1)
    moved = [
        float((even * seen * axis).sum() / (even * seen).sum() - (even * axis).sum() / even.sum())
        for axis in (y, x)
    ]
    moments = float((seen * y).sum()), float((seen * x).sum())
    origin = row - moved[0], col - moved[1]
    return Maps(rows.start, maps, origin, int(seen.sum()), moments, int(ring.sum()) if enough else 0)
