"""The simulated microscope, its specimen and its detector: the model behind the patterns (patterns.py).

In: the state of the microscope, the scan and the detector's geometry. Out: the specimen's transmission, the
aperture function, and the truth about the frames. Pure NumPy/SciPy on the calling thread.

Model (lengths in nm, angles in rad inside, every pair is (row, col)): the probe's aperture function on the
detector's own pixel grid is ``A exp(-i chi)`` with ``chi = (pi/lambda) alpha**2 (C10 + C12 cos 2(phi -
phi12))`` and ``C10 = -defocus``; the specimen multiplies the wave by ``exp(i phase)``; a frame is the
squared modulus of its Fourier transform, times the electrons of the dwell time, with Poisson counts.

The specimen is a fixed, periodic field of glassy heavy-metal spheres on a light film, atoms as Gaussian phase
bumps strong enough to scatter like gold at 100 keV. What is left out: thickness effects (one slice),
thermal diffuse and inelastic scattering, partial coherence, the detector's point spread.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import scipy.fft
from scipy import constants

ELEMENTARY_CHARGE_C = constants.e

#: largest edge of the simulated wave, px; a larger detector sees nothing further out
MAX_WINDOW = 192


@dataclass(frozen=True)
class Microscope:
    """State of the column and the stage."""

    #: underfocus is positive: C10 = -defocus
    defocus_nm: float = 0.0
    #: two-fold astigmatism C12
    astigmatism_nm: float = 0.0
    #: azimuth of C12, from the detector's row axis towards its columns
    astigmatism_angle_deg: float = 0.0
    #: a positive value moves the field of view towards larger columns of the specimen
    stage_x_nm: float = 0.0
    #: a positive value moves the field of view towards larger rows of the specimen
    stage_y_nm: float = 0.0
    #: the specimen moves so far towards larger columns while one raster is scanned
    drift_x_nm: float = 0.0
    #: the same towards larger rows
    drift_y_nm: float = 0.0
    beam_current_pA: float = 100.0
    #: half angle of the probe
    semiangle_mrad: float = 10.0
    energy_eV: float = 100e3
    #: 1: the beam is spread evenly over the detector, without a specimen; 0: it is a probe
    flood: float = 0.0

    @property
    def wavelength_nm(self) -> float:
        """Relativistic electron wavelength."""
        energy = self.energy_eV * constants.e
        momentum = math.sqrt(2 * constants.m_e * energy * (1 + energy / (2 * constants.m_e * constants.c**2)))
        return constants.h / momentum * 1e9

    def moved_by(self, row_nm: float, col_nm: float) -> Microscope:
        """The same with the stage so much further."""
        return replace(self, stage_y_nm=self.stage_y_nm + row_nm, stage_x_nm=self.stage_x_nm + col_nm)

    def electrons(self, dwell_s: float) -> float:
        """Mean number of electrons in ``dwell_s``."""
        return self.beam_current_pA * 1e-12 * dwell_s / ELEMENTARY_CHARGE_C


@dataclass(frozen=True)
class Scan:
    """What the scan generator does with the probe: rows are slow, columns fast."""

    rows: int = 64
    cols: int = 64
    #: distance of neighbouring positions: one number, or along rows and columns of the image (scan_y, scan_x)
    step_nm: float | tuple[float, float] = 0.25
    #: odd lines run backwards
    serpentine: bool = False
    #: frames while the probe returns after each line, on its straight way
    flyback: int = 0
    #: also after the last line, then to the first position
    last_flyback: bool = True
    #: frames at the first position before the raster
    lead_in: int = 0
    #: from the specimen's columns to the scan's fast axis, towards its rows
    rotation_deg: float = 0.0

    @property
    def steps_nm(self) -> tuple[float, float]:
        """(scan_y, scan_x)"""
        return self.step_nm if isinstance(self.step_nm, tuple) else (self.step_nm, self.step_nm)

    @property
    def frames(self) -> int:
        """Frames of one raster."""
        flybacks = self.rows if self.last_flyback else self.rows - 1
        return self.lead_in + self.rows * self.cols + flybacks * self.flyback

    def positions_nm(self) -> np.ndarray:
        """Probe positions about the middle of the field of view in order of time, ``(frames, 2) float64``."""
        y = (np.arange(self.rows) - (self.rows - 1) / 2) * self.steps_nm[0]
        x = (np.arange(self.cols) - (self.cols - 1) / 2) * self.steps_nm[1]
        lines = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
        if self.serpentine:
            lines[1::2] = lines[1::2, ::-1].copy()
        way = np.arange(1, self.flyback + 1)[:, None] / (self.flyback + 1)
        ends, begins = lines[:, -1:], np.roll(lines[:, :1], -1, axis=0)
        path = np.concatenate([lines, ends + (begins - ends) * way], axis=1).reshape(-1, 2)
        path = np.concatenate([np.repeat(path[:1], self.lead_in, axis=0), path])[: self.frames]
        turn = math.radians(self.rotation_deg)
        fast, slow = (math.sin(turn), math.cos(turn)), (math.cos(turn), -math.sin(turn))
        return path[:, :1] * np.array(slow) + path[:, 1:] * np.array(fast)

    def as_header(self) -> dict[str, object]:
        """What the header of a stream says of it, by the names of a ScanGrid."""
        values: dict[str, object] = {
            name: getattr(self, name) for name in ("rows", "cols", "serpentine", "flyback")
        }
        values |= {"last_flyback": self.last_flyback, "lead_in": self.lead_in}
        return values | {"step": list(self.steps_nm), "unit": "nm", "rotation_deg": self.rotation_deg}


@dataclass(frozen=True)
class Detector:
    """Shape of the detector and where the bright-field disk falls on it."""

    rows: int = 96
    cols: int = 96
    #: centre of the bright-field disk (row, col), px; ``None``: a little off the middle
    bf_center_px: tuple[float, float] | None = None
    #: radius of the bright-field disk, px; ``None``: 15 on 96 pixels, in proportion elsewhere
    bf_radius_px: float | None = None
    #: major over minor semi-axis of the disk, whose area stays, and the major one's angle from rows towards columns
    bf_ellipticity: float = 1.0
    bf_ellipse_angle_deg: float = 0.0

    @property
    def window(self) -> int:
        """Edge of the simulated square, px."""
        return min(self.rows, self.cols, MAX_WINDOW) // 2 * 2

    @property
    def bf_radius(self) -> float:
        return 15.0 * self.window / 96 if self.bf_radius_px is None else self.bf_radius_px

    @property
    def bf_center(self) -> tuple[float, float]:
        if self.bf_center_px is not None:
            return self.bf_center_px
        off = self.window / 96
        return ((self.rows - 1) / 2 - 0.7 * off, (self.cols - 1) / 2 + 1.4 * off)

    def check(self) -> None:
        """Raises ValueError where patterns make no sense or the specimen would need too fine a grid."""
        if min(self.rows, self.cols) < 16:
            raise ValueError(f"detector of {self.rows}x{self.cols} px: expected at least 16x16")
        if not 1 <= self.bf_ellipticity <= 1.5:
            raise ValueError(f"bf_ellipticity is {self.bf_ellipticity}: expected 1 to 1.5")
        low, high = 0.06 * self.window, 0.4 * self.window
        if not low <= self.bf_radius <= high:
            raise ValueError(f"bf_radius is {self.bf_radius} px: expected {low:.1f} to {high:.1f} here")
        for name, centre, edge in zip(("row", "column"), self.bf_center, (self.rows, self.cols)):
            if not self.bf_radius < centre < edge - 1 - self.bf_radius:
                raise ValueError(f"bf_center has {name} {centre}: the disk does not fit on {edge} px")

    @property
    def origin(self) -> tuple[int, int]:
        """First detector pixel (row, col) of the simulated square."""
        return tuple(  # type: ignore[return-value]
            min(max(round(c - (self.window - 1) / 2), 0), n - self.window)
            for c, n in zip(self.bf_center, (self.rows, self.cols))
        )


class PhaseObject(Hashable, Protocol):
    """What the beam goes through: hashable, as its phase is kept."""

    def phase(self, pixel_nm: float) -> np.ndarray:
        """Projected phase on a periodic grid, ``(n, n) float32``, rad."""


@dataclass(frozen=True)
class Specimen:
    """Spheres of heavy atoms on a film of light ones; one seed is one specimen for every detector."""

    seed: int = 7
    #: period of the field in both directions
    size_nm: float = 90.0
    #: smallest and largest radius of the spheres
    radius_nm: tuple[float, float] = (0.7, 2.1)
    #: share of the area that spheres cover
    coverage: float = 0.27
    #: atoms of the spheres (gold)
    atoms_per_nm3: float = 59.0
    #: integral of one atom's phase: with the width below, a cross-section of 2e-3 nm2 (gold at 100 keV)
    atom_phase_rad_nm2: float = 0.0087
    #: standard deviation of an atom's phase
    atom_width_nm: float = 0.055
    #: film: atoms of an eighth of that phase, a 3 nm thick amorphous carbon foil
    film_atoms_per_nm2: float = 300.0
    film_phase_rad_nm2: float = 0.0011

    def spheres(self) -> np.ndarray:
        """Row, column and radius in nm, ``(n, 3) float64``: packed at random, hardly overlapping."""
        rng = np.random.default_rng([self.seed, 1])
        placed = np.empty((0, 3))
        covered = 0.0
        while covered < self.coverage * self.size_nm**2:
            small, large = self.radius_nm
            radius = small + (large - small) * rng.beta(2.0, 2.5)
            centre = rng.uniform(0, self.size_nm, 2)
            apart = np.abs(placed[:, :2] - centre)
            distance = np.hypot(*np.minimum(apart, self.size_nm - apart).T)
            if np.all(distance > 0.9 * (placed[:, 2] + radius)):
                placed = np.vstack([placed, [*centre, radius]])
                covered += math.pi * radius**2
        return placed

    def phase(self, pixel_nm: float) -> np.ndarray:
        """Projected phase on a periodic grid, ``(n, n) float32``, rad."""
        n = scipy.fft.next_fast_len(math.ceil(self.size_nm / pixel_nm))
        thickness = np.zeros((n, n))
        for row, col, radius in self.spheres():
            reach = math.ceil(radius / pixel_nm) + 1
            near = np.arange(-reach, reach + 1)
            rows, cols = round(row / pixel_nm) + near, round(col / pixel_nm) + near
            apart2 = (rows * pixel_nm - row)[:, None] ** 2 + (cols * pixel_nm - col)[None, :] ** 2
            chord = 2 * np.sqrt(np.clip(radius**2 - apart2, 0, None))
            thickness[np.ix_(rows % n, cols % n)] += chord
        rng = np.random.default_rng([self.seed, 2])
        heavy = rng.poisson(thickness * self.atoms_per_nm3 * pixel_nm**2)
        light = rng.poisson(self.film_atoms_per_nm2 * pixel_nm**2, (n, n))
        bumps = heavy * self.atom_phase_rad_nm2 + light * self.film_phase_rad_nm2
        q = scipy.fft.fftfreq(n, pixel_nm)
        q_half = scipy.fft.rfftfreq(n, pixel_nm)
        atom = np.exp(-2 * (math.pi * self.atom_width_nm) ** 2 * (q[:, None] ** 2 + q_half[None, :] ** 2))
        spectrum = scipy.fft.rfft2(bumps / pixel_nm**2, workers=1) * atom
        return scipy.fft.irfft2(spectrum, (n, n), workers=1).astype(np.float32)


@lru_cache(maxsize=2)
def transmission(specimen: PhaseObject, pixel_nm: float, window: int) -> np.ndarray:
    """exp(i phase), continued periodically by one window: ``(n + window, n + window) complex64``."""
    phase = np.pad(specimen.phase(pixel_nm), (0, window), mode="wrap")
    return np.exp(1j * phase).astype(np.complex64)


@dataclass(frozen=True)
class Truth:
    """What a perfect measurement would find."""

    #: (row, col) px
    bf_center: tuple[float, float]
    #: px
    bf_radius: float
    bf_ellipticity: float
    bf_ellipse_angle_deg: float
    mrad_per_px: float
    wavelength_nm: float
    #: edge of the simulated wave in the specimen plane; patterns are valid while |defocus| < max_defocus_nm
    window_nm: float
    #: defocus at which the probe's geometric shadow fills the simulated wave
    max_defocus_nm: float


def truth(microscope: Microscope, detector: Detector) -> Truth:
    """Geometry of the bright-field disk and the limits of the simulation."""
    step = microscope.semiangle_mrad * 1e-3 / detector.bf_radius
    window = microscope.wavelength_nm / step
    return Truth(
        bf_center=detector.bf_center,
        bf_radius=detector.bf_radius,
        bf_ellipticity=detector.bf_ellipticity,
        bf_ellipse_angle_deg=detector.bf_ellipse_angle_deg,
        mrad_per_px=step * 1e3,
        wavelength_nm=microscope.wavelength_nm,
        window_nm=window,
        max_defocus_nm=window / 2 / (microscope.semiangle_mrad * 1e-3),
    )


def aperture(microscope: Microscope, detector: Detector) -> np.ndarray:
    """Aperture function on the detector's simulated square, ``(n, n) complex64``, intensities sum to 1."""
    n = detector.window
    step = microscope.semiangle_mrad * 1e-3 / detector.bf_radius
    row, col = ((np.arange(n) + o - c) * step for o, c in zip(detector.origin, detector.bf_center))
    alpha = np.hypot(row[:, None], col[None, :])
    azimuth = np.arctan2(col[None, :], row[:, None])
    # The intensity falls linearly over the pixel that the edge crosses: the disk's area is exact.
    edge = np.hypot(*_on_circle(row[:, None], col[None, :], detector))
    intensity = np.clip((microscope.semiangle_mrad * 1e-3 - edge) / step + 0.5, 0, 1)
    angle = math.radians(microscope.astigmatism_angle_deg)
    c10, c12 = -microscope.defocus_nm, microscope.astigmatism_nm
    chi = math.pi / microscope.wavelength_nm * alpha**2 * (c10 + c12 * np.cos(2 * (azimuth - angle)))
    wave = np.sqrt(intensity) * np.exp(-1j * chi)
    return (wave / np.sqrt(intensity.sum())).astype(np.complex64)


def _on_circle(row: np.ndarray, col: np.ndarray, detector: Detector) -> tuple[np.ndarray, np.ndarray]:
    """Where positions of the elliptical disk, from its centre, are on a circle of the same area: (major, minor)."""
    turn, stretch = math.radians(detector.bf_ellipse_angle_deg), math.sqrt(detector.bf_ellipticity)
    major = math.cos(turn) * row + math.sin(turn) * col
    minor = math.cos(turn) * col - math.sin(turn) * row
    return major / stretch, minor * stretch
