"""Parallax: tilt-corrected bright field, with defocus, astigmatism and rotation found from the scan itself.

Each pixel of the bright-field disk sees the specimen under another angle: out of focus its image is shifted by the
gradient of the probe's aberration function chi. `Parallax` keeps images of groups of such pixels (tiles), fits their
shifts while rows come in, undoes them and sums. All vectors are (y, x) = (row, col).

    chi(alpha) = pi / lambda |alpha|^2 (C10 + C12 cos 2 (phi - phi12)),  probe A exp(-i chi),  C10 = -defocus
    shift that aligns a tile at the angle alpha of the detector: M alpha,  M = P R
    P = C10 + C12 [[cos 2 phi12, sin 2 phi12], [sin 2 phi12, -cos 2 phi12]] in the scan's frame
    R = [[cos t, -sin t], [sin t, cos t]], t the rotation from the detector to the scan

(Spoth et al., Microsc. Microanal. 23, 804 (2017); Varnavides et al., arXiv:2309.05250; the closed form of the
aberrations is that of any 2 x 2 matrix as a rotation and a reflection, each with a factor.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
import scipy.fft
from scipy import ndimage

from live4d_ophyd import checks
from live4d_ophyd.calibration import Calibration, checked_unit, wavelength_m
from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.dpc import optics_of, skewness_of
from live4d_ophyd.imaging.method import LENGTH, PIXELS, SCAN, UNIT, Output, Sums, checked_name, number
from live4d_ophyd.imaging.registration import faded, vertex
from live4d_ophyd.imaging.sidebands import Optics, aberrations, phase_of, probe_of, transfers
from live4d_ophyd.imaging.virtual_detectors import center_in_px, outputs_in_px, results_in_px
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: rows and columns that a fit looks at, at most: more make it no better, and later
_MOST_POSITIONS = 256
#: rows and columns without which nothing is fitted
_LEAST_POSITIONS = 8
#: as many as the bright-field disk of a frame of 192 px has pixels, and some
_MOST_TILES = 4096
#: of the images of tiles, GiB: an engine that asks for more than there is is killed without a word
_MOST_GIB = 16
#: tiles without which nothing is fitted
_LEAST_TILES = 12
#: over how many positions the edges of what is fitted fade
_FADE = 4
#: tiles that are taken together in one pass of the fit, along an axis: coarse to fine
_PASSES = (4, 3, 2, 1, 1, 1)
#: how many passes, the last ones, undo more of the optics than a shift
_REFINED = 2
# Of simulated scans, those whose C10 was more than 5 % off had at most 0.93 and at least 0.13, mostly 0.6 and 0.6;
# those of 20,000 electrons and 16 rows at least 0.95 and at most 0.18. Atoms at random repeat by 0.4 at most, lattices
# by 0.8.
_LEAST_AGREED, _MOST_RESIDUAL, _MOST_REPEATED = 0.95, 0.25, 0.6
# What simulated scans were off by: tiles share the specimen and the edges of the scan, so that their scatter about the
# fit says too little. Relative to C10 for C10 and C12, and degrees for the rotation.
_OF_SCATTER, _SYSTEMATIC = 4.0, (0.012, 0.008, 0.1)
# In depths of field, wavelength / semiangle^2. A specimen that is no weak phase object refracts: of simulated gold
# spheres C10 was 0.01 to 0.09 off wherever it was. Nearer to focus than the second number tiles differ by more than a
# shift, and fits found up to 8 nm more than the 15 or 25 nm there were, with errors below 1.
_OF_SPECIMEN, _NEAREST = 0.05, 1.5
#: of the image, in standard deviations of that of noise
_LEAST_SKEWNESS = 5.0
#: part of the whole weight without which a pixel of the image is NaN
_LEAST_COVERAGE = 0.1


class Reason(IntEnum):
    """Why there is no fit, as ``<name>_reason`` says it."""

    FITTED = 0  #: there is one
    TOO_FEW_POSITIONS = 1  #: fewer than 8 rows or columns have frames
    #: tiles do not show one image, shifted: vacuum, too few electrons, focus, a lattice, or shifts beyond ``search``
    NO_COMMON_IMAGE = 2
    PERIODIC = 3  #: the image repeats itself, so that shifts are known but for periods: a lattice
    #: C10 is below 1.5 depths of field (wavelength / semiangle^2), C12, or its own error; or rows and columns of the
    #: detector are exchanged
    NEAR_FOCUS = 4
    UNKNOWN_SIGN = 5  #: atoms are bright in neither of the two solutions: give ``rotation``


@dataclass(frozen=True)
class Tiles:
    """Groups of pixels of the bright-field disk."""

    maps: np.ndarray  #: (tiles, rows, q_x) bool
    first: int  #: the detector's row that is row 0 of ``maps``
    at: np.ndarray  #: (tiles, 2) where they are from the centre, px
    pixels: np.ndarray  #: (tiles,) how many there are
    pitch: float  #: px

    @property
    def members(self) -> list[np.ndarray]:
        """Where the pixels of each are from the centre, (pixels, 2) px."""
        each = (np.argwhere(one) for one in self.maps)
        return [one - one.mean(axis=0) + at for one, at in zip(each, self.at)]


@dataclass(frozen=True, eq=False)
class Fit:
    """What was found; NaN where ``reason`` is not FITTED."""

    reason: Reason
    matrix: np.ndarray = field(default_factory=lambda: np.full((2, 2), np.nan))  #: M, A a rad
    c10: float = math.nan  #: A
    c12: float = math.nan  #: A
    phi12: float = math.nan  #: rad, in the scan's frame
    rotation: float = math.nan  #: degrees
    #: errors of the four: of the tiles about the fit, and what simulated scans were off by besides
    errors: tuple[float, float, float, float] = (math.nan,) * 4
    residual: float = math.nan  #: median distance of tiles from the fit, scan positions

    @property
    def probe(self) -> np.ndarray:
        """P, (2, 2) A."""
        return probe_of(self.c10, self.c12, self.phi12)


@dataclass(frozen=True)
class Parallax:
    """The phase contrast of a defocused scan, sharp, and the probe's aberrations.

    ``<name>`` is the image at the scan's positions: relative intensity, mean 0, with phase flip, so that positive phase
    is bright. ``<name>_fine`` is the same on a grid ``upsampling`` times as fine, with the axes ``<name>_y`` and
    ``<name>_x``: it has what tiles see between positions, and the noise of that. Both are the weighted mean of the
    shifted tiles at each pixel; a missing frame leaves less weight, and a pixel with less than a tenth of the whole is
    NaN.

    With ``ssb`` there is ``<name>_phase`` (rad) at the scan's positions: that of a weak phase object, from the single
    sidebands of all tiles with the aberrations that were found (see `sidebands`). It has more frequencies than the
    image, each as strong as it is, but for those that hardly any tile sees. NaN is where it is NaN in the image.

    Fitted are ``<name>_C10`` and ``<name>_defocus`` = -C10 (A; positive is underfocus), ``<name>_C12`` (A),
    ``<name>_phi12`` (rad, from the scan's rows towards its columns) and ``<name>_rotation_used`` (degrees, from the
    detector to the scan, as of `DPC`), each with an error ``<name>_C10_error`` and so on, which is what fits of
    simulated scans were off by. ``<name>_residual`` is the median distance of tiles from the fit, scan positions.
    Through a thick specimen C10 is that of its middle.

    If nothing can be fitted, all of these are NaN and ``<name>_reason`` is not 0: see `Reason`.

    Of two solutions, half a turn and the sign of C10 and of the phase apart, frames cannot tell one. With ``rotation``
    it is the nearer one, without it that in which the bright tail of the image is the heavier one, as of atoms. Energy,
    calibration and the scan's step as a length must be known.
    """

    name: str
    #: (row, col), px; None is the centre of the calibration, and without one the middle of the frame
    center: tuple[float, float] | None = field(default=None, metadata=PIXELS)
    #: of the pixels that are used: within the edge of the bright-field disk
    radius: float = field(default=0.95, kw_only=True, metadata=LENGTH)
    #: what radius is in: "px", "mrad", or "bf", radii of the bright-field disk
    unit: str = field(default="bf", kw_only=True, metadata=UNIT)
    #: how many groups of pixels there are, at most; fewer are faster, and blur. As many as the disk has pixels: each is
    #: one, which is for recorded frames
    tiles: int = field(default=188, kw_only=True)
    #: pixels of the fine image a scan position, along an axis; 1: there is none
    upsampling: int = field(default=2, kw_only=True, metadata=UNIT)
    #: whether the phase is made, too
    ssb: bool = field(default=False, kw_only=True, metadata=UNIT)
    #: from the detector to the scan, degrees, to within 90; None: that of the calibration, with its transposition, and
    #: without one not known
    rotation: float | None = field(default=None, kw_only=True, metadata={"units": "deg"})
    #: whether rows and columns of the detector are exchanged before
    transpose: bool = field(default=False, kw_only=True)
    #: largest shift of a tile that is looked for, scan positions
    search: float = field(default=12.0, kw_only=True, metadata={"least": 1.0})
    #: False: nothing is made
    enabled: bool = field(default=True, kw_only=True)

    refit_rows: ClassVar[int] = 16

    def __post_init__(self) -> None:
        checked_name(self.name)
        checked_unit(self.name, self.unit)
        set_ = object.__setattr__
        if self.center is not None:
            row, col = self.center
            set_(self, "center", (number(f"{self.name}.center", row), number(f"{self.name}.center", col)))
        for name in ("radius", "search"):
            set_(self, name, number(f"{self.name}.{name}", getattr(self, name)))
        if self.radius <= 0:
            raise ValueError(f"{self.name}.radius is {self.radius:g} {self.unit}; expected more than 0")
        if self.search < 1:
            raise ValueError(f"{self.name}.search is {self.search:g}; expected at least 1 scan position")
        set_(self, "tiles", checks.whole(f"{self.name}.tiles", self.tiles, _LEAST_TILES, _MOST_TILES))
        set_(self, "upsampling", checks.whole(f"{self.name}.upsampling", self.upsampling, 1, 8))
        if self.rotation is not None:
            set_(self, "rotation", number(f"{self.name}.rotation", self.rotation))
        for name in ("ssb", "transpose", "enabled"):
            set_(self, name, checks.switch(f"{self.name}.{name}", getattr(self, name)))

    def on(self, shape: tuple[int, int], calibration: Calibration) -> Parallax:
        """The same in px, on frames of this shape."""
        radius = self.radius * calibration.in_px(self.unit, self.name)
        return replace(self, radius=radius, center=center_in_px(self.center, shape, calibration), unit="px")

    def tiles_on(self, series: SeriesInfo) -> Tiles:
        """The tiles of these frames. Raises ValueError where there are too few pixels."""
        shape = series.format.shape
        there = self.on(shape, series.calibration)
        assert there.center is not None
        y, x = np.ogrid[: shape[0], : shape[1]]
        inside = np.hypot(y - there.center[0], x - there.center[1]) <= there.radius
        if series.pixel_mask is not None:
            inside &= np.asarray(series.pixel_mask) == 0
        return tiles_of(inside, there.center, self.tiles, self.name)

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums:
        self._optics(series, scan)
        tiles = self.tiles_on(series)
        gib = len(tiles.maps) * scan.size * 4 / 2**30
        if gib > _MOST_GIB:
            raise ValueError(
                f"{self.name} has {len(tiles.maps)} tiles of {scan.rows} x {scan.cols} positions, {gib:.0f} GiB; "
                f"expected at most {_MOST_GIB} GiB: set {self.name}_tiles to "
                f"{int(len(tiles.maps) * _MOST_GIB / gib)} at most"
            )
        names = tuple(f"{self.name}, tile {number}" for number in range(len(tiles.maps)))
        return Sums(names, tuple((tiles.first, weights) for weights in tiles.maps))

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        name, units = self.name, {"C10": "A", "C12": "A", "phi12": "rad", "rotation": "deg"}
        images = {name: Output(SCAN, scan.shape)}
        if self.upsampling > 1:
            shape = (scan.rows * self.upsampling, scan.cols * self.upsampling)
            images[f"{name}_fine"] = Output((f"{name}_y", f"{name}_x"), shape)
        if self.ssb:
            images[f"{name}_phase"] = Output(SCAN, scan.shape, "rad")
        return {
            **images,
            f"{name}_C10": Output((), (), "A"),
            f"{name}_defocus": Output((), (), "A", hinted=True),
            f"{name}_C12": Output((), (), "A"),
            f"{name}_phi12": Output((), (), "rad"),
            f"{name}_rotation_used": Output((), (), "deg"),
            **{f"{name}_{what}_error": Output((), (), unit) for what, unit in units.items()},
            f"{name}_residual": Output((), ()),
            f"{name}_reason": Output((), ()),
            **outputs_in_px(self, name),
        }

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Scatter:
        return Scatter(scan, len(self.tiles_on(series).maps), device, dtype="float32")

    def refit(
        self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any], fit: Any, stop: Callable[[], bool]
    ) -> Fit:
        tiles = self.tiles_on(series)
        came = Scatter.came(parts, scan)
        rows, cols = (_middle(np.asarray(came.any(axis=axis))) for axis in (1, 0))
        stack = Scatter.merged(parts, scan, len(tiles.maps), rows, cols)
        seen = np.isfinite(stack).all(axis=0)
        if min(seen.shape) < _LEAST_POSITIONS or seen.sum() < _LEAST_POSITIONS**2:
            return Fit(Reason.TOO_FEW_POSITIONS)
        optics = self._optics(series, scan)
        deviations, weights = relative(stack, seen, tiles.pixels)
        if np.count_nonzero(weights) < _LEAST_TILES:
            return Fit(Reason.NO_COMMON_IMAGE)
        found = fitted_matrix(
            deviations, weights, self._angles(series, tiles.at, optics), tiles, optics, self.search, stop
        )
        if found is None:
            return Fit(Reason.TOO_FEW_POSITIONS)  # it was told to stop: nobody looks at it
        if found.agreed < _LEAST_AGREED or found.residual > _MOST_RESIDUAL:
            return Fit(Reason.NO_COMMON_IMAGE)
        if found.repeats > _MOST_REPEATED:
            return Fit(Reason.PERIODIC)
        rotation, _ = series.calibration.turn(self.rotation, self.transpose)
        solution = solved(found, rotation or 0.0, optics.depth)
        if abs(solution.c10) < max(solution.c12, 5 * solution.errors[0], _NEAREST * optics.depth):
            return Fit(Reason.NEAR_FOCUS)
        if rotation is None:
            image = image_of(
                deviations, weights, seen, self._angles(series, tiles.at, optics), optics, solution, 1
            )
            skewness = skewness_of(image[np.isfinite(image)])
            if abs(skewness) < _LEAST_SKEWNESS * math.sqrt(6 / seen.sum()):
                return Fit(Reason.UNKNOWN_SIGN)
            if skewness < 0:  # the other solution has the same image, dark for bright
                solution = solved(found, 180.0, optics.depth)
        return solution

    def results(
        self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any], fit: Any
    ) -> Mapping[str, np.ndarray]:
        known: Fit = fit or Fit(Reason.TOO_FEW_POSITIONS)
        name = self.name
        grids = {name: 1} if self.upsampling == 1 else {name: 1, f"{name}_fine": self.upsampling}
        images = {key: np.full((scan.rows * by, scan.cols * by), np.nan) for key, by in grids.items()}
        if self.ssb:
            images[f"{name}_phase"] = np.full(scan.shape, np.nan)
        if known.reason is Reason.FITTED and parts:
            tiles, optics = self.tiles_on(series), self._optics(series, scan)
            stack = Scatter.merged(parts, scan, len(tiles.maps))
            seen = np.isfinite(stack).all(axis=0)
            deviations, weights = relative(stack, seen, tiles.pixels)
            angles = self._angles(series, tiles.at, optics)
            for key, by in grids.items():
                images[key] = image_of(deviations, weights, seen, angles, optics, known, by)
            if self.ssb:
                pixels = [self._angles(series, members, optics) for members in tiles.members]
                images[f"{name}_phase"] = phase_image(deviations, weights, seen, pixels, optics, known)
        numbers = {
            "C10": known.c10,
            "defocus": -known.c10,
            "C12": known.c12,
            "phi12": known.phi12,
            "rotation_used": known.rotation,
            **dict(zip(("C10_error", "C12_error", "phi12_error", "rotation_error"), known.errors)),
            "residual": known.residual,
            "reason": float(known.reason),
        }
        return {
            **images,
            **{f"{name}_{key}": np.array(value) for key, value in numbers.items()},
            **results_in_px(self, name, series),
        }

    def _optics(self, series: SeriesInfo, scan: ScanGrid) -> Optics:
        metres, mrad, energy = optics_of(f"{self.name} fits lengths, and", series, scan)
        steps = (scan.steps[0] * metres * 1e10, scan.steps[1] * metres * 1e10)
        calibration = series.calibration
        disk = calibration.bf_radius or self.radius * calibration.in_px(self.unit, self.name)  # px
        return Optics(mrad * 1e-3, wavelength_m(energy) * 1e10, steps, disk * mrad * 1e-3)

    def _angles(self, series: SeriesInfo, at: np.ndarray, optics: Optics) -> np.ndarray:
        """Of places (n, 2) px from the centre, rad; rows and columns exchanged where they are on the detector."""
        _, transpose = series.calibration.turn(self.rotation, self.transpose)
        return (at[:, ::-1] if transpose else at) * optics.rad_per_px


# Tiles --------------------------------------------------------------------------------------------


def tiles_of(inside: np.ndarray, center: tuple[float, float], most: int, what: str) -> Tiles:
    """Square groups of the pixels ``inside`` (q_y, q_x), as many as there may be of one size.

    Raises ValueError that names ``what`` if there are fewer than `_LEAST_TILES`.
    """
    at = np.argwhere(inside) - np.array(center)
    pitch, group = max(1.0, 0.9 * math.sqrt(len(at) / most)), np.arange(len(at))
    while len(at) and group.max() + 1 > most:
        pitch *= 1.02
        group = np.unique(np.round(at / pitch).astype(int), axis=0, return_inverse=True)[1].ravel()
    count = int(group.max()) + 1 if len(at) else 0
    if count < _LEAST_TILES:
        raise ValueError(
            f"{what} has {count} tiles on its bright-field disk of {len(at)} pixels about row {center[0]:g}, col "
            f"{center[1]:g} px; expected at least {_LEAST_TILES}: check the calibration, the radius and the pixel mask"
        )
    pixels = np.bincount(group)
    mean = np.stack([np.bincount(group, at[:, axis]) / pixels for axis in (0, 1)], axis=1)
    rows = np.flatnonzero(inside.any(axis=1))
    maps = np.zeros((count, rows[-1] + 1 - rows[0], inside.shape[1]), bool)
    row, col = np.nonzero(inside)
    maps[group, row - rows[0], col] = True
    return Tiles(maps, int(rows[0]), mean, pixels, pitch)


def relative(stack: np.ndarray, seen: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of images (tiles, rows, cols) what they deviate from a plane, as a part of their mean; 0 where not ``seen``.

    And their weights, (tiles,): the counts a frame, 0 of a tile that is much darker than others. ``stack`` becomes the
    result: of a large scan another one would be gigabytes.
    """
    grid = np.indices(seen.shape)
    rows, cols = grid[0] - grid[0][seen].mean(), grid[1] - grid[1][seen].mean()
    design = (np.stack([np.ones(seen.shape), rows, cols]) * seen).reshape(3, -1)
    to_plane = (np.linalg.pinv(design @ design.T) @ design).astype(np.float32)
    design = design.astype(np.float32)
    flat = stack.reshape(len(stack), -1)
    flat[:, ~seen.ravel()] = 0.0
    plane = flat @ to_plane.T
    weights = plane[:, 0].astype(float)
    bright = weights / pixels
    weights[~(bright > 0.2 * np.median(bright))] = 0.0
    scales = np.divide(1.0, plane[:, 0], out=np.zeros(len(plane), np.float32), where=weights > 0)
    level = np.empty_like(flat[0])  # new memory for each would cost more than what is computed in it
    for image, its_plane, scale in zip(flat, plane, scales):
        image -= np.matmul(its_plane, design, out=level)
        image *= scale
    # What all tiles have in common without a shift is the beam's current, not the specimen.
    flat -= (weights / max(weights.sum(), 1.0)).astype(np.float32) @ flat
    return flat.reshape(stack.shape), weights


# The fit ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matrix:
    """M with the covariance of (M_yy, M_yx, M_xy, M_xx)."""

    matrix: np.ndarray  #: (2, 2) A a rad
    covariance: np.ndarray  #: (4, 4)
    residual: float  #: median distance of tiles from it, scan positions
    agreed: float  #: part of the counts in tiles nearer to it than 1 position
    repeats: float  #: correlation of the image with itself where it is highest next to no shift


def fitted_matrix(
    deviations: np.ndarray,
    weights: np.ndarray,
    angles: np.ndarray,
    tiles: Tiles,
    optics: Optics,
    search: float,
    stop: Callable[[], bool],
) -> Matrix | None:
    """The shifts of tiles as a linear function of their angles (tiles, 2) rad; None when it is told to stop.

    Cross-correlation with the sum of the tiles that are aligned already, coarse groups of tiles first, from the middle
    outwards; at the end with the sum of all others. Each pass begins with the matrix of the one before.
    """
    used = weights > 0
    deviations, weights, angles, at = deviations[used], weights[used], angles[used], tiles.at[used]
    n, m = deviations.shape[1:]
    fade = np.outer(faded(n, _FADE), faded(m, _FADE)).astype(np.float32)
    spectra = scipy.fft.rfft2(deviations * fade) * weights.astype(np.float32)[:, np.newaxis, np.newaxis]
    reach = min(search, min(n, m) / 2 - 2)
    steps = np.array(optics.steps)
    matrix = np.zeros((2, 2))  # scan positions a rad
    for turn, together in enumerate(_PASSES):
        cells, group = np.unique(
            np.round(at / (together * tiles.pitch)).astype(int), axis=0, return_inverse=True
        )
        group = group.ravel()
        mass = np.bincount(group, weights)
        mean = np.stack([np.bincount(group, weights * angles[:, axis]) / mass for axis in (0, 1)], axis=1)
        last = turn >= len(_PASSES) - _REFINED
        images = np.zeros((len(cells), *spectra.shape[1:]), spectra.dtype)
        if last:
            undone = (
                one.conj()
                for one in transfers(
                    matrix * steps[:, np.newaxis], 0.0, angles[:, np.newaxis], optics, (n, m)
                )
            )
        else:
            undone = (_ramp(shift, (n, m)) for shift in angles @ matrix.T)
        for image, spectrum, by in zip(group, spectra, undone):
            images[image] += spectrum * by
        order = np.argsort(np.hypot(*mean.T))
        shifts = np.zeros((len(cells), 2))
        everything = images.sum(axis=0) if last else None
        before = images[order[0]].copy()
        for image in order if everything is not None else order[1:]:
            if stop():
                return None
            if everything is not None:
                shifts[image] = shift_between(everything - images[image], images[image], (n, m), reach)
            else:
                shifts[image] = shift_between(before, images[image], (n, m), reach)
                before += images[image] * _ramp(shifts[image], (n, m))
        shifts += mean @ matrix.T
        design = np.column_stack([mean, np.ones(len(mean))])
        good = np.ones(len(mean), bool)
        for _ in range(2):
            solution = _least_squares(design[good], shifts[good], mass[good])
            apart = np.hypot(*(shifts - design @ solution).T)
            good = apart < max(1.0, 2.5 * float(np.median(apart)))
        matrix = solution[:2].T
    inverse = np.linalg.pinv((design[good].T * mass[good]) @ design[good])[:2, :2]
    left = shifts[good] - design[good] @ solution
    variance = (left**2 * mass[good, np.newaxis]).sum(axis=0) / max(good.sum() - 3, 1) * steps**2
    covariance = np.kron(np.diag(variance), inverse)
    agreed = float(mass[apart < 1.0].sum() / mass.sum())
    again = repeats(images[::2].sum(axis=0), images[1::2].sum(axis=0), fade)
    return Matrix(matrix * steps[:, np.newaxis], covariance, float(np.median(apart)), agreed, again)


def _least_squares(design: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    root = np.sqrt(weights)[:, np.newaxis]
    return np.linalg.lstsq(design * root, values * root, rcond=None)[0]


def shift_between(one: np.ndarray, other: np.ndarray, shape: tuple[int, int], reach: float) -> np.ndarray:
    """By which ``other`` is to be shifted, (y, x) positions, to lie on ``one``: spectra of scipy.fft.rfft2."""
    n, m = shape
    correlation = scipy.fft.irfft2(one * other.conj(), shape)
    far = math.floor(reach)
    near = np.arange(-far - 1, far + 2)
    patch = correlation[np.ix_(near % n, near % m)]
    inside = near[:, np.newaxis] ** 2 + near**2 <= reach**2
    y, x = np.unravel_index(np.argmax(np.where(inside, patch, -np.inf)), patch.shape)
    return np.array([near[y] + vertex(*patch[y - 1 : y + 2, x]), near[x] + vertex(*patch[y, x - 1 : x + 2])])


def repeats(one: np.ndarray, other: np.ndarray, fade: np.ndarray) -> float:
    """How far an image repeats itself: its correlation at the highest peak that is not the one in the middle.

    ``one`` and ``other`` are spectra of the same image, each with noise of its own; ``fade`` is what it was faded with.
    """
    n, m = fade.shape
    correlation = scipy.fft.irfft2(one * other.conj(), fade.shape)
    overlap = scipy.fft.irfft2(np.abs(scipy.fft.rfft2(fade)) ** 2, fade.shape)
    near = [np.arange(-size // 2 + 2, size // 2 - 1) for size in (n, m)]
    patch = (correlation / np.maximum(overlap, 0.1 * overlap[0, 0]))[np.ix_(near[0] % n, near[1] % m)]
    peak = ndimage.maximum_filter(patch, size=3, mode="nearest") == patch
    peak[near[0] == 0, near[1] == 0] = False
    peak &= np.maximum(np.abs(near[0])[:, np.newaxis], np.abs(near[1])) > 1
    middle = patch[np.ix_(near[0] == 0, near[1] == 0)].item()
    return float(patch[peak].max() / middle) if peak.any() and middle > 0 else 0.0


def _ramp(shift: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """What multiplies a spectrum of scipy.fft.rfft2 to shift the image."""
    y = np.exp(-2j * math.pi * shift[0] * scipy.fft.fftfreq(shape[0]))
    x = np.exp(-2j * math.pi * shift[1] * scipy.fft.rfftfreq(shape[1]))
    return np.outer(y, x).astype(np.complex64)


def _middle(there: np.ndarray) -> slice:
    """Around the middle of what is there, at most `_MOST_POSITIONS`."""
    at = np.flatnonzero(there)
    if not len(at):
        return slice(0, 0)
    first = max(int(at[0]), (int(at[0]) + int(at[-1]) + 1 - _MOST_POSITIONS) // 2)
    return slice(first, min(int(at[-1]) + 1, first + _MOST_POSITIONS))


def solved(found: Matrix, about: float, depth: float) -> Fit:
    """Aberrations of a matrix, with errors: of the two solutions the one whose rotation is within 90 of ``about``.

    ``depth`` is the depth of field, A.
    """
    values = np.array(aberrations(found.matrix, about))
    size, c12 = np.abs(values[:2]).tolist()
    slopes = np.empty((4, 4))
    delta = 1e-4 * max(np.abs(found.matrix).max(), 1e-9)
    for entry in range(4):
        moved = found.matrix.copy()
        moved.flat[entry] += delta
        change = np.array(aberrations(moved, values[3])) - values
        change[2] -= math.pi * round(change[2] / math.pi)
        change[3] -= 360 * round(change[3] / 360)
        slopes[:, entry] = change / delta
    scatter = np.sqrt(np.einsum("ij,jk,ik->i", slopes, found.covariance, slopes))
    by_c10, by_c12 = math.hypot(size * _SYSTEMATIC[0], _OF_SPECIMEN * depth), size * _SYSTEMATIC[1]
    systematic = by_c10, by_c12, by_c12 / (2 * max(c12, 1e-9)), _SYSTEMATIC[2]
    errors = np.hypot(_OF_SCATTER * scatter, systematic)
    errors[2] = min(errors[2], math.pi / 2)
    c10, c12, phi12, rotation = values.tolist()
    return Fit(Reason.FITTED, found.matrix, c10, c12, phi12, rotation, tuple(errors.tolist()), found.residual)


# The image ----------------------------------------------------------------------------------------


def image_of(
    deviations: np.ndarray,
    weights: np.ndarray,
    seen: np.ndarray,
    angles: np.ndarray,
    optics: Optics,
    fit: Fit,
    upsampling: int,
) -> np.ndarray:
    """Tiles as of `relative`, shifted by the fit, summed and flipped: (rows, cols) of a grid so much finer."""
    shifts = angles @ fit.matrix.T / np.array(optics.steps)
    image = summed(deviations, weights, seen, shifts, upsampling)
    steps = optics.steps[0] / upsampling, optics.steps[1] / upsampling
    return flipped(
        image, fit.probe, optics.wavelength, steps, math.ceil(2 * upsampling * np.abs(shifts).max())
    )


def summed(
    deviations: np.ndarray, weights: np.ndarray, seen: np.ndarray, shifts: np.ndarray, upsampling: int
) -> np.ndarray:
    """Weighted mean of tiles (tiles, rows, cols) after ``shifts`` (tiles, 2) positions, on the finer grid.

    Each value goes to the nearest pixel. Pixels between, where few values are, are interpolated from those around.
    """
    total = placed(deviations, weights, shifts, seen.shape, upsampling)
    weight = placed(repeat(seen), weights, shifts, seen.shape, upsampling)
    whole = weights.sum() / upsampling**2
    wide_total, wide_weight = (_spread(part, upsampling) for part in (total, weight))
    image = np.full(total.shape, np.nan)
    np.divide(wide_total, wide_weight, out=image, where=wide_weight > _LEAST_COVERAGE * whole * upsampling**2)
    np.divide(total, weight, out=image, where=weight > 0.25 * whole)
    return image


def phase_image(
    deviations: np.ndarray,
    weights: np.ndarray,
    seen: np.ndarray,
    pixels: Sequence[np.ndarray],
    optics: Optics,
    fit: Fit,
) -> np.ndarray:
    """The weak phase of tiles as of `relative` with ``pixels`` as of `phase_of`: (rows, cols) rad.

    Where frames are missing, and at the edges, fewer counts see it: it is divided by their part.
    """
    middles = np.array([angles.mean(axis=0) for angles in pixels])
    shifts = middles @ fit.matrix.T / np.array(optics.steps)
    part = placed(repeat(seen), weights, shifts, seen.shape, 1) / weights.sum()
    phase = phase_of(deviations, weights, pixels, optics, fit.matrix, fit.rotation)
    return np.divide(phase, part, out=np.full(seen.shape, np.nan), where=part > _LEAST_COVERAGE)


def placed(
    images: Iterable[np.ndarray],
    weights: np.ndarray,
    shifts: np.ndarray,
    shape: tuple[int, int],
    upsampling: int,
) -> np.ndarray:
    """Weighted sum of images (rows, cols) of a ``shape`` after shifts: each value at the finer grid's nearest pixel.

    A shift puts all values of an image on one of the grids that the finer one consists of: that lies in one piece here.
    """
    grids = np.zeros((upsampling, upsampling, *shape))
    weighted = np.empty(shape)
    for image, mass, shift in zip(images, weights, np.rint(shifts * upsampling).astype(int)):
        (down, row), (right, col) = (divmod(by, upsampling) for by in shift.tolist())
        (from_y, to_y), (from_x, to_x) = _overlap(shape[0], down), _overlap(shape[1], right)
        np.multiply(image, mass, out=weighted)
        grids[row, col, to_y, to_x] += weighted[from_y, from_x]
    return grids.transpose(2, 0, 3, 1).reshape([n * upsampling for n in shape])


def _overlap(n: int, by: int) -> tuple[slice, slice]:
    """Of n positions those that stay among them when shifted, and where they come to be."""
    first, last = min(n, max(0, -by)), max(0, min(n, n - by))
    return slice(first, max(first, last)), slice(first + by, max(first, last) + by)


def _spread(image: np.ndarray, upsampling: int) -> np.ndarray:
    """Convolved with a triangle as wide as the distance of two positions: linear interpolation between them."""
    triangle = 1 - np.abs(np.arange(1 - upsampling, upsampling)) / upsampling
    for axis in (0, 1):
        image = ndimage.convolve1d(image, triangle, axis=axis, mode="constant")
    return image


def flipped(
    image: np.ndarray, probe: np.ndarray, wavelength: float, steps: tuple[float, float], margin: int
) -> np.ndarray:
    """The image times sign(sin chi) at each of its frequencies; NaN stays. ``margin``: px that it spreads over."""
    there = np.isfinite(image)
    shape = tuple(scipy.fft.next_fast_len(n + margin, real=True) for n in image.shape)
    y, x = scipy.fft.fftfreq(shape[0], steps[0])[:, np.newaxis], scipy.fft.rfftfreq(shape[1], steps[1])
    chi = math.pi * wavelength * (probe[0, 0] * y**2 + 2 * probe[0, 1] * y * x + probe[1, 1] * x**2)
    spectrum = scipy.fft.rfft2(np.where(there, image, 0.0), shape) * np.sign(np.sin(chi))
    return np.where(there, scipy.fft.irfft2(spectrum, shape)[: image.shape[0], : image.shape[1]], np.nan)
