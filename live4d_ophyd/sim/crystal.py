"""A thin crystal with known strain and rotation, as a specimen of the simulator: the truth for strain maps.

In: a frozen `Crystal`. Out: its phase on the grid that patterns are computed on, and what a perfect measurement would
find there: the reciprocal lattice, and the deformation at any position. Pure NumPy on the calling thread.

The phase is sum V_hk cos 2 pi g_hk (r - u(r)) with a displacement u that is periodic with the field, so that the
reciprocal lattice under the probe is exactly (1 - grad u)^T g. All pairs are (row, col), lengths in nm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

#: Fourier coefficients along each lattice vector
_ORDERS = 4


@dataclass(frozen=True)
class Crystal:
    """A lattice with strains that vary as one period of a sine or cosine over the field."""

    #: period of the field in both directions; it becomes a whole number of pixels of the wave
    size_nm: float = 90.0
    #: lengths of the two lattice vectors, and the angle between them
    a_nm: float = 0.6
    b_nm: float = 0.6
    gamma_deg: float = 90.0
    #: of the first lattice vector, from the rows towards the columns
    angle_deg: float = 7.0
    #: Fourier coefficients of the phase are phase exp(-fall |g / g1|^2). What is scattered beyond the detector comes
    #: back on its other side, and pulls at weak disks: on small ones they must fall fast.
    phase_rad: float = 0.68
    fall: float = 1.0
    #: amplitudes of the gradient of u: e_rr over rows, e_cc over columns, e_rc and rotation over both
    strain: tuple[float, float, float, float] = (0.02, -0.015, 0.01, 0.01)
    #: so many columns of the field, about its edge, are vacuum
    vacuum_nm: float = 20.0

    def grid(self, pixel_nm: float) -> int:
        """Pixels along the field."""
        return scipy.fft.next_fast_len(math.ceil(self.size_nm / pixel_nm))

    def reciprocal(self, pixel_nm: float) -> np.ndarray:
        """g1 and g2 without strain, the rows of (2, 2), 1/nm: the nearest that are periodic with the field."""
        period = self.grid(pixel_nm) * pixel_nm
        turns = math.radians(self.angle_deg), math.radians(self.angle_deg + self.gamma_deg)
        real = np.array([[length * math.cos(turn), length * math.sin(turn)]
                         for length, turn in zip((self.a_nm, self.b_nm), turns)])  # fmt: skip
        return np.round(np.linalg.inv(real).T * period) / period

    def deformation(self, positions_nm: np.ndarray, pixel_nm: float) -> np.ndarray:
        """F of the lattice at ``positions_nm`` (n, 2), (n, 2, 2): what turns lattice vectors a into F a."""
        y, x = (np.asarray(positions_nm, float) * (2 * math.pi / (self.grid(pixel_nm) * pixel_nm))).T
        rows, cols, shear, turn = self.strain
        gradient = np.stack(
            [rows * np.sin(y), (shear - turn) * np.cos(x), (shear + turn) * np.cos(y), cols * np.sin(x)],
            axis=-1,
        )
        return np.linalg.inv(np.eye(2) - gradient.reshape(-1, 2, 2))

    def is_vacuum(self, positions_nm: np.ndarray, pixel_nm: float) -> np.ndarray:
        """Whether there is nothing at ``positions_nm`` (n, 2), (n,) bool."""
        period = self.grid(pixel_nm) * pixel_nm
        return np.abs((np.asarray(positions_nm)[:, 1] % period) - period / 2) < self.vacuum_nm / 2

    def phase(self, pixel_nm: float) -> np.ndarray:
        """Projected phase on a periodic grid, ``(n, n) float32``, rad."""
        n = self.grid(pixel_nm)
        along = np.arange(n) * pixel_nm
        k = 2 * math.pi / (n * pixel_nm)
        rows, cols, shear, turn = self.strain
        # u is a function of the row plus one of the column: so is what is turned by, and each term is an outer product.
        of_row = np.stack([-rows / k * np.cos(k * along), (shear + turn) / k * np.sin(k * along)])
        of_col = np.stack([(shear - turn) / k * np.sin(k * along), -cols / k * np.cos(k * along)])
        lattice = self.reciprocal(pixel_nm)
        left, right = [], []
        for h in range(-_ORDERS, _ORDERS + 1):
            for k_ in range(-_ORDERS, _ORDERS + 1):
                if (h, k_) <= (0, 0):
                    continue  # half of them: the others are their conjugates
                g = h * lattice[0] + k_ * lattice[1]
                amplitude = (
                    2 * self.phase_rad * math.exp(-self.fall * float(g @ g) / float(lattice[0] @ lattice[0]))
                )
                by_row = 2 * math.pi * (g[0] * along - g @ of_row)
                by_col = 2 * math.pi * (g[1] * along - g @ of_col)
                left += [amplitude * np.cos(by_row), -amplitude * np.sin(by_row)]
                right += [np.cos(by_col), np.sin(by_col)]
        phase = np.stack(left, axis=1).astype(np.float32) @ np.stack(right).astype(np.float32)
        phase[:, self.is_vacuum(np.stack([along, along], axis=1), pixel_nm)] = 0.0
        return phase
