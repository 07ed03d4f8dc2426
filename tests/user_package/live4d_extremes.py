"""Imaging methods of a user: the brightest pixel of each pattern, and one output relative to another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.imaging.method import SCAN, Images, Output, Patterns


@dataclass(frozen=True)
class BrightestPixel:
    """Counts of the brightest pixel of each pattern within a border of ``border`` px that is left out."""

    name: str
    border: int = field(default=0, metadata={"units": "px"})

    def demand(self, series, scan) -> Patterns:
        return Patterns()

    def outputs(self, series, scan) -> Mapping[str, Output]:
        return {self.name: Output(SCAN, scan.shape, "counts")}

    def accumulator(self, series, scan, device) -> "_Brightest":
        return _Brightest(Scatter(scan, 1, device), self.border)

    def results(self, series, scan, parts: Sequence["_Brightest"]) -> Mapping[str, np.ndarray]:
        return {self.name: Scatter.merged([part.images for part in parts], scan, 1)[0]}


@dataclass
class _Brightest:
    images: Scatter
    border: int

    def add(self, positions: Any, patterns: Any) -> None:
        xp, rows, cols = array_namespace(patterns), *patterns.shape[1:]
        inside = patterns[:, self.border : rows - self.border, self.border : cols - self.border]
        brightest = xp.max(xp.astype(inside, xp.float64), axis=(1, 2))
        self.images.add(positions, brightest[:, None])


@dataclass(frozen=True)
class Relative:
    """One output of other methods divided by another; NaN where that is 0."""

    name: str
    numerator: str
    denominator: str

    def demand(self, series, scan) -> Images:
        return Images((self.numerator, self.denominator))

    def outputs(self, series, scan) -> Mapping[str, Output]:
        return {self.name: Output(SCAN, scan.shape)}

    def accumulator(self, series, scan, device):
        raise AssertionError("it is made from other methods' outputs")

    def results(self, series, scan, parts: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        below = parts[self.denominator]
        return {self.name: parts[self.numerator] / np.where(below == 0, np.nan, below)}
