"""Single sidebands: what a weak phase is in the bright-field disk, and the phase back from it.

With a transmission 1 + i phase, a frequency q of the phase is seen at the angle k of the disk by the interference of
the direct beam with the beams scattered by q and by -q. What the phase is multiplied by there, Gamma, is known from
the probe's aberrations:

    Gamma(k, q) = i A(k - q) exp(i chi(k) - i chi(k - q)) - i A(k + q) exp(i chi(k + q) - i chi(k))

with k and q in rad, A the aperture and chi as in `parallax`. Where one of the two is in the aperture, a sideband is
alone and Gamma has the modulus 1; where both are, it is a shift, times a real number. All vectors are (y, x) =
(row, col).

(Rodenburg, McCallum & Nellist, Ultramicroscopy 48, 304 (1993); Pennycook et al., Ultramicroscopy 151, 160 (2015); the
sidebands as one sum with aberrations: Yang et al., Nat. Commun. 7, 12532 (2016).)
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft

#: Part of the counts that is added to those that see a frequency: one that hardly any tile sees would be noise. Between
#: 0.005 and 0.05 the correlation with the phase of simulated specimens changed by 0.01.
_DAMPING = 0.02


@dataclass(frozen=True)
class Optics:
    """What turns pixels into angles and positions into lengths."""

    rad_per_px: float
    wavelength: float  #: A
    steps: tuple[float, float]  #: of the scan, A
    semiangle: float  #: of the bright-field disk, rad

    @property
    def depth(self) -> float:
        """Depth of field, A."""
        return self.wavelength / self.semiangle**2


def aberrations(matrix: np.ndarray, about: float) -> tuple[float, float, float, float]:
    """C10, C12, phi12 (rad) and rotation (degrees, within 90 of ``about``) of M (2, 2)."""
    (yy, yx), (xy, xx) = matrix
    turned, mirrored = complex(yy + xx, xy - yx) / 2, complex(yy - xx, yx + xy) / 2
    c10 = abs(turned)
    if (turned * cmath.rect(1, -math.radians(about))).real < 0:
        c10 = -c10
    turn = cmath.phase(turned / c10) if c10 else math.radians(about)
    phi = (cmath.phase(mirrored) + turn) / 2
    phi -= math.pi * round(phi / math.pi)
    return c10, abs(mirrored), phi, math.degrees(turn)


def probe_of(c10: float, c12: float, phi12: float) -> np.ndarray:
    """P, (2, 2) A: chi(alpha) = pi / wavelength alpha P alpha."""
    c, s = c12 * math.cos(2 * phi12), c12 * math.sin(2 * phi12)
    return np.array([[c10 + c, s], [s, c10 - c]])


def transfers(
    matrix: np.ndarray, about: float, pixels: Iterable[np.ndarray], optics: Optics, shape: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Gamma of each tile, complex64 spectra of scipy.fft.rfft2.

    ``pixels`` are the angles (n, 2) rad of the pixels of each tile on the detector: the shift is averaged over them,
    the aperture is that of their middle. Of the two solutions of ``matrix`` the one is meant whose rotation is within
    90 degrees of ``about``; the other has the opposite sign.
    """
    c10, c12, phi12, rotation = aberrations(matrix, about)
    probe, turn, per_rad = probe_of(c10, c12, phi12), math.radians(rotation), math.pi / optics.wavelength
    y = scipy.fft.fftfreq(shape[0], optics.steps[0])[:, np.newaxis] * optics.wavelength
    x = scipy.fft.rfftfreq(shape[1], optics.steps[1]) * optics.wavelength
    chi = per_rad * (probe[0, 0] * y**2 + 2 * probe[0, 1] * y * x + probe[1, 1] * x**2)
    wave = (1j * np.exp(1j * chi)).astype(np.complex64)
    to_scan = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    for angles in pixels:
        scanned = angles @ to_scan
        shifts, k = 2 * per_rad * (scanned @ probe), scanned.mean(axis=0)
        of_y, of_x = np.exp(1j * y * shifts[:, 0]), np.exp(1j * shifts[:, 1:] * x)
        ramp = of_y.astype(np.complex64) @ (of_x / len(angles)).astype(np.complex64)
        minus = (k[0] - y) ** 2 + (k[1] - x) ** 2 <= optics.semiangle**2
        plus = (k[0] + y) ** 2 + (k[1] + x) ** 2 <= optics.semiangle**2
        yield -ramp * (minus * wave.conj() + plus * wave)


def phase_of(
    deviations: np.ndarray,
    weights: np.ndarray,
    pixels: Sequence[np.ndarray],
    optics: Optics,
    matrix: np.ndarray,
    rotation: float,
) -> np.ndarray:
    """The weak phase, (rows, cols) rad, that fits best to images of tiles (tiles, rows, cols) at each frequency.

    ``deviations`` are relative to the tiles' means, ``weights`` (tiles,) the counts they have. Their noise is that of
    counts, so the best phase is sum(w conj(Gamma) d) / sum(w |Gamma|^2). Only ``matrix`` and ``rotation`` (degrees)
    together say which sign the phase has. Behind the edges nothing deviates.
    """
    shape = deviations.shape[1:]
    margin = math.ceil(
        2 * max(np.abs(one @ matrix.T / np.array(optics.steps)).max(initial=0.0) for one in pixels)
    )
    wide = tuple(scipy.fft.next_fast_len(n + margin, real=True) for n in shape)
    total = np.zeros((wide[0], wide[1] // 2 + 1), np.complex64)
    seen = np.zeros(total.shape, np.float32)
    for image, weight, gamma in zip(
        deviations, weights.tolist(), transfers(matrix, rotation, pixels, optics, wide)
    ):
        if weight > 0:
            total += scipy.fft.rfft2(image, wide) * (weight * gamma.conj())
            seen += weight * (gamma.real**2 + gamma.imag**2)
    total /= seen + _DAMPING * weights.sum()
    return scipy.fft.irfft2(total, wide)[: shape[0], : shape[1]]
