"""RawFrames: recorded frames in a run's documents, as external data: one file an Event.

In: what the detector says of its frames, and what was recorded of each raster. Out: a data key, and StreamResource and
StreamDatum for it. Threads: `raster_done` comes from the engine client's, the rest from the RunEngine's.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from live4d_ophyd.engine.recorder import RecordedFile
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.image_streams import RAW_MIMETYPE
from live4d_ophyd.imaging.of_channel import suffix_of
from live4d_ophyd.recording.frame_sets import SCAN, scan_of

log = logging.getLogger(__name__)

_DIMS = ("scan_y", "scan_x", "q_y", "q_x")


@dataclass(frozen=True)
class EventFile:
    """The file of an Event's frames; ``path``: where it is seen here, "" where there is none."""

    recorded: RecordedFile
    path: str


class RawFrames:
    """Of a device; ``key`` is the data key. What its Events describe is one shape and dtype for a whole run.

    ``channels`` are imaged besides the first: each has a data key of its own, for its dataset in the same file.

    Bluesky asks for that once a stream, in baselines, declared streams and movies before the first raster: then it is
    what the detector says of its frames.
    """

    def __init__(self, key: str, source: str, channels: Sequence[str] = ()) -> None:
        self.key = key
        self._source = source
        self._channels = channels
        self._said: FrameFormat | None = None  # by the detector, of the raster that runs or the newest
        #: the format of the frames that came, by what the detector had said
        self._came: dict[FrameFormat | None, FrameFormat] = {}
        self.begin()

    def begin(self) -> None:
        """A stage, or a run: what was recorded before is of none of its Events."""
        self._newest: EventFile | None = None
        self._is_decided = False  # whether the Events of this run have frames
        self._described: dict[str, Any] | None = None
        self._is_promise = False  # no document of the run has named a file yet
        self._broken = False  # frames came that are others than was described: no Event names its own

    @property
    def described(self) -> bool:
        """Whether the Events of the run have recorded frames."""
        return self._described is not None

    @property
    def is_new(self) -> bool:
        """Whether there is a raster whose documents were not asked for yet."""
        return self._newest is not None

    def triggered(self, said: FrameFormat | None) -> None:
        """The next raster, or movie, begins; ``said``: what the detector says of its frames, None: it does not."""
        self._newest, self._said = None, said

    def raster_done(self, file: EventFile | None, *, flying: bool = False) -> None:
        """A raster is over; one of a movie (``flying``) comes back with `documents`.

        Raises ValueError if its frames do not go with those of the Events before: catalogs would take them for such.
        """
        self._newest = None if flying else file
        if file is None:
            return
        recorded = file.recorded
        self._came[self._said] = FrameFormat(*recorded.shape[2:], np.dtype(recorded.dtype))
        if self._described is None or self._broken:
            return
        described = tuple(self._described["shape"]), self._described["dtype_numpy"]
        if (recorded.shape, recorded.dtype) == described:
            return
        if not self._is_promise:
            raise ValueError(
                f"{self.key} would be {recorded.shape} of {recorded.dtype} after Events of {described[0]} of "
                f"{described[1]} in the same run: take it in a run of its own. The frames are in {file.path}"
            )
        self._broken = True
        log.error(
            "%s is not in this run: it was described as %s of %s before the first raster, by what the detector says of "
            "its frames, and they came as %s of %s. The files are named in the Events; the next run will describe "
            "what came", self.key, *described, recorded.shape, recorded.dtype,
        )  # fmt: skip

    def describe(self, scan: tuple[int, int], said: FrameFormat | None, *, recording: bool) -> dict[str, Any]:
        """The data key, and those of further channels; nothing where nothing is recorded.

        What is said first holds for the run. Before the first raster, that is what comes of ``scan`` positions and what
        the detector ``said``, or what came when it said so before. ``recording``: there will be frames.
        """
        if not self._is_decided:
            self._is_decided = True
            if self._newest is not None:
                recorded = self._newest.recorded
                self._described = self._data_key(recorded.shape, recorded.dtype)
            elif recording and (frame := self._came.get(said, said)) is not None:
                self._is_promise = True
                self._described = self._data_key((*scan, *frame.shape), frame.dtype.newbyteorder("<").str)
            elif recording:
                log.warning(
                    "%s is not in this run: it was described before its first raster, in the baseline, say, and the "
                    "detector does not say how large its frames are. The files are named in its Events", self.key,
                )  # fmt: skip
        if self._described is None:
            return {}
        further = {
            self.key + suffix_of(channel): {
                **self._described,
                "source": f"{self._source}{suffix_of(channel)}",
                "channel": channel,
            }
            for channel in self._channels
        }
        return {self.key: self._described, **further}

    def _data_key(self, shape: Sequence[int], dtype: str) -> dict[str, Any]:
        return {
            "source": self._source,
            "dtype": "array",
            "dtype_numpy": dtype,
            "shape": list(shape),
            "dims": list(_DIMS),
            "units": "counts",
            "external": "STREAM:",
        }

    def documents(self, movie: Sequence[EventFile] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Of the newest raster, once; or of rasters of a movie: Bluesky counts one datum a collection right.

        Of a raster without a file they name one that is not there: reading says so.
        """
        if movie is None:
            movie = [] if self._newest is None else [self._newest]
            self._newest = None
        if not movie or self._described is None or self._broken:
            return
        self._is_promise = False
        yield from self._of_dataset(self.key, SCAN, movie, self._described)
        for channel in self._channels:
            yield from self._of_dataset(
                self.key + suffix_of(channel), scan_of(channel), movie, self._described
            )

    def _of_dataset(
        self, key: str, dataset: str, movie: Sequence[EventFile], described: dict[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        resource = str(uuid.uuid4())
        first, *others = [
            f"file://localhost{quote(file.path or f'/not-recorded/{resource}_{n}.h5')}"
            for n, file in enumerate(movie)
        ]
        parameters = {"dataset": dataset, "chunk_shape": [1, 1, described["shape"][1]]}
        yield (
            "stream_resource",
            {
                "uid": resource,
                "data_key": key,
                "mimetype": RAW_MIMETYPE,
                "uri": first,
                "parameters": parameters | ({"further_uris": others} if others else {}),
            },
        )
        yield (
            "stream_datum",
            {
                "uid": f"{resource}/0",
                "stream_resource": resource,
                "descriptor": "",
                "indices": {"start": 0, "stop": len(movie)},
                "seq_nums": {"start": 0, "stop": 0},
            },
        )
