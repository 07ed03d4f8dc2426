"""Method: the contract of everything that makes images from frames.

A method is a frozen dataclass. Its fields are its parameters: the device makes a setting of each, with the unit in the
field's metadata (``field(metadata={"units": "px"})``), and a run records them. A method says what it needs of a frame,
which outputs it gives, and makes accumulators: on a CPU one a raster, on a GPU one a raster and receive thread. The
engine feeds them, every frame once and in any order, and asks for results: so far, and at the end.

Positions are those of `ScanGrid.positions` within one raster; missing frames are NaN in the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, TypeGuard

import numpy as np

from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: dims of images over the scan, and of patterns
SCAN = ("scan_y", "scan_x")
PATTERN = ("q_y", "q_x")

# Metadata of fields, which become settings of the device: "units", or "units_of" the field that says them; "least", the
# smallest value; "fixed", recorded and not to be set.
PIXELS = {"units": "px"}
#: of a length in the unit that the field ``unit`` says
LENGTH = {"units_of": "unit", "least": 0.0}
UNIT = {"fixed": True}


@dataclass(frozen=True)
class Output:
    """What a method gives a raster under one data key. The device, storage and figures need nothing else."""

    dims: tuple[str, ...]  #: names of the axes; () for a number
    shape: tuple[int, ...]
    units: str = ""
    hinted: bool = False  #: its mean is in tables and plots, where no method before it has one there
    #: shown while the raster runs; one that is not over the scan at most twice a second: every frame changes all of it
    preview: bool = True
    #: of angles in degrees, from +x towards +y: shown as a colour wheel, as bright as the output of this name is large
    brightness: str = ""
    #: of either sign: shown in two colours, equally far about 0
    symmetric: bool = False
    channel: str = ""  #: of the detector, whose frames it is made of; "": the one that the source takes


@dataclass(frozen=True, eq=False)
class Sums:
    """Demand of sums under weight maps: one number a map and frame.

    ``bands`` has for each map the first detector row with weights, and weights (rows, q_x), bool, integer or float.
    Integer weights give exact int64 sums. Pixel mask and gain are applied by the engine.
    """

    names: tuple[str, ...]  #: what the maps are, for errors
    bands: tuple[tuple[int, np.ndarray], ...]
    #: whether bad pixels may have their weight on their neighbours; False: they weigh nothing, and the method knows
    spread: bool = True

    @classmethod
    def of_maps(cls, names: Sequence[str], maps: np.ndarray) -> Sums:
        """Of whole maps, (maps, q_y, q_x)."""
        return cls(tuple(names), tuple((0, weights) for weights in np.asarray(maps)))


@dataclass(frozen=True)
class Patterns:
    """Demand of the decoded frames, (n, q_y, q_x), on the device that decoded them."""


@dataclass(frozen=True)
class Images:
    """Demand of other methods' outputs, by name. The method makes its results from them, and has no accumulator."""

    names: tuple[str, ...]


class Accumulator(Protocol):
    """Takes in frames of one raster: on a CPU of all receive threads, at the same time; on a GPU of one of them."""

    def add(self, positions: Any, values: Any) -> None:
        """Take in n frames.

        ``positions`` (n,) int64 in the raster; ``values`` (n, maps) sums, or (n, q_y, q_x) patterns, valid until this
        returns. Both are NumPy arrays, or torch tensors on the device that decoded them, in whose stream this runs.
        """


class Method(Protocol):
    """A frozen dataclass with at least ``name``."""

    @property
    def name(self) -> str: ...

    # ``series`` is as the engine uses it: its pixel mask is the one that is applied, with the user's, and its
    # saturation the lowest pixel value that holds no count, None where all do or shall be counted.

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Sums | Patterns | Images:
        """What it needs of every frame. Raises ValueError where its parameters do not fit the series.

        It may depend on the frames' format, pixel mask, saturation and energy: what is prepared for one series is kept
        for the next. ``key``, ``frames`` and ``note`` are empty here and in `outputs`.
        """

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        """What it gives, by data key behind the device's name; {} if nothing is asked of it: a method with a field
        ``enabled`` that is False.

        Before a series is known, with None, lengths that depend on the detector are 0.
        """

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Accumulator:
        """For one raster; ``device`` is None for NumPy arrays, else torch's device."""

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Any) -> Mapping[str, np.ndarray]:
        """What is known so far, float64 on the host, NaN where nothing is: an array for each output.

        ``parts`` are the accumulators of the raster, none before the first frame; for a method that demands Images,
        their arrays by name.
        """


class Refitting(Protocol):
    """A method that fits something to all it has so far, such as aberrations, and makes its results with it.

    It has what `Method` has, and this. Fits are made beside the frames, in a thread of their own, when ``refit_rows``
    more rows of the scan are there; and a last time over the whole raster. What a fit finds should be among the
    outputs, too.
    """

    @property
    def name(self) -> str: ...

    @property
    def refit_rows(self) -> int: ...

    def refit(
        self, series: SeriesInfo, scan: ScanGrid, parts: Any, fit: Any, stop: Callable[[], bool]
    ) -> Any:
        """A new fit, from ``parts`` as in `results` and the fit before, None at first; any value.

        Accumulators take in frames meanwhile: it takes a copy of what it needs at once. It looks often whether
        ``stop()`` is true, and returns then, whatever it has: nobody waits for it any more.
        """

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Any, fit: Any) -> Mapping[str, np.ndarray]:
        """As `Method.results`, with the newest fit; None before the first."""


class Carrying(Refitting, Protocol):
    """A method that fits, and takes something along from raster to raster of one series: a reference, a sum.

    Its first fit of a raster, and its results before that, get what this gives instead of None.
    """

    def next_raster(self, fit: Any) -> Any:
        """What the next raster begins with, from the last fit of this one; any value."""


def carries(method: Any) -> TypeGuard[Carrying]:
    """Whether it is one that takes something along."""
    return refits(method) and hasattr(method, "next_raster")


def refits(method: Any) -> TypeGuard[Refitting]:
    """Whether it is one that fits."""
    return hasattr(method, "refit")


def checked_name(name: Any) -> None:
    """Raise ValueError unless it can be the name of a method: an identifier."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"a method is named {name!r}; expected an identifier: letters, digits and _")


def center_on(center: tuple[float, float] | None, shape: tuple[int, int]) -> tuple[float, float]:
    """A centre on frames of this shape, (row, col) in px; None is the middle."""
    return center or ((shape[0] - 1) / 2, (shape[1] - 1) / 2)


def number(what: str, value: Any) -> float:
    """A finite number as a float. Raises ValueError that names what it is."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{what} is {value!r}; expected a finite number")
    return float(value)
