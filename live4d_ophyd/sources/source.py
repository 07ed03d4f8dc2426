"""What the engine knows of a source of frames, whatever it is: what comes out of it, and who arms it.

A source opens connections. Each belongs to one receive thread, fills batches of compressed frames, and says in order
what is in them: a series that started, entries that are frames of it, its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.frames.format import FrameFormat

SeriesKey = tuple[int, int]
"""(series id, hash of the unique id; 0 where it is not known)"""


@dataclass(frozen=True)
class SeriesInfo:
    """What a series says of itself. None, or nothing in ``note``: it does not say."""

    key: SeriesKey
    format: FrameFormat
    frames: int | None = None  #: it announces
    pixel_mask: np.ndarray | None = None  #: of the detector, (q_y, q_x) bool, True is bad
    saturation: int | None = None  #: counts; a pixel at or above holds no count
    energy: float | None = None  #: of the electrons, eV
    note: Mapping[str, Any] = field(default_factory=dict)  #: what its header says of scan and run


@dataclass(frozen=True)
class Started:
    """A series began, and its frames' format is known."""

    series: SeriesInfo


@dataclass(frozen=True)
class Frames:
    """Entries of the batch that are frames of the series that runs, (n,) int64."""

    batch: FrameBatch
    entries: np.ndarray


@dataclass(frozen=True)
class Ended:
    """Nothing of the series comes any more on this connection."""


class Connection(Protocol):
    """One connection of a source; belongs to one thread."""

    def receive(self, batch: FrameBatch, wait: float) -> Sequence[Started | Frames | Ended]:
        """Fill the batch, for up to ``wait`` s, and say what is in it, in order."""


class DetectorControl(Protocol):
    """What arms the detector of a source. Its errors are those of the source."""

    def prepare(self, request: Any) -> None: ...
    def arm(self) -> SeriesKey | None: ...
    def trigger(self) -> None: ...
    def finish(self) -> int | None:
        """Leave the detector idle; the frames it dropped, None where it does not say."""

    def abort(self) -> None: ...
    def parameters(self) -> Mapping[str, Any]: ...


class FrameSource(Protocol):
    """A frozen dataclass: it goes to the engine by registered name and plain fields."""

    def open(self) -> list[Connection]: ...
    def control(self) -> DetectorControl | None: ...
