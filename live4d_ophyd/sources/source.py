"""What the engine knows of a source of frames, whatever it is: what comes out of it, and who arms it.

A `FrameSource` says where frames come from. Opened, it stays so between series, that no start of one is missed. Of each
series that is taken, every connection belongs to one receive thread: it fills batches of compressed frames, and says in
order what is in them: the series started, entries that are its frames, its end.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from live4d_ophyd.calibration import NOT_CALIBRATED, Calibration
from live4d_ophyd.frames.batch import BatchMemory, FrameBatch
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.scan import ScanGrid

SeriesKey = tuple[int, int]
"""(series id, hash of the unique id; 0 where it is not known)"""


class SourceError(RuntimeError):
    """What arms a source did not answer, or refused."""


@dataclass(frozen=True)
class SeriesRequest:
    """What a source is asked for: one series of ``rasters`` scans of ``grid``.

    Parameters
    ----------
    grid : scan geometry
    rasters : scans that follow each other in the series
    stay_armed : each trigger takes the next raster, and the detector stays armed between them
    frame_time : dwell time to set on the detector, s; None leaves it
    notes : what the series shall say of the scan besides its geometry (plan_name, uid)
    """

    grid: ScanGrid
    rasters: int = 1
    stay_armed: bool = False
    frame_time: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames of the whole series."""
        return self.rasters * self.grid.frames

    @property
    def rasters_per_trigger(self) -> int:
        """Rasters that one acquisition gives."""
        return 1 if self.stay_armed else self.rasters

    @property
    def frames_per_trigger(self) -> int:
        """Frames of one acquisition."""
        return self.rasters_per_trigger * self.grid.frames


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
    calibration: Calibration = NOT_CALIBRATED  #: of the pattern: what whoever asks for images knows


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
    flatfield: EncodedArray | None = None  #: of the detector, factor of each pixel
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
    """One connection of a series that is taken; belongs to one thread."""

    def receive(self, batch: FrameBatch, wait: float) -> Iterator[Item]:
        """Fill the batch, for up to ``wait`` s, and say what is in it, in order.

        What an item tells must be done before the next is asked for.
        """


class SeriesSource(Protocol):
    """One series of a source that is open. Its connections share what is known of it."""

    @property
    def connections(self) -> Sequence[Connection]: ...

    @property
    def key(self) -> SeriesKey | None:
        """None before it is known."""

    @property
    def name(self) -> str:
        """Its number, for people; "?" before it is known."""

    @property
    def channel(self) -> str:
        """Whose frames are taken; "" as long as nothing named one."""

    @property
    def header(self) -> SeriesHeader | None:
        """None as long as nothing announced the series."""

    def expect(self, key: SeriesKey) -> None:
        """Take this series and no other: the detector was armed for it."""

    def all_came(self, last_missing: int) -> bool:
        """Whether nothing can be under way any more behind the series' end, as far as can be told.

        ``last_missing`` is the highest id that has not come, -1: all have.
        """

    def header_of(self, channel: str) -> SeriesHeader | None:
        """What it says where the frames of another channel are taken; None as `header`."""

    def other_channels(self, batch: FrameBatch, entry: int) -> Mapping[str, SeriesHeader | None]:
        """What frames bring besides `channel`, as an entry shows it, and what the series says of each; or None."""

    def of_channel(self, batch: FrameBatch, entries: np.ndarray, channel: str) -> FrameBatch:
        """The same messages, (n,), as another channel has them; those that do not have it are no IMAGE.

        Its buffer may be that of ``batch``: it is valid as long.
        """

    def algorithm_of(self, batch: FrameBatch, entry: int) -> str | None:
        """What an entry's compression is called, also one that is none of `codecs`; None where nothing says it."""

    def why_unusable(self, batch: FrameBatch, entry: int) -> str:
        """Why an entry that is no IMAGE cannot be used."""

    def why_nothing_came(self, waited: str, ended: bool) -> str:
        """Why no frame came ``waited`` ("within 10 s"), and what may help: one text for the error.

        ``ended``: whether the series did.
        """

    def why_frames_miss(self, came: np.ndarray, dropped: int | None) -> str:
        """Why those frames may miss that are not True in ``came``, (frames,) bool; "" where nothing is known.

        ``dropped``: frames that the detector says it dropped, None where it does not say.
        """

    def interrupt(self) -> None:
        """Make every `Connection.receive` return soon. From any thread."""

    def finish(self) -> None:
        """The series is over for us: what still comes of it is ignored from now on."""


class OpenSource(Protocol):
    """A source that is connected, and stays so between series."""

    def connected(self, wait: float = 0.0) -> bool:
        """Whether the other side answers on every connection; waits up to ``wait`` s for it. Any thread."""

    def reconnect(self) -> None:
        """Connect anew, for connections that the other side may have left half open."""

    def close(self) -> None:
        """Drop the connections at once, for good. From any thread."""


class DetectorControl(Protocol):
    """What arms the detector of a source, for one series. Raises SourceError.

    ``claim`` comes first, then ``prepare``, ``arm``, and ``finish`` or ``abort``; ``release`` comes last in any case.
    """

    @property
    def software_triggered(self) -> bool:
        """Whether frames begin with `trigger`, not with pulses of a scan generator."""

    def claim(self) -> str:
        """Have the detector for this process alone; "" then, else who has it, in words."""

    def prepare(self, series: SeriesRequest) -> None:
        """Bring the detector from whatever it is in to where it can be armed for ``series``."""

    def most_rasters(self, series: SeriesRequest) -> int:
        """How many of its rasters one series can have."""

    def arm(self) -> SeriesKey | None:
        """Arm; the series that follows, None where it is not told."""

    def trigger(self) -> None:
        """Begin exposures; returns when they are over."""

    def why_out_of_step(self) -> str:
        """Between two triggers of a series: why the detector is not armed for the next; "" where it is."""

    def finish(self, wait: float) -> int | None:
        """Leave the detector idle, for which it gets ``wait`` s by itself. What fails is logged.

        Returns how many frames it dropped; None where it does not say.
        """

    def abort(self, exposing: bool) -> None:
        """Leave the detector idle, though the series is not over; ``exposing``: frames may be under way."""

    def release(self) -> None:
        """Let another engine have the detector. Harmless where it was not claimed."""


class FrameSource(Protocol):
    """Where frames come from. A frozen dataclass: it goes to the engine by its class's name and plain fields."""

    @property
    def name(self) -> str:
        """For people: its address, or its file."""

    @property
    def address(self) -> Hashable:
        """Where it connects to; sources with the same share what is open, whatever else they ask for."""

    @property
    def armed_here(self) -> bool:
        """Whether the detector is armed for the series; else the next one is taken, whatever it is."""

    def check(self, series: SeriesRequest) -> None:
        """Raise ValueError for a series that it cannot bring."""

    def open(self, memory: BatchMemory) -> OpenSource:
        """Connect. Raises ValueError for an address that cannot be one.

        A source that receives before it is asked, into memory that it lends to batches, takes ``memory`` for it.
        """

    def next_series(self, opened: Any) -> SeriesSource:
        """The next series of what `open` gave. One is taken at a time."""

    def control(self) -> DetectorControl | None:
        """None where nothing is armed."""
