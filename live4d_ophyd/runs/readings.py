"""What a run's Events, configuration and baseline say, as plain values: one place that knows where they are stored.

In: the client of a run. Out: per device the image streams, and for each key the values of its Events, or that of the
configuration in runs of versions that recorded settings only there. Images are not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from live4d_ophyd.image_streams import image_keys, previewed_device
from live4d_ophyd.runs.stored_stream import StoredStream


@dataclass
class DeviceReadings:
    """One device with images: its values by key without the device's name (``scan_rows``, ``vbf_radius``)."""

    name: str
    images: list[str] = field(default_factory=list)  #: their names, without the device's
    streams: list[str] = field(default_factory=list)  #: that hold its images
    events: dict[str, list[Any]] = field(default_factory=dict)  #: of all these streams, one after the other
    configuration: dict[str, Any] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    brightness: dict[str, str] = field(
        default_factory=dict
    )  #: of an angle, the image that it is as bright as
    channels: dict[str, str] = field(
        default_factory=dict
    )  #: of the detector, by image, where the run says it
    symmetric: set[str] = field(default_factory=set)  #: images of either sign

    def get(self, key: str) -> Any:
        """The value that all Events agree on, else the list of theirs; None where it is not known."""
        values = self.events.get(key)
        if not values:
            return self.configuration.get(key)
        return values[0] if same(values) else values

    def of_events(self, at: Sequence[int]) -> DeviceReadings:
        """The same with only these Events, by their positions in the lists."""
        chosen = {
            key: [values[index] for index in at if index < len(values)] for key, values in self.events.items()
        }
        return replace(self, events=chosen)


class RunReadings:
    """All that is read of a run to describe it."""

    def __init__(self, run: Any) -> None:
        self.start: Mapping[str, Any] = run.metadata["start"]
        self.stop: Mapping[str, Any] = run.metadata.get("stop") or {}
        self.devices: dict[str, DeviceReadings] = {}
        self.seq_nums: dict[str, list[int]] = {}  #: by image stream
        #: of rasters, by image stream and device, s since 1970
        self.times: dict[tuple[str, str], list[float]] = {}
        self.moved: dict[str, list[Any]] = {}  #: what else the image streams hold, with full names
        self.moved_in: dict[str, dict[str, list[Any]]] = {}  #: the same by stream: not all have all
        self.units: dict[str, str] = {}  #: by full name
        self.data_keys: dict[str, dict[str, Any]] = {}  #: of the baseline, by full name
        self.baseline: dict[str, list[Any]] = {}
        self.owners: dict[str, str] = {}  #: device of a key, by full name
        self.streams: dict[str, StoredStream] = {}  #: those with images
        #: names of streams; previews are emitted, and stored only if asked for
        self.stored: list[str] = []
        for name in run:
            self.stored.append(name)
            stream = StoredStream(run[name])
            metadata = stream.metadata
            if name == "baseline":
                self._note_keys(metadata["data_keys"])
                self.data_keys = {key: dict(entry) for key, entry in metadata["data_keys"].items()}
                self.baseline = numbers_and_texts(stream)
            elif image_keys(metadata["data_keys"]) and not previewed_device({**metadata, "name": name}):
                self._note_keys(metadata["data_keys"])
                self.streams[name] = stream
                self._read_stream(stream, name)

    def of_events(self, device: DeviceReadings, at: Sequence[int]) -> RunReadings:
        """The same with only this device and these Events of its streams."""
        part = copy(self)
        part.devices = {device.name: device.of_events(at)}
        return part

    def _note_keys(self, data_keys: Mapping[str, Mapping[str, Any]]) -> None:
        for key, entry in data_keys.items():
            self.units[key] = entry.get("units") or ""
            self.owners[key] = entry.get("object_name") or ""

    def _read_stream(self, stored: StoredStream, stream: str) -> None:
        metadata = stored.metadata
        data_keys = metadata["data_keys"]
        # As image_streams.raster_time has it, by device.
        first = {self.owners[key]: f"ts_{key}" for key in reversed(image_keys(data_keys))}
        owners = dict.fromkeys(self.owners[key] for key in image_keys(data_keys))
        values = numbers_and_texts(stored, also=[stamp for stamp in first.values() if stamp in stored.keys])
        self.seq_nums[stream] = values.pop("seq_num", [])
        of_documents = values.pop("time", [])
        for owner, stamp in first.items():
            self.times[stream, owner] = values.pop(stamp, of_documents)
        for owner in owners:
            device = self.devices.setdefault(owner, DeviceReadings(owner))
            device.streams.append(stream)
            prefix = f"{owner}_"
            for key in image_keys(data_keys):
                if self.owners[key] == owner and (short := key.removeprefix(prefix)) not in device.images:
                    device.images.append(short)
                    if brightness := data_keys[key].get("brightness"):
                        device.brightness[short] = brightness.removeprefix(prefix)
                    if channel := data_keys[key].get("channel"):
                        device.channels[short] = channel
                    if data_keys[key].get("symmetric"):
                        device.symmetric.add(short)
            configuration = metadata.get("configuration", {}).get(owner, {})
            for key, value in configuration.get("data", {}).items():
                device.configuration.setdefault(key.removeprefix(prefix), value)
            keys = {**configuration.get("data_keys", {}), **data_keys}
            for key, entry in keys.items():
                if key.startswith(prefix) and entry.get("units") is not None:
                    device.units[key.removeprefix(prefix)] = entry["units"]
            for key, series in values.items():
                if self.owners.get(key) == owner:
                    device.events.setdefault(key.removeprefix(prefix), []).extend(series)
        for key, series in values.items():
            if self.owners.get(key) not in owners:
                self.moved.setdefault(key, []).extend(series)
                self.moved_in.setdefault(stream, {})[key] = series


def numbers_and_texts(stream: StoredStream, also: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The columns of a stream: one plain value an Event, with ``seq_num`` and ``time``, and ``also`` these."""
    if "seq_num" not in stream.keys:
        return {}  # no Event
    data_keys = stream.metadata["data_keys"]
    there = [key for key, entry in data_keys.items() if entry["dtype"] != "array" and key in stream.keys]
    return stream.columns([*there, "seq_num", "time", *also])


def same(values: list[Any]) -> bool:
    """Whether all are equal; NaN equals NaN."""
    return all(value == values[0] or (not is_known(value) and not is_known(values[0])) for value in values)


def is_known(value: Any) -> bool:
    """Whether a value is there: NaN, None, "" and vectors of NaN are none."""
    if isinstance(value, list | tuple):
        return any(is_known(item) for item in value)
    return not (value is None or value == "" or (isinstance(value, float) and math.isnan(value)))
