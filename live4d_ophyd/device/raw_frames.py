"""RawFrames: recorded frames in a run's documents, as external data: one file an Event.

In: what was recorded of the newest raster. Out: a data key, and StreamResource and StreamDatum for it. Threads:
`raster_done` comes from the engine client's, the rest from the RunEngine's.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from live4d_ophyd.engine.recorder import RecordedFile
from live4d_ophyd.image_streams import RAW_MIMETYPE

log = logging.getLogger(__name__)

#: dataset in the file: (scan_y, scan_x, q_y, q_x)
_DATASET = "/entry/scan/data"
_DIMS = ("scan_y", "scan_x", "q_y", "q_x")


class RawFrames:
    """Of a device; ``key`` is the data key. What its Events describe is one shape and dtype for a whole run."""

    def __init__(self, key: str, source: str) -> None:
        self.key = key
        self._source = source
        self._newest: tuple[RecordedFile, str] | None = None
        self._is_decided = False  # whether the Events of this run have frames
        self._is_new = False  # its documents were not asked for yet
        self._described: dict[str, Any] | None = None

    def begin(self) -> None:
        """A stage, or a run: what was recorded before is of none of its Events."""
        self._newest, self._described, self._is_new, self._is_decided = None, None, False, False

    @property
    def described(self) -> bool:
        """Whether the Events of the run have recorded frames."""
        return self._described is not None

    def raster_done(self, recorded: RecordedFile | None, path: str) -> None:
        """A raster is over; ``path``: where its file is seen.

        Raises ValueError if its frames do not go with those of the Events before: catalogs would take them for such.
        """
        self._newest = None if recorded is None else (recorded, path)
        self._is_new = recorded is not None
        if recorded is None or self._described is None:
            return
        before = tuple(self._described["shape"]), self._described["dtype_numpy"]
        if (recorded.shape, recorded.dtype) != before:
            raise ValueError(
                f"{self.key} would be {recorded.shape} of {recorded.dtype} after Events of {before[0]} of {before[1]} "
                f"in the same run: take it in a run of its own. The frames are in {path}"
            )

    def describe(self, *, recording: bool) -> dict[str, Any]:
        """The data key; nothing where nothing was recorded.

        Bluesky asks once a run and object: what is said first holds for the run, and Events before the first raster say
        that there are no frames. ``recording``: there will be some.
        """
        if not self._is_decided:
            self._is_decided = True
            if self._newest is not None:
                self._described = self._data_key(self._newest[0])
            elif recording:
                log.warning(
                    "%s is not in this run: it was described before its first raster, in the baseline, say. The files "
                    "are named in its Events", self.key,
                )  # fmt: skip
        return {} if self._described is None else {self.key: self._described}

    def _data_key(self, recorded: RecordedFile) -> dict[str, Any]:
        return {
            "source": self._source,
            "dtype": "array",
            "dtype_numpy": recorded.dtype,
            "shape": list(recorded.shape),
            "dims": list(_DIMS),
            "units": "counts",
            "external": "STREAM:",
        }

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Of one Event, once a raster. Of a raster without a file they name one that is not there: reading says so."""
        if self._newest is None or not self._is_new or self._described is None:
            return
        self._is_new = False
        recorded, path = self._newest
        resource = str(uuid.uuid4())
        yield (
            "stream_resource",
            {
                "uid": resource,
                "data_key": self.key,
                "mimetype": RAW_MIMETYPE,
                "uri": f"file://localhost{quote(path or f'/not-recorded/{resource}.h5')}",
                "parameters": {"dataset": _DATASET, "chunk_shape": [1, 1, recorded.shape[1]]},
            },
        )
        yield (
            "stream_datum",
            {
                "uid": f"{resource}/0",
                "stream_resource": resource,
                "descriptor": "",
                "indices": {"start": 0, "stop": 1},
                "seq_nums": {"start": 0, "stop": 0},
            },
        )
