"""A NeXus file (HDF5) of a run: an NXentry with sample, instrument, and an NXdata group for each image.

In: the description and the images of a run. Out: a file whose ``default`` attributes lead plotting programs to the
first image, with axes and units as NeXus has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import live4d_ophyd
from live4d_ophyd.runs.description import RunDescription
from live4d_ophyd.runs.facts import Fact, local_time
from live4d_ophyd.runs.images import ScanImage
from live4d_ophyd.runs.readings import RunReadings


def write_nexus(
    path: Path, description: RunDescription, readings: RunReadings, stacks: Sequence[tuple[str, ScanImage]]
) -> None:
    """Write ``stacks`` of (stream, images ``(event, scan_y, scan_x)``) of one run."""
    start, stop = readings.start, readings.stop
    with h5py.File(path, "w") as file:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file.attrs.update(
            {"NX_class": "NXroot", "default": "entry", "file_name": path.name, "file_time": now}
        )
        entry = _group(file, "entry", "NXentry")
        entry["title"] = f"scan {start.get('scan_id', '?')}: {start.get('plan_name', '?')}"
        entry["entry_identifier_uuid"] = start["uid"]
        entry["entry_identifier"] = str(start.get("scan_id", ""))
        entry["start_time"] = local_time(start["time"])
        if stop:
            entry["end_time"] = local_time(stop["time"])
            _number(entry, "duration", float(stop["time"] - start["time"]), "s")
        entry["program_name"] = "live4d-ophyd"
        entry["program_name"].attrs["version"] = live4d_ophyd.__version__
        _sample(entry, description)
        _instrument(entry, description)
        for name, content in (("start", start), ("stop", stop), ("description", description.to_dict())):
            note = _group(entry, f"{name}_document" if name != "description" else name, "NXnote")
            note["type"] = "application/json"
            note["data"] = json.dumps(content, default=str)
        for stream, images in stacks:
            name = str(images.name) if stream == "primary" else f"{images.name}_{stream}"
            _data(entry, name, images)
            if "default" not in entry.attrs:
                entry.attrs["default"] = name


def _group(parent: Any, name: str, of: str) -> Any:
    group = parent.create_group(name)
    group.attrs["NX_class"] = of
    return group


def _number(group: Any, name: str, value: Any, unit: str = "") -> None:
    group[name] = value
    if unit:
        group[name].attrs["units"] = unit


def _fact(group: Any, name: str, fact: Fact | None) -> None:
    """A field, unless the run does not say it or says several things."""
    if fact is not None and isinstance(fact.value, int | float | str):
        _number(group, name, fact.value, fact.unit)


def _sample(entry: Any, description: RunDescription) -> None:
    sample = _group(entry, "sample", "NXsample")
    fact = description.get("metadata", {}).get("sample")
    if fact is None:
        return
    if isinstance(fact.value, dict):
        sample["name"] = str(fact.value.get("name", ""))
        sample["description"] = json.dumps(fact.value, default=str)
    else:
        sample["name"] = str(fact.value)


def _instrument(entry: Any, description: RunDescription) -> None:
    instrument = _group(entry, "instrument", "NXinstrument")
    beam = _group(instrument, "beam", "NXbeam")
    said = description.get("beam", {})
    _fact(beam, "incident_energy", said.get("energy"))
    _fact(beam, "incident_wavelength", said.get("wavelength"))
    _fact(beam, "camera_length", said.get("camera_length"))
    _fact(beam, "convergence_angle", said.get("convergence_angle"))
    _fact(beam, "magnification", said.get("magnification"))
    several = len(description.of_devices) > 1
    for device, sections in description.of_devices.items():
        facts, exposure = sections["detector"], sections["exposure"]
        if facts:
            detector = _group(instrument, f"detector_{device}" if several else "detector", "NXdetector")
            for field, fact in {
                "description": facts.get("model"),
                "serial_number": facts.get("serial_number"),
                "x_pixel_size": facts.get("pixel_size"),
                "threshold_energy": facts.get("threshold"),
                "count_time": exposure.get("count_time"),
                "frame_time": exposure.get("frame_time"),
            }.items():
                _fact(detector, field, fact)


def _data(entry: Any, name: str, images: ScanImage) -> None:
    """The images of one name: ``(scan_y, scan_x)``, with ``event`` in front where there are several Events."""
    several = images.sizes["event"] > 1
    shown = images if several else ScanImage(images.isel(event=0))
    group = _group(entry, name, "NXdata")
    group["data"] = shown.to_numpy()
    group["data"].attrs["units"] = images.attrs["units"]
    group["data"].attrs["long_name"] = f"{images.attrs['long_name']} [{images.attrs['units']}]"
    group.attrs["signal"] = "data"
    group.attrs["axes"] = list(shown.dims)
    group["title"] = name
    for axis, coordinate in shown.coords.items():
        values = coordinate.values
        if np.issubdtype(values.dtype, np.datetime64):
            values = np.char.add(np.datetime_as_string(values, unit="ms"), "Z").astype(h5py.string_dtype())
        elif values.dtype.kind == "U":
            values = values.astype(h5py.string_dtype())
        group[axis] = values
        if unit := coordinate.attrs.get("units"):
            group[axis].attrs["units"] = unit
            group[axis].attrs["long_name"] = f"{axis} [{unit}]"
        if coordinate.ndim == 1:
            group.attrs[f"{axis}_indices"] = list(shown.dims).index(coordinate.dims[0])
    attributes = _group(group, "virtual_detector", "NXcollection")
    for key, value in images.attrs.items():
        attributes[key] = value
