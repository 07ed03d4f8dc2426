"""Flaws of a simulated sensor that the detector does not know: hot and cold pixels, and pixels that count more than
others.

In: how many, how much, and a seed. Out: what becomes of patterns before they are counted, and of counts. Any thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from live4d_ophyd.sim.specimen import Detector

#: mean counts of hot pixels in a frame, lowest and highest
HOT_COUNTS = (5.0, 200.0)


@dataclass(frozen=True)
class Flaws:
    """Of pixels that no mask has."""

    #: pixels that count in every frame, whatever hits them
    hot_pixels: int = 0
    #: pixels that count nothing
    cold_pixels: int = 0
    #: standard deviation of what pixels count of the same, as a part of their mean
    gain_spread: float = 0.0

    def check(self) -> None:
        """Raises ValueError for what no sensor has."""
        if min(self.hot_pixels, self.cold_pixels) < 0:
            raise ValueError(f"{self.hot_pixels} hot and {self.cold_pixels} cold pixels: expected at least 0")
        if not 0 <= self.gain_spread <= 0.2:
            raise ValueError(f"gain_spread is {self.gain_spread}: expected 0 to 0.2")

    def response(self, detector: Detector, seed: int) -> Response:
        """Of a sensor; one seed is one sensor."""
        shape = detector.rows, detector.cols
        rng = np.random.default_rng([seed, 5])
        places = rng.permutation(shape[0] * shape[1])[: self.hot_pixels + self.cold_pixels]
        hot, cold = places[: self.hot_pixels], places[self.hot_pixels :]
        rates = rng.uniform(*HOT_COUNTS, len(hot))
        efficiency = np.ones(shape[0] * shape[1])
        if self.gain_spread:
            efficiency = np.clip(1 + self.gain_spread * rng.standard_normal(efficiency.size), 0.1, None)
            efficiency /= efficiency.max()  # nothing is counted that is not there
        efficiency[cold] = 0.0
        return Response(efficiency.reshape(shape), hot, rates, plain=not (self.gain_spread or len(cold)))


@dataclass(frozen=True, eq=False)
class Response:
    """What each pixel makes of the electrons that hit it."""

    efficiency: np.ndarray  #: part of the electrons that are counted, (rows, cols) float64
    hot: np.ndarray  #: hot pixels, flat indices
    rates: np.ndarray  #: their mean counts a frame besides
    plain: bool  #: the efficiency is 1 everywhere

    def applied(self, amplitudes: np.ndarray, origin: tuple[int, int]) -> np.ndarray:
        """Amplitudes ``(b, n, n) uint16`` of the square at ``origin``, as their counts are drawn from."""
        if self.plain:
            return amplitudes
        edge = amplitudes.shape[1]
        there = self.efficiency[origin[0] : origin[0] + edge, origin[1] : origin[1] + edge]
        return np.rint(amplitudes * np.sqrt(there)).astype(np.uint16)

    def add_hot(self, counts: np.ndarray, highest: int, rng: np.random.Generator) -> None:
        """Add what hot pixels count to ``counts`` (b, rows, cols), up to ``highest``."""
        if len(self.hot):
            flat = counts.reshape(len(counts), -1)
            more = flat[:, self.hot] + rng.poisson(self.rates, (len(counts), len(self.hot)))
            flat[:, self.hot] = np.minimum(more, highest)


NO_FLAWS = Flaws()
