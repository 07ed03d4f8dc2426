"""What the engine knows of a source of frames, whatever it is: what comes out of it, and who arms it.

A source opens connections. Each belongs to one receive thread, fills batches of compressed frames, and says in order
what is in them: a series that started, entries that are frames of it, its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.frames.encoded_array import EncodedArray
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


@dataclass(frozen=True, eq=False)
class SeriesHeader:
    """What a source says of a series before its frames. None, "" or NaN: it does not say.

    What it announces of the frames need not be true: every frame names its own shape and dtype.
    """

    key: SeriesKey
    channel: str = ""  #: whose frames these are, where a detector has several
    rows: int | None = None
    cols: int | None = None
    dtype: np.dtype | None = None  #: without byte order
    frames: int | None = None
    pixel_mask: EncodedArray | None = None  #: of the detector, any bit is bad
    brought_masks: bool = False  #: of this channel, or of others
    masked: bool | None = None  #: whether the detector applies its mask itself
    saturation: int | None = None  #: counts; a pixel at or above holds no count
    count_table: EncodedArray | None = (
        None  #: corrected counts by measured ones: its end is the saturation, too
    )
    unique_id: str = ""
    detector: str = ""  #: description and serial number
    energy: float | None = None  #: of the electrons, eV
    threshold: float | None = None  #: of the channel, eV
    count_time: float | None = None  #: exposure of a frame, s
    frame_time: float | None = None  #: from frame to frame, s
    note: Any = None  #: what it says of scan and run, as it came


class SeriesSource(Protocol):
    """What a source knows so far of the series that is taken."""

    @property
    def name(self) -> str:
        """Its number, for people; "?" before it is known."""

    @property
    def channel(self) -> str:
        """Whose frames are taken; "" as long as nothing named one."""

    @property
    def header(self) -> SeriesHeader | None:
        """None as long as nothing announced the series."""


@dataclass(frozen=True)
class Started:
    """A series began."""

    header: SeriesHeader


@dataclass(frozen=True, eq=False)
class Frames:
    """Entries of the batch that are of the series that runs, (n,) int64; those that are no IMAGE cannot be used."""

    batch: FrameBatch
    entries: np.ndarray


@dataclass(frozen=True)
class Unreadable:
    """A message that may have been a frame, and cannot be read."""

    reason: str


@dataclass(frozen=True)
class Foreign:
    """Frames of other series, which are ignored."""

    frames: int


@dataclass(frozen=True)
class Ended:
    """Nothing of the series comes any more."""


Item = Started | Frames | Unreadable | Foreign | Ended


class Connection(Protocol):
    """One connection of a source; belongs to one thread."""

    def receive(self, batch: FrameBatch, wait: float) -> Iterator[Item]:
        """Fill the batch, for up to ``wait`` s, and say what is in it, in order.

        What an item tells must be done before the next is asked for.
        """


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
