"""Diffraction patterns of a scan, any part of it at a time: what the counts of frames are drawn from.

In: specimen, microscope, detector, probe positions. Out: noise-free patterns, also in the two bytes a pixel in
which they are kept. Numba and SciPy without the GIL on the calling thread.

One Fourier transform a pattern: the probe at its sub-pixel place comes from a table of ``PLACES x PLACES`` probes. A
position is off by at most ``1 / (2 PLACES)`` of a pixel of the wave, 4 pm on 96x96 pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numba import njit

from live4d_ophyd.frames.memory import NOGIL
from live4d_ophyd.sim.specimen import Detector, Microscope, PhaseObject, aperture, transmission, truth

#: sub-pixel places of the probe along an axis
PLACES = 8

#: patterns computed at once: a batch of 96x96 complex64 stays inside a core's cache
BATCH = 32


@njit(**NOGIL)
def _exit_waves(transmission, corners, probes, places, out):
    """Probe times specimen. Written out: it is twice as fast as the product of complex numbers."""
    edge = out.shape[1]
    for b in range(len(out)):
        top, left = corners[b, 0], corners[b, 1]
        probe = probes[places[b]]
        for r in range(edge):
            for c in range(edge):
                p, t = probe[r, c], transmission[top + r, left + c]
                out[b, r, c] = complex(p.real * t.real - p.imag * t.imag, p.real * t.imag + p.imag * t.real)


# Without fastmath a maximum would be taken one number after the other.
@njit(**NOGIL, fastmath=True)
def _quantise(waves, out, units):
    """``out`` are amplitudes in such units that a pattern's largest is 65535; ``units`` make intensities of them."""
    edge = waves.shape[1]
    intensity = np.empty(edge * edge, np.float32)
    for b in range(len(waves)):
        wave = waves[b].ravel()
        for i in range(len(intensity)):
            intensity[i] = wave[i].real * wave[i].real + wave[i].imag * wave[i].imag
        highest = np.float32(0.0)
        for i in range(len(intensity)):
            highest = max(highest, intensity[i])
        units[b] = highest / 65535.0**2
        scale = np.float32(65535.0) / np.sqrt(highest)
        amplitudes = out[b].ravel()
        for i in range(len(intensity)):
            amplitudes[i] = np.uint16(np.sqrt(intensity[i]) * scale + np.float32(0.5))


@dataclass(frozen=True)
class Quantised:
    """Patterns as they are kept: ``amplitudes**2 * units`` is the pattern, within 1e-3 of it where electrons are."""

    #: ``(b, n, n) uint16``
    amplitudes: np.ndarray
    #: ``(b,) float64``
    units: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.amplitudes.nbytes + self.units.nbytes

    @property
    def patterns(self) -> np.ndarray:
        """``(b, n, n) float64``"""
        return self.amplitudes.astype(float) ** 2 * self.units[:, None, None]


class Flood:
    """A beam spread evenly over the simulated square, without a specimen: the same pattern everywhere."""

    def __init__(self, detector: Detector) -> None:
        self.edge = detector.window

    def quantised(self, positions_nm: np.ndarray) -> Quantised:
        """As of `Optics`."""
        frames = len(positions_nm)
        unit = 1.0 / (65535.0 * self.edge) ** 2
        return Quantised(np.full((frames, self.edge, self.edge), 65535, np.uint16), np.full(frames, unit))


class Optics:
    """Column, specimen and detector as they are for a while: patterns at any position."""

    def __init__(self, specimen: PhaseObject, microscope: Microscope, detector: Detector) -> None:
        n = self.edge = detector.window
        self.pixel_nm = truth(microscope, detector).window_nm / n
        self._transmission = transmission(specimen, self.pixel_nm, n)
        self._stage = np.array([microscope.stage_y_nm, microscope.stage_x_nm])
        # A phase ramp puts the probe at its sub-pixel place in the middle of the patch.
        place = np.arange(PLACES) / PLACES + n // 2
        ramp = np.exp(-2j * math.pi / n * np.arange(n) * place[:, None]).astype(np.complex64)
        probe = aperture(microscope, detector)
        waves = probe * ramp[:, None, :, None] * ramp[None, :, None, :]
        self._probes = scipy.fft.ifft2(waves, workers=1, overwrite_x=True).reshape(-1, n, n)

    def quantised(self, positions_nm: np.ndarray) -> Quantised:
        """Noise-free patterns at ``(b, 2)`` positions; each sums to about 1."""
        places = np.round((positions_nm + self._stage) / self.pixel_nm * PLACES).astype(np.int64)
        whole, part = np.divmod(places, PLACES)
        period = len(self._transmission) - self.edge
        corners = (whole - self.edge // 2) % period
        chosen = part[:, 0] * PLACES + part[:, 1]
        shape = self.edge, self.edge
        amplitudes, units = np.empty((len(places), *shape), np.uint16), np.empty(len(places))
        # New memory for every batch would cost more than what is computed in it.
        memory = np.empty((min(BATCH, len(places)), *shape), np.complex64)
        for start in range(0, len(places), BATCH):
            batch = slice(start, start + BATCH)
            waves = memory[: len(places[batch])]
            _exit_waves(self._transmission, corners[batch], self._probes, chosen[batch], waves)
            waves = scipy.fft.fft2(waves, workers=1, overwrite_x=True)
            _quantise(waves, amplitudes[batch], units[batch])
        return Quantised(amplitudes, units)
