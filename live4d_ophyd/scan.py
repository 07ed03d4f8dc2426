"""ScanGrid: which scan position a frame id belongs to. The stream does not say; the plan does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Real

import numpy as np

#: positions along an axis, or frames of a flyback: far beyond what a scan generator does
MOST = 1 << 20


def parse_shape(text: str) -> tuple[int, int]:
    """(rows, columns) of ``256x256``. Raises ValueError for other text."""
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if not match:
        raise ValueError(f"{text!r} is not ROWSxCOLS, at least one of each, for example 256x256")
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class ScanGrid:
    """One raster scan of the probe.

    Frames are numbered from 0 in the order they are exposed: first ``lead_in`` frames that belong to no
    position, then line by line ``cols`` frames and ``flyback`` frames while the probe returns, after the last line only
    with ``last_flyback``. With ``serpentine`` every second line runs backwards. A movie continues the numbering with
    the next raster, at once behind the last frame of the one before.

    Parameters
    ----------
    rows, cols : number of scan positions along scan_y and scan_x
    serpentine : odd lines run from the last column to the first
    flyback : frames recorded after each line, not part of the image
    lead_in : frames recorded before the first position of every raster
    step : distance of neighbouring positions, one number or (scan_y, scan_x), in ``unit``
    unit : unit of ``step``, for the axes of pictures
    last_flyback : whether flyback frames follow the last line, too; where the pulses end with the last position, they
        do not, and a detector that expects them would wait for pulses that never come

    Examples
    --------
    >>> grid = ScanGrid(2, 3, flyback=1)
    >>> grid.frames
    8
    >>> grid.positions(np.arange(8))
    array([ 0,  1,  2, -1,  3,  4,  5, -1])
    """

    rows: int
    cols: int
    serpentine: bool = False
    flyback: int = 0
    lead_in: int = 0
    step: float | tuple[float, float] = 1.0
    unit: str = "px"
    last_flyback: bool = True

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("cols", 1), ("flyback", 0), ("lead_in", 0)):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | np.integer)
                or not least <= value <= MOST
            ):
                raise ValueError(
                    f"ScanGrid {name} is {value!r}; it must be a whole number from {least} to {MOST}"
                )
            object.__setattr__(self, name, int(value))
        for name in ("serpentine", "last_flyback"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ValueError(f"ScanGrid {name} is {getattr(self, name)!r}; it must be True or False")
            object.__setattr__(self, name, bool(getattr(self, name)))
        if not isinstance(self.unit, str):
            raise ValueError(f"ScanGrid unit is {self.unit!r}; it must be text")
        step = self.step if isinstance(self.step, tuple | list) else (self.step, self.step)
        if len(step) != 2 or not all(isinstance(s, Real) and np.isfinite(s) and s > 0 for s in step):
            raise ValueError(
                f"ScanGrid step is {self.step!r}; it must be one or two positive lengths in {self.unit}"
            )
        object.__setattr__(self, "step", (float(step[0]), float(step[1])))

    @property
    def steps(self) -> tuple[float, float]:
        """(scan_y, scan_x) distance of neighbouring positions, in ``unit``."""
        return self.step if isinstance(self.step, tuple) else (self.step, self.step)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the image."""
        return self.rows, self.cols

    @property
    def size(self) -> int:
        """Number of scan positions."""
        return self.rows * self.cols

    @property
    def frames(self) -> int:
        """Frames the detector records for one raster, lead-in and flyback included."""
        flybacks = self.rows if self.last_flyback else self.rows - 1
        return self.lead_in + self.rows * self.cols + flybacks * self.flyback

    @property
    def aside(self) -> np.ndarray:
        """Numbers in a raster of the frames that belong to no position, (frames - size,) int64."""
        return np.flatnonzero(self.positions(np.arange(self.frames)) < 0)

    def positions(self, image_ids: np.ndarray) -> np.ndarray:
        """Flat position ``raster * size + row * cols + col`` of each frame, ``(n,) int64``.

        -1 for frames that belong to no position (lead-in, flyback, negative ids).
        """
        ids = np.asarray(image_ids, np.int64)
        if self.frames == self.size and not self.serpentine:
            return np.maximum(ids, -1)
        raster, within = np.divmod(ids, self.frames)
        line, col = np.divmod(within - self.lead_in, self.cols + self.flyback)
        imaged = (ids >= 0) & (within >= self.lead_in) & (col < self.cols)
        if self.serpentine:
            col = np.where(line % 2 == 1, self.cols - 1 - col, col)
        return np.where(imaged, raster * self.size + line * self.cols + col, -1)
