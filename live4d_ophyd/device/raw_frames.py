"""RawFrames: recorded frames in a run's documents, as external data: one file an Event.

In: what was recorded of the newest raster. Out: a data key, and StreamResource and StreamDatum for it. Threads: `took`
comes from the engine client's, the rest from the RunEngine's.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from live4d_ophyd.engine.recorder import RecordedFile
from live4d_ophyd.image_streams import RAW_MIMETYPE

#: dataset in the file: (scan_y, scan_x, q_y, q_x)
_DATASET = "/entry/scan/data"
_DIMS = ("scan_y", "scan_x", "q_y", "q_x")


class RawFrames:
    """Of a device; ``key`` is the data key."""

    def __init__(self, key: str, source: str) -> None:
        self.key = key
        self._source = source
        self._newest: tuple[RecordedFile, str] | None = None

    def took(self, recorded: RecordedFile | None, path: str) -> None:
        """A raster is over; ``path``: where its file is seen."""
        self._newest = None if recorded is None else (recorded, path)

    @property
    def newest_path(self) -> str:
        return "" if self._newest is None else self._newest[1]

    def forget(self) -> None:
        self._newest = None

    def describe(self) -> dict[str, Any]:
        """The data key; nothing where nothing was recorded."""
        if self._newest is None:
            return {}
        recorded, _ = self._newest
        return {
            self.key: {
                "source": self._source,
                "dtype": "array",
                "dtype_numpy": recorded.dtype,
                "shape": list(recorded.shape),
                "dims": list(_DIMS),
                "units": "counts",
                "external": "STREAM:",
            }
        }

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Of one Event. Of a raster without a file they name one that is not there: reading it then says so."""
        if self._newest is None:
            return
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
