"""The run that goes on, as its documents have told it so far: images, patterns, settings, losses, time.

In: documents, one after the other, in any one thread. Out: `LiveRun`, a whole that does not change, for any thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from event_model import unpack_event_page

from live4d_ophyd.image_streams import image_keys, previewed_device
from live4d_ophyd.live.best_effort import ALARMS, scan_axes
from live4d_ophyd.live.panel import ScanAxes

#: names of images: they become part of pages
PLAIN = re.compile(r"[\w.:-]{1,100}")
#: pixels of an image that is taken: what is larger is no image of a scan
_MOST_PIXELS = 1 << 24


@dataclass(frozen=True, eq=False)
class ScanPicture:
    """An image (scan_y, scan_x) float64, NaN where nothing was seen; with a ``brightness`` an angle in degrees."""

    label: str
    values: np.ndarray
    axes: ScanAxes
    units: str = ""
    brightness: np.ndarray | None = None
    symmetric: bool = False  #: of either sign: shown in two colours, equally far about 0


@dataclass(frozen=True, eq=False)
class PatternPicture:
    """A pattern (q_y, q_x) float64, NaN where no count is known."""

    label: str
    values: np.ndarray
    units: str = ""


@dataclass(frozen=True)
class LiveRun:
    """What is known of the newest run."""

    #: goes up with every document
    version: int = 0
    uid: str = ""
    title: str = ""
    #: "waiting", "running", or Bluesky's exit status
    status: str = "waiting"
    #: ``12 frames lost``
    alarms: tuple[str, ...] = ()
    #: of the raster that runs, 0 to 1; None between rasters
    fraction: float | None = None
    #: Events that are there, and that will be; None: nobody knows
    events: tuple[int, int | None] = (0, None)
    #: s between the run's start and ``at``, time.monotonic()
    elapsed: float = 0.0
    at: float = 0.0
    #: s that it will still take; None: nobody knows
    left: float | None = None
    devices: tuple[str, ...] = ()
    pictures: Mapping[str, ScanPicture] = field(default_factory=dict)
    patterns: Mapping[str, PatternPicture] = field(default_factory=dict)
    #: of the devices, by their full names
    settings: Mapping[str, Any] = field(default_factory=dict)

    def elapsed_now(self) -> float:
        """Seconds since the run's start, until its end."""
        return self.elapsed + (time.monotonic() - self.at if self.status == "running" else 0.0)

    def left_now(self) -> float | None:
        """Seconds that the run will still take."""
        return None if self.left is None else max(self.left - (time.monotonic() - self.at), 0.0)


class LiveRuns:
    """Follows documents; ``run`` is the newest. Of several sessions the run that began last is followed."""

    def __init__(self) -> None:
        self.run = LiveRun()
        self._start: Mapping[str, Any] = {}
        self._descriptors: dict[str, Mapping[str, Any]] = {}

    def take(self, name: str, doc: Any) -> None:
        """Take a document. Documents of runs whose beginning was not seen are ignored."""
        if name == "start":
            # Not one told a second time, and not the last run of a session that is idle, told to a reader that came.
            if doc["uid"] != self.run.uid and doc["time"] >= self._start.get("time", doc["time"]):
                self._begin(doc)
        elif name == "descriptor" and doc["run_start"] == self.run.uid:
            self._descriptors[doc["uid"]] = doc
            self._note_settings(_configured(doc))
        elif name == "event" and doc["descriptor"] in self._descriptors:
            self._event(doc)
        elif name == "event_page" and doc["descriptor"] in self._descriptors:
            for event in unpack_event_page(doc):
                self._event(event)
        elif name == "stop" and doc["run_start"] == self.run.uid:
            self._change(doc, status=str(doc["exit_status"]), fraction=None, left=None)

    def _begin(self, start: Mapping[str, Any]) -> None:
        self._start, self._descriptors = start, {}
        scan_id, plan = start.get("scan_id", "?"), start.get("plan_name", "")
        points = start.get("num_points")
        self.run = LiveRun(
            version=self.run.version + 1, uid=start["uid"], title=f"scan {scan_id}  {plan}", status="running",
            events=(0, points if isinstance(points, int) else None), at=time.monotonic(),
        )  # fmt: skip

    def _change(self, doc: Mapping[str, Any], **changes: Any) -> None:
        elapsed = max(float(doc["time"]) - float(self._start["time"]), 0.0)
        self.run = replace(
            self.run, version=self.run.version + 1, elapsed=elapsed, at=time.monotonic(), **changes
        )

    def _note_settings(self, settings: Mapping[str, Any]) -> None:
        self.run = replace(self.run, settings={**self.run.settings, **settings})

    def _event(self, event: Mapping[str, Any]) -> None:
        descriptor, data = self._descriptors[event["descriptor"]], event["data"]
        device = previewed_device(descriptor)
        pictures = dict(self.run.pictures) | dict(self._pictures(descriptor, device, data))
        patterns = dict(self.run.patterns) | dict(self._patterns(descriptor, device, data))
        done, points = self.run.events
        fraction = None
        if device is not None:
            fraction = float(data[f"{device}_live_fraction"])
        elif image_keys(descriptor["data_keys"]) and descriptor.get("name") == "primary":
            done = int(event["seq_num"])
            plain = {key: value for key, value in data.items() if not isinstance(value, np.ndarray)}
            self._note_settings(plain)
        devices = tuple(dict.fromkeys([*self.run.devices, *([device] if device else _owners(descriptor))]))
        self._change(
            event, pictures=pictures, patterns=patterns, fraction=fraction, events=(done, points), devices=devices,
            alarms=_alarms(devices, data), left=self._left(event, done + (fraction or 0.0), points),
        )  # fmt: skip

    def _left(self, event: Mapping[str, Any], done: float, points: int | None) -> float | None:
        if points is None or not 0 < done <= points:
            return None
        elapsed = float(event["time"]) - float(self._start["time"])
        return elapsed * (points - done) / done

    def _pictures(
        self, descriptor: Mapping[str, Any], device: str | None, data: Mapping[str, Any]
    ) -> Iterable[tuple[str, ScanPicture]]:
        keys = descriptor["data_keys"]
        for key in image_keys(keys):
            values = _image(data.get(key))
            if values is None or not PLAIN.fullmatch(key):
                continue
            owner = device or keys[key].get("object_name") or ""
            bright = keys[key].get("brightness")
            axes = scan_axes(descriptor, owner) or ScanAxes()
            brightness = _image(data.get(bright)) if bright else None
            if brightness is not None and brightness.shape != values.shape:
                brightness = None
            label = key.removeprefix(f"{owner}_")
            yield key, ScanPicture(
                label, values, axes, keys[key].get("units") or "", brightness,
                bool(keys[key].get("symmetric")),
            )  # fmt: skip

    def _patterns(
        self, descriptor: Mapping[str, Any], device: str | None, data: Mapping[str, Any]
    ) -> Iterable[tuple[str, PatternPicture]]:
        for key, entry in descriptor["data_keys"].items():
            if entry.get("external") or list(entry.get("dims") or ()) != ["q_y", "q_x"]:
                continue
            if (values := _image(data.get(key))) is not None:
                owner = device or entry.get("object_name")  # a preview's object has a name of its own
                label = key.removeprefix(f"{owner}_")
                yield key, PatternPicture(label, values, entry.get("units") or "")


def _image(value: Any) -> np.ndarray | None:
    """A 2-D array of floats, if it is one and of a size that can be."""
    if value is None:
        return None
    array = np.asarray(value, dtype=float)
    return array if array.ndim == 2 and 0 < array.size <= _MOST_PIXELS else None


def _configured(descriptor: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for configuration in descriptor.get("configuration", {}).values():
        found |= configuration.get("data", {})
    return found


def _owners(descriptor: Mapping[str, Any]) -> list[str]:
    keys = descriptor["data_keys"]
    return list(dict.fromkeys(keys[key].get("object_name") or "" for key in image_keys(keys)))


def _alarms(devices: Iterable[str], data: Mapping[str, Any]) -> tuple[str, ...]:
    """What of an Event an operator must see: ``12 frames lost``."""
    counts = [
        (data.get(f"{device}_{key}") or 0, words) for device in devices for key, words in ALARMS.items()
    ]
    return tuple(f"{count:g} frames {words}" for count, words in counts if count)
