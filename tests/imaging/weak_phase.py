"""A scan of a weak phase object, to first order in the phase: known aberrations, no periodic edges, Poisson counts.

With a transmission 1 + i phase, a pixel at the spatial frequency k sees over the scan

    |Psi(k)|^2 + 2 Re sum_q i conj(Psi(k)) phase(q) Psi(k - q) exp(2 pi i q R),   Psi = A exp(-i chi)

which is exact to first order; one inverse transform a pixel. Lengths in A, angles in rad, pairs (row, col).
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft

from live4d_ophyd.calibration import Calibration, wavelength_m
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

ENERGY, SEMIANGLE = 300e3, 0.02


@dataclass(frozen=True)
class Truth:
    c10: float = -300.0
    c12: float = 60.0
    phi12: float = 0.29  #: in the scan's frame
    rotation: float = -12.0  #: degrees, from the detector to the scan


def phase_of_atoms(shape, step, rng, density=0.04, width=0.55, height=0.25):
    """Gaussian atoms at random, periodic, (rows, cols) rad; mean 0."""
    count = int(density * shape[0] * shape[1] * step**2)
    phase = np.zeros(shape)
    at = (rng.uniform(0, 1, (count, 2)) * shape).astype(int)
    np.add.at(phase, tuple(at.T), rng.uniform(0.3, 1.0, count))
    q = [scipy.fft.fftfreq(n, step) for n in shape]
    blur = np.exp(-2 * (np.pi * width) ** 2 * (q[0][:, None] ** 2 + q[1] ** 2))
    phase = scipy.fft.ifft2(scipy.fft.fft2(phase) * blur).real
    phase *= height * 2 * np.pi * (width / step) ** 2
    return phase - phase.mean()


def disk(radius, center, shape):
    """Intensity of the bright-field disk, with an edge of 1 px: (q_y, q_x), 1 in the middle."""
    y, x = (np.arange(n) - c for n, c in zip(shape, center))
    return np.clip(radius - np.hypot(y[:, None], x) + 0.5, 0, 1)


def scan_of(
    phase,
    step,
    truth,
    *,
    radius=15.0,
    center=(19.7, 20.4),
    shape=(40, 41),
    grid=None,
    electrons=2e4,
    rng=None,
):
    """Frames (positions, q_y, q_x) of the first rows and columns of ``phase``, which is given at the positions.

    Counts of ``electrons`` a frame if there is an ``rng``, else what is expected.
    """
    grid = grid or ScanGrid(64, 64, step=step / 10, unit="nm")
    wavelength = wavelength_m(ENERGY) * 1e10
    turn = np.radians(truth.rotation)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def wave(k_y, k_x):
        angle = wavelength * np.hypot(k_y, k_x)
        azimuth = np.arctan2(k_x, k_y)
        chi = np.pi / wavelength * angle**2 * (truth.c10 + truth.c12 * np.cos(2 * (azimuth - truth.phi12)))
        inside = np.clip((SEMIANGLE - angle) * radius / SEMIANGLE + 0.5, 0, 1)
        return np.sqrt(inside) * np.exp(-1j * chi)

    per_px = SEMIANGLE / radius / wavelength
    q_y, q_x = (scipy.fft.fftfreq(n, step) for n in phase.shape)
    spectrum = scipy.fft.fft2(phase)
    frames = np.zeros((grid.size, *shape))
    bright = disk(radius, center, shape)
    for row, col in np.argwhere(bright > 0):
        k_y, k_x = turned @ ((np.array([row, col]) - center) * per_px)
        here = wave(k_y, k_x)
        scattered = 1j * np.conj(here) * spectrum * wave(k_y - q_y[:, None], k_x - q_x)
        image = abs(here) ** 2 + 2 * scipy.fft.ifft2(scattered).real
        frames[:, row, col] = image[: grid.rows, : grid.cols].ravel()
    frames = np.clip(frames, 0, None) * (electrons / bright.sum())
    series = SeriesInfo(
        (1, 0), FrameFormat(*shape, np.dtype("uint16")), grid.size, energy=ENERGY,
        calibration=Calibration(center, radius, SEMIANGLE * 1e3 / radius),
    )  # fmt: skip
    return (frames if rng is None else rng.poisson(frames)), series, grid


def taken(method, frames, series, grid, positions=None):
    """What an accumulator holds after these frames."""
    positions = np.arange(grid.size) if positions is None else positions
    demand = method.demand(series, grid)
    flat = frames[positions].reshape(len(positions), *series.format.shape)
    sums = np.stack([flat[:, first : first + len(w)][:, w].sum(axis=1) for first, w in demand.bands], axis=1)
    part = method.accumulator(series, grid, None)
    part.add(positions, sums)
    return [part]
