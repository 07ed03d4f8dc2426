"""Strain: how the lattice under the probe differs from a reference, from where the diffraction disks are.

There are two ways to the lattice of a position. Windows about where disks are without strain, by exact integer sums:
counts and their moments give the places of the disks, a weighted least squares fit gives the lattice. Or, with
``refine``, decoded frames: windows follow the disks, and the edges of the disks give places with less noise. Where
these find no lattice near the reference, a search looks for one further away.

    g = F^-T g_ref for both vectors, so that F = G^-1 G_ref with the vectors as rows of G
    e = (F + F^T) / 2 - 1,  theta = (F_cr - F_rc) / 2,  in the frame of the scan

(Windows: Mueller et al., Microsc. Microanal. 18, 995 (2012). The finite tensor and its signs are those of quantem.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.imaging.accumulators import Scatter, on_host
from live4d_ophyd.imaging.lattice_windows import Maps, Windows, bad_pixels, maps_of, windows_of
from live4d_ophyd.imaging.method import PIXELS, SCAN, Output, Patterns, Sums, checked_name, number
from live4d_ophyd.imaging.strain_kernels import (
    FITTED,
    LEAST_DISKS,
    NUMBERS,
    OUTSIDE,
    SEARCHED,
    fit_moments,
    fit_patterns,
)
from live4d_ophyd.imaging.virtual_detectors import center_in_px
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: frames that are taken from a batch at once: as float32 they stay in the cache
_AT_ONCE = 32

REFERENCES = ("scan", "region", "lattice")


class Reason(IntEnum):
    """Why no position has a strain, as ``<name>_reason`` says it."""

    FITTED = 0  #: positions have one
    NO_FRAMES = 1  #: none came yet
    NO_DISKS = 2  #: fewer than 4 disks have counts anywhere: vacuum, too few electrons, or another lattice
    OUTSIDE = (
        3  #: disks are not in their windows, or no search found a lattice: another one, or larger strain
    )
    NO_REFERENCE = 4  #: no position of the region has a lattice


@dataclass(frozen=True)
class Strain:
    """Maps of the strain of a crystal, in the frame of the scan, relative to a lattice of reference.

    ``<name>_e_rr`` (along the scan's rows, its y), ``<name>_e_cc`` (along its columns, x) and ``<name>_e_rc`` are the
    finite strain, with no unit, and positive where the crystal is stretched; ``<name>_theta`` is its rotation, degrees,
    from the rows towards the columns. ``<name>_residual`` is the rms distance of disks from the fitted lattice, px,
    ``<name>_indexed`` the part of the disks that were used, and ``<name>_error`` the standard deviation of e_rr and
    e_cc that their counts leave, with 0.1 px (0.05 px with ``refine``) of each disk besides. ``<name>_mapped`` is the
    part of the positions that came which have a strain; a position with fewer than 4 disks on one lattice is NaN.
    ``<name>_searched`` is the part of the positions that came whose lattice a search found. If none has a strain, all
    maps are NaN and ``<name>_reason`` is not 0: see `Reason`. ``<name>_reference_g1_row`` and so on are the reference,
    px.

    The plan `calibrate_lattice` measures centre, g1, g2 and radius. Windows stay where these say: disks may move by
    ``margin`` under strain and descan. With ``refine`` windows follow the disks; that takes decoded frames. A position
    where that finds no lattice, or one that is more than 10 % of the shortest vector away, is searched, as far as a
    third of it: 0.1 ms of a core where there is none, 0.6 ms with the second fit, of frames of 192 x 192 px.
    """

    name: str
    #: (row, col), px; None is the centre of the calibration, and without one the middle of the frame
    center: tuple[float, float] | None = field(default=None, metadata=PIXELS)
    #: vectors of the lattice on the detector without strain, (row, col), px; None: not known
    g1: tuple[float, float] | None = field(default=None, kw_only=True, metadata=PIXELS)
    g2: tuple[float, float] | None = field(default=None, kw_only=True, metadata=PIXELS)
    #: of each disk, px; None is the radius of the bright-field disk that the calibration has
    radius: float | None = field(default=None, kw_only=True, metadata={"units": "px", "least": 0.0})
    #: how far windows reach beyond disks, px, at most: they never meet
    margin: float = field(default=1.5, kw_only=True, metadata={"units": "px", "least": 0.5})
    #: how many disks are looked at, at most, the nearest to the centre
    disks: int = field(default=13, kw_only=True)
    #: what has no strain: the median of the "scan" or of the "region", or the "lattice" as it is set
    reference: str = field(default="scan", kw_only=True)
    #: two opposite corners in the scan, (row, col) of positions, both included
    region: tuple[tuple[float, float], ...] = field(default=((0.0, 0.0), (0.0, 0.0)), kw_only=True)
    #: from the detector to the scan, degrees, as of `DPC`; None is that of the calibration, and without one 0
    rotation: float | None = field(default=None, kw_only=True, metadata={"units": "deg"})
    #: whether rows and columns of the detector are exchanged before; used where a rotation is given
    transpose: bool = field(default=False, kw_only=True)
    #: whether edges of disks are fitted, from decoded frames, with a search where strain is large
    refine: bool = field(default=False, kw_only=True)
    #: False: nothing is made
    enabled: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        checked_name(self.name)
        set_ = object.__setattr__
        for name in ("center", "g1", "g2"):
            if (value := getattr(self, name)) is not None:
                row, col = value
                set_(self, name, (number(f"{self.name}.{name}", row), number(f"{self.name}.{name}", col)))
        if self.radius is not None:
            set_(self, "radius", number(f"{self.name}.radius", self.radius))
            if not self.radius >= 1:
                raise ValueError(f"{self.name}.radius is {self.radius:g} px; expected at least 1")
        for name in ("margin", "rotation"):
            if (value := getattr(self, name)) is not None:
                set_(self, name, number(f"{self.name}.{name}", value))
        if self.margin < 0.5:
            raise ValueError(f"{self.name}.margin is {self.margin:g} px; expected at least 0.5")
        set_(self, "disks", checks.whole(f"{self.name}.disks", self.disks, LEAST_DISKS + 1, 199))
        if self.reference not in REFERENCES:
            raise ValueError(
                f"{self.name}.reference is {checks.shown(self.reference)}; expected one of {', '.join(REFERENCES)}"
            )
        region = tuple(tuple(number(f"{self.name}.region", x) for x in corner) for corner in self.region)
        if len(region) != 2 or any(len(corner) != 2 for corner in region):
            raise ValueError(
                f"{self.name}.region is {self.region!r}; expected two corners (row, col) in the scan"
            )
        set_(self, "region", region)
        for name in ("transpose", "refine", "enabled"):
            set_(self, name, checks.switch(f"{self.name}.{name}", getattr(self, name)))

    # The contract of methods --------------------------------------------------------------------

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums | Patterns:
        windows = self.windows_on(series)
        self._region_on(scan)
        if self.refine:
            return Patterns()
        names, bands = [], []
        for number_, of in enumerate(_maps(windows, series)):
            names += [
                f"{self.name}, {what} of disk {number_}" for what in ("counts", "rows", "columns", "ring")
            ]
            bands += [(of.first, one) for one in of.maps]
        # `maps_of` knows what bad pixels take from a disk: their neighbours' mean would move it once more.
        return Sums(tuple(names), tuple(bands), spread=False)

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        name, shape = self.name, scan.shape
        vectors = [f"{name}_reference_{g}_{axis}" for g in ("g1", "g2") for axis in ("row", "col")]
        return {
            **{f"{name}_{what}": Output(SCAN, shape, symmetric=True) for what in ("e_rr", "e_cc", "e_rc")},
            f"{name}_theta": Output(SCAN, shape, "deg", symmetric=True),
            f"{name}_residual": Output(SCAN, shape, "px"),
            f"{name}_indexed": Output(SCAN, shape),
            f"{name}_error": Output(SCAN, shape, preview=False),
            f"{name}_mapped": Output((), (), hinted=True),
            f"{name}_searched": Output((), ()),
            f"{name}_reason": Output((), ()),
            **{key: Output((), (), "px", preview=False) for key in vectors},
        }

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Any:
        windows = self.windows_on(series)
        if self.refine:
            return _OfPatterns(windows, series, scan)
        return Scatter(scan, 4 * len(windows.at), device, dtype="float32")

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        lattices, status = self._lattices(series, scan, parts)
        reference = self._reference(lattices, scan)
        maps = np.full((4, *scan.shape), np.nan)
        came = int((status >= 0).sum())
        mapped = (status == FITTED) | (status == SEARCHED)
        if not came:
            reason = Reason.NO_FRAMES
        elif not mapped.any():
            reason = Reason.OUTSIDE if 2 * (status == OUTSIDE).sum() > came else Reason.NO_DISKS
        elif np.isnan(reference).any():
            reason = Reason.NO_REFERENCE
        else:
            reason = Reason.FITTED
            rotation, transpose = series.calibration.turn(self.rotation, self.transpose)
            vectors = lattices[mapped][:, 2:6].reshape(-1, 2, 2)
            maps[:, mapped] = strains(vectors, reference, rotation or 0.0, transpose).T
        name = self.name
        numbers = dict(zip(("g1_row", "g1_col", "g2_row", "g2_col"), reference.ravel()))
        return {
            **{f"{name}_{what}": one for what, one in zip(("e_rr", "e_cc", "e_rc"), maps)},
            f"{name}_theta": np.degrees(maps[3]),
            f"{name}_residual": lattices[..., 6].copy(),
            f"{name}_indexed": lattices[..., 7].copy(),
            f"{name}_error": lattices[..., 8].copy(),
            f"{name}_mapped": np.array(mapped.sum() / came if came else math.nan),
            f"{name}_searched": np.array((status == SEARCHED).sum() / came if came else math.nan),
            f"{name}_reason": np.array(float(reason)),
            **{f"{name}_reference_{key}": np.array(value) for key, value in numbers.items()},
        }

    # Its parts ------------------------------------------------------------------------------------

    def windows_on(self, series: SeriesInfo) -> Windows:
        """The disks on these frames. Raises ValueError if the lattice is not known, or does not fit the frames."""
        shape, calibration = series.format.shape, series.calibration
        if self.g1 is None or self.g2 is None:
            raise ValueError(
                f"{self.name} has no lattice: run calibrate_lattice, or set {self.name}_g1 and {self.name}_g2"
            )
        radius = calibration.in_px("bf", self.name) if self.radius is None else self.radius
        center = center_in_px(self.center, shape, calibration)
        basis = np.array([self.g1, self.g2])
        return windows_of(self.name, series, center, basis, radius, self.margin, self.disks)

    def _lattices(
        self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """NUMBERS of each position (rows, cols, NUMBERS), and why it has none (rows, cols)."""
        if self.refine:
            values = Scatter.merged([part.values for part in parts], scan, NUMBERS + 1)
            status = np.where(np.isnan(values[-1]), -1, values[-1]).astype(np.int64)
            return np.ascontiguousarray(np.moveaxis(values[:-1], 0, -1)), status
        windows = self.windows_on(series)
        sums = Scatter.merged(parts, scan, 4 * len(windows.at)).reshape(len(windows.at), 4, scan.size)
        maps = _maps(windows, series)
        lattices, status = np.empty((scan.size, NUMBERS)), np.empty(scan.size, np.int64)
        fit_moments(
            sums.astype(np.float32, copy=False), windows.orders, windows.at,
            np.array([of.origin for of in maps], float), np.array([of.window for of in maps], float),
            np.array([of.moments for of in maps], float), np.array([of.ring for of in maps], float),
            windows.radius, windows.reach, windows.margin, lattices, status,
        )  # fmt: skip
        return lattices.reshape(*scan.shape, NUMBERS), status.reshape(scan.shape)

    def _reference(self, lattices: np.ndarray, scan: ScanGrid) -> np.ndarray:
        """Vectors without strain, the rows of (2, 2); NaN where there are none."""
        if self.reference == "lattice":
            return np.array([self.g1, self.g2], float)
        there = lattices if self.reference == "scan" else lattices[self._region_on(scan)]
        vectors = there[..., 2:6].reshape(-1, 4)
        vectors = vectors[np.isfinite(vectors[:, 0])]
        return (np.median(vectors, axis=0) if len(vectors) else np.full(4, np.nan)).reshape(2, 2)

    def _region_on(self, scan: ScanGrid) -> tuple[slice, slice]:
        """The region's positions. Raises ValueError where it is the reference and lies outside the scan."""
        corners = np.round(np.sort(np.array(self.region), axis=0)).astype(int)
        if self.reference == "region" and not ((corners >= 0) & (corners < np.array(scan.shape))).all():
            raise ValueError(
                f"{self.name}.region is {self.region}; expected two corners within the scan of {scan.rows} x "
                f"{scan.cols} positions"
            )
        (top, left), (bottom, right) = corners.tolist()
        return slice(top, bottom + 1), slice(left, right + 1)


def strains(vectors: np.ndarray, reference: np.ndarray, rotation: float, transpose: bool) -> np.ndarray:
    """e_rr, e_cc, e_rc and theta (rad), (n, 4), of lattices with ``vectors`` (n, 2, 2) px on the detector.

    g1 and g2 are rows, as in ``reference`` (2, 2). ``rotation`` (degrees) and ``transpose`` lead into the scan's frame.
    """
    gradient = np.linalg.solve(vectors, np.broadcast_to(reference, vectors.shape))
    c, s = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    turn = np.array([[c, -s], [s, c]])
    if transpose:
        turn = turn[:, ::-1]
    f = turn @ gradient @ turn.T
    return np.stack(
        [f[:, 0, 0] - 1, f[:, 1, 1] - 1, (f[:, 0, 1] + f[:, 1, 0]) / 2, (f[:, 1, 0] - f[:, 0, 1]) / 2], axis=1
    )


def _maps(windows: Windows, series: SeriesInfo) -> list[Maps]:
    bad = bad_pixels(series)
    return [maps_of(windows, disk, bad) for disk in range(len(windows.at))]


# Of patterns --------------------------------------------------------------------------------------


class _OfPatterns:
    """The lattice of each frame, fitted where it comes in; frames of a GPU are copied to the host."""

    def __init__(self, windows: Windows, series: SeriesInfo, scan: ScanGrid) -> None:
        self.values = Scatter(scan, NUMBERS + 1)
        self._windows = windows
        self._good, self._background = ~bad_pixels(series), windows.background()
        self._limit = math.inf if series.saturation is None else float(series.saturation)

    def add(self, positions: Any, patterns: Any) -> None:
        """``patterns`` (n, q_y, q_x)."""
        windows, found = self._windows, np.empty((len(positions), NUMBERS + 1))
        lattices, status = np.empty((len(positions), NUMBERS)), np.empty(len(positions), np.int64)
        for first in range(0, len(positions), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            # Of one type, for one kernel. Counts above 2^24 are rounded, to less than their noise.
            fit_patterns(
                np.ascontiguousarray(on_host(patterns[some]), np.float32), self._good, self._limit, windows.start,
                windows.orders, self._background, windows.radius, windows.reach, windows.widest, windows.shortest / 2,
                windows.margin, lattices[some], status[some],
            )  # fmt: skip
        found[:, :-1], found[:, -1] = lattices, status
        self.values.add(on_host(positions), found)
