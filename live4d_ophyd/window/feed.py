"""Feed: the newest images of a device, from the documents of a RunEngine, for a window that draws them in its own time.

Comes in: documents, in the RunEngine's thread; nothing is copied, converted or drawn there. Goes out: the newest
`Moment`, one for all that came since it was last taken, and the results of the last rasters, in the GUI's thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import event_model
import numpy as np

from live4d_ophyd.image_streams import image_keys, previewed_device, raster_time, run_stem
from live4d_ophyd.imaging.method import PATTERN
from live4d_ophyd.live.best_effort import scan_axes
from live4d_ophyd.live.panel import ScanAxes

log = logging.getLogger(__name__)

#: results that are kept to be clicked back to, and the memory that they may take, bytes
RECORDS, RECORDS_BYTES = 60, 1 << 29


@dataclass(frozen=True, eq=False)
class Moment:
    """What is known at one moment: the result of a raster, or a preview of one that runs."""

    device: str
    start: Mapping[str, Any]  #: document of the run
    stream: str
    keys: Mapping[str, Any]  #: data keys
    data: Mapping[str, Any]  #: of the Event
    axes: ScanAxes
    number: int  #: of the Event; a preview has that of the Event that will follow
    preview: bool
    time: float  #: when it was, s since 1970

    @property
    def image_keys(self) -> list[str]:
        """Data keys of the images, ``(scan_y, scan_x)``."""
        return [key for key in image_keys(self.keys) if key in self.data and self._mine(key)]

    @property
    def pattern_keys(self) -> list[str]:
        """Data keys of the patterns, ``(q_y, q_x)``."""
        return [key for key in self.data if self._is_pattern(key)]

    def array(self, key: str) -> np.ndarray:
        """An image or a pattern, float64."""
        return np.asarray(self.data[key], dtype=float)

    def units(self, key: str) -> str:
        return str(self.keys[key].get("units") or "")

    def brightness(self, key: str) -> np.ndarray | None:
        """How bright an angle is shown, of an image that is one."""
        other = self.keys[key].get("brightness")
        return self.array(other) if other in self.data else None

    def count(self, name: str) -> int | None:
        """A number of frames that the device says, as ``frames_lost``; None where it does not."""
        value = self.data.get(f"{self.device}_{name}")
        return None if value is None or value != value else int(value)

    @property
    def title(self) -> str:
        """``scan 12, count, event 3``."""
        parts = [f"scan {self.start.get('scan_id', 0)}", str(self.start.get("plan_name", ""))]
        return ", ".join(filter(None, [*parts, f"event {self.number}"]))

    @property
    def stem(self) -> str:
        """How names of files begin: ``00012_ca3108a4``, and the Event's number of a run with several."""
        stem = run_stem(self.start.get("scan_id", 0), self.start["uid"])
        return stem if self.start.get("num_points") == 1 else f"{stem}_{self.number:03d}"

    @property
    def nbytes(self) -> int:
        return sum(np.asarray(self.data[key]).nbytes for key in (*self.image_keys, *self.pattern_keys))

    def _mine(self, key: str) -> bool:
        return key.startswith(f"{self.device}_")

    def _is_pattern(self, key: str) -> bool:
        entry = self.keys.get(key, {})
        dims = tuple(entry.get("dims") or ())
        return dims == PATTERN and not entry.get("external") and self._mine(key)


@dataclass(frozen=True, eq=False)
class _Stream:
    start: Mapping[str, Any]
    descriptor: Mapping[str, Any]
    preview: bool
    axes: ScanAxes


class Feed:
    """A callback for ``RE.subscribe``, of one device. It raises nothing: a window's trouble is no plan's."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._newest: Moment | None = None
        self._finished: list[Moment] = []
        self._runs: dict[str, Mapping[str, Any]] = {}  # by uid, those that are open
        self._streams: dict[str, _Stream] = {}  # by uid of the descriptor
        self._rasters: dict[str, int] = {}  # by uid of the run: Events of the device that are no previews
        self.records: deque[Moment] = deque(
            maxlen=RECORDS
        )  #: of finished rasters, the newest last; the GUI's

    def __call__(self, name: str, document: Any) -> None:
        try:
            match name:
                case "start":
                    self._runs[document["uid"]] = document
                case "descriptor":
                    self._descriptor(document)
                case "event":
                    self._event(document)
                case "event_page":
                    for event in event_model.unpack_event_page(document):
                        self._event(event)
                case "stop":
                    self._stop(document["run_start"])
        except Exception as error:
            log.error("the live window of %s could not take a %s: %r", self.device, name, error)

    def take(self) -> tuple[Moment | None, list[Moment]]:
        """What is new since the last call: the newest moment, and the rasters that ended. The GUI's thread."""
        with self._lock:
            newest, finished = self._newest, self._finished
            self._newest, self._finished = None, []
        self.records.extend(finished)
        size = sum(record.nbytes for record in self.records)
        while size > RECORDS_BYTES and len(self.records) > 1:
            size -= self.records.popleft().nbytes
        return newest, finished

    def _descriptor(self, document: Mapping[str, Any]) -> None:
        previewed = previewed_device(document)
        mine = previewed == self.device or self.device in document.get("object_keys", {})
        start = self._runs.get(document["run_start"])
        if mine and start is not None:
            axes = scan_axes(document, self.device) or ScanAxes()
            self._streams[document["uid"]] = _Stream(start, document, previewed == self.device, axes)

    def _event(self, document: Mapping[str, Any]) -> None:
        stream = self._streams.get(document["descriptor"])
        if stream is None:
            return
        uid = stream.start["uid"]
        number = self._rasters.get(uid, 0) + 1
        moment = Moment(
            device=self.device,
            start=stream.start,
            stream=stream.descriptor.get("name", "primary"),
            keys=stream.descriptor["data_keys"],
            data=document["data"],
            axes=self._axes_at(document["data"]) or stream.axes,
            number=number,
            preview=stream.preview,
            time=document["time"],
        )
        keys = [*moment.image_keys, *moment.pattern_keys]
        if not keys:
            return
        moment = replace(moment, time=raster_time(document, keys))
        if not stream.preview:
            self._rasters[uid] = number
        with self._lock:
            self._newest = moment
            if not stream.preview:
                self._finished.append(moment)

    def _axes_at(self, data: Mapping[str, Any]) -> ScanAxes | None:
        """Step and unit as an Event has them; they may change within a run."""
        step_y, step_x = (data.get(f"{self.device}_scan_step_{axis}") for axis in "yx")
        if step_y is None or step_x is None:
            return None
        return ScanAxes((float(step_y), float(step_x)), str(data.get(f"{self.device}_scan_unit", "px")))

    def _stop(self, uid: str) -> None:
        self._runs.pop(uid, None)
        self._rasters.pop(uid, None)
        for descriptor in [key for key, stream in self._streams.items() if stream.start["uid"] == uid]:
            del self._streams[descriptor]
