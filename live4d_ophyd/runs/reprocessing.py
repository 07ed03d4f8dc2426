"""reprocess: images of frames that were recorded, of a file or of a run; those of a run are a new run that names it.

In: a run with recorded frames, or a file; methods and settings, by default those of the live image. Out: a raster, or
the client of a new run in the catalog, which all that reads a live run can read. The frames go through the engine that
makes images live, one file after the other, in the caller's thread and those of `Acquisition`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.engine import AcquisitionRequest, RasterResult
from live4d_ophyd.engine.series_record import digest
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.offline import make, request_for
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.hdf5_frames import Hdf5Frames

if TYPE_CHECKING:  # Bluesky and Tiled take seconds: a file needs neither
    from live4d_ophyd.runs.readings import DeviceReadings, RunReadings

log = logging.getLogger(__name__)

#: what begins the names of the data keys where no run says
_DEVICE = "live4d"
PLAN_NAME = "reprocess"
#: metadata of a reprocessed run that are its own
_OWN = (
    "original_uid",
    "original_scan_id",
    "original_plan_name",
    "original_events",
    "files",
    "methods",
    "decoded_on",
    "dataset",
)


def reprocess(
    run_or_file: Any,
    methods: Sequence[Method] | None = None,
    scan: ScanGrid | None = None,
    *,
    event: int | None = None,
    stream: str | None = None,
    device: str | None = None,
    catalog: Any = None,
    dataset: str = "",
    backend: str = "auto",
    workers: int | None = None,
    cluster: Any = None,
    quiet: bool = False,
    nodata: bool | None = None,
    saturated: str | None = None,
    bad_pixels: str | None = None,
    pixel_mask: np.ndarray | None = None,
    gain: np.ndarray | None = None,
    calibration: Calibration | None = None,
) -> Any:
    """Images of recorded frames, by the engine that makes them live.

    Parameters
    ----------
    run_or_file : a run of a catalog, ``db[-1]``, or what `describe` takes for one: uid, scan id, -1; or the path of a
        file: what live4d recorded, a DECTRIS master file, or any HDF5 file with a dataset (frames, q_y, q_x) or
        (scan_y, scan_x, q_y, q_x)
    methods : virtual detectors and other methods; None: those of the live image, as the file has them
    scan : the scan's geometry; None: the file's, which one of three dimensions has only if live4d recorded it
    event : of a run, only this Event, by its number in the run's table, from 1, -1 the last; None: all that have frames
    stream : of a run, the stream of the Event; None: ``primary``, or the only one with images
    device : of a run, the device whose frames they are; None: the only one
    catalog : Tiled profile, directory or URL where a run is looked up and the new one written, or a client; None: a
        run's own, or that of a session. With a file: where a new run is written; None: nowhere
    dataset : where in the file the frames are; "" looks for them
    backend : "auto", "cpu", "gpu", or GPUs by number, "gpu:0,1"
    workers : threads that decode; None: one a core
    cluster : machines that share the work, by dask.distributed: the address of a scheduler, ``tcp://host:8786``; a
        number of processes on this machine; or a ``distributed.Client``. All see the file by the same path
    quiet : without a progress bar
    nodata, saturated, bad_pixels, pixel_mask, gain, calibration : as of `Live4D`; None: as the file says they were,
    else
        True, "leave_out", "exclude", none

    Returns
    -------
    RasterResult, or the client of a run
        Of a file without ``catalog``: ``outputs`` by name, float64, NaN where the file has no frame that can be read;
        ``losses`` counts them. Else a new run, with an Event for each that was reprocessed, the plan_name "reprocess",
        and ``original_uid``.

    Raises
    ------
    ValueError
        The file has no frames, the run no recorded ones; no scan or no methods are given and the file knows none; the
        settings do not fit.
    FileNotFoundError
        There is no such file.
    NoSuchRun
        There is no such run.
    NothingCame, MethodFailed, BackendUnavailable
        As of a live scan.
    ClusterFailed, NoMethod
        The cluster lacks something: the reason says what, and what to do.

    Examples
    --------
    >>> reprocess("scan_master.h5", [Disk("bf", radius=12)], ScanGrid(256, 256)).outputs["bf"]  # doctest: +SKIP
    >>> image(reprocess(db[-1], [Annulus("wide", inner=30, outer=48)]), "wide")  # doctest: +SKIP
    """
    settings = {
        "dataset": dataset, "workers": workers, "nodata": nodata, "saturated": saturated, "pixel_mask": pixel_mask,
        "gain": gain, "calibration": calibration, "bad_pixels": bad_pixels,
    }  # fmt: skip

    def request_of(path: str, **of_event: Any) -> AcquisitionRequest:
        given = {name: value for name, value in settings.items() if value is not None}
        return request_for(path, methods, scan, **{**of_event, **given})

    def made(request: AcquisitionRequest) -> RasterResult:
        return make(request, backend, cluster, quiet=quiet)

    said = {"decoded_on": backend if cluster is None else f"{backend}, cluster"}
    if dataset:
        said["dataset"] = dataset
    if is_file(run_or_file):
        if event is not None or stream is not None or device is not None:
            raise ValueError(f"event, stream and device are of a run; {run_or_file} is a file")
        if catalog is None:
            return made(request_of(run_or_file))
        return _store(_open(catalog), _of_file(str(run_or_file), request_of), made, said)
    from live4d_ophyd.runs.find import as_stored, find_run

    if hasattr(run_or_file, "metadata"):
        run, db = as_stored(run_or_file), run_or_file.parent if catalog is None else _open(catalog)
    else:
        db = _open(catalog)
        run = as_stored(find_run(db, run_or_file))
    return _store(
        db, _of_run(run, request_of, event, stream, device, masked=pixel_mask is not None), made, said
    )


def is_file(which: Any) -> bool:
    """Whether it is meant as the path of a file: a path, or a text that is no name of a run, or that of a file."""
    if isinstance(which, os.PathLike):
        return True
    return isinstance(which, str) and (not re.fullmatch(r"-?[\w-]+", which) or Path(which).is_file())


def _open(catalog: Any) -> Any:
    from live4d_ophyd.storage import existing_catalog

    return catalog if hasattr(catalog, "metadata") else existing_catalog(catalog)


# What is to be reprocessed ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A file whose raster is to be an Event, and what goes with it; ``also``: (data key, its entry, value, owner)."""

    stream: str
    path: str
    request: Callable[[], AcquisitionRequest]
    also: tuple[tuple[str, Mapping[str, Any], Any, str], ...] = ()
    applied_mask: str | None = None  #: digest of the mask that the live image had; None: not to be compared
    #: when the raster was over, s since 1970; None: not known, the time of decoding is told
    ended: float | None = None


@dataclass(frozen=True)
class _Plan:
    """All that a new run is made of."""

    device: str
    sources: Sequence[_Source]
    metadata: Mapping[str, Any]
    readings: RunReadings | None = None  #: of the old run


def _of_file(path: str, request_of: Callable[..., AcquisitionRequest]) -> _Plan:
    with_notes = Hdf5Frames(path, places=False)
    try:
        notes = with_notes.notes()
    finally:
        with_notes.close()
    metadata = {
        f"original_{key}": notes[key]
        for key in ("uid", "scan_id", "plan_name")
        if isinstance(notes.get(key), str | int)
    }
    name = notes.get("device")
    name = name if isinstance(name, str) and name else _DEVICE
    source = _Source("primary", os.path.abspath(path), partial(request_of, path))
    return _Plan(name, [source], metadata)


def _of_run(
    run: Any,
    request_of: Callable[..., AcquisitionRequest],
    event: int | None,
    stream: str | None,
    device: str | None,
    *,
    masked: bool,
) -> _Plan:
    from live4d_ophyd.runs.readings import RunReadings
    from live4d_ophyd.runs.sections import BLUESKYS, unwrapped

    readings = RunReadings(run)
    name = f"run {readings.start['uid'][:8]} (scan {readings.start.get('scan_id', '?')})"
    found = _recorded_device(readings, name, device)
    sources, events = [], []
    for of_stream, number, at, index in _events_of(readings, found, name, event, stream):
        taken = found.of_events([at])
        path = (taken.events.get("recorded_file") or [""])[0]
        if not path:
            if event is None:
                continue
            raise ValueError(f"Event {number} of {name} has no recorded frames")
        if not Path(path).is_file():
            raise FileNotFoundError(f"the frames of Event {number} of {name} are not there: {path}")
        entries = unwrapped(readings.streams[of_stream].metadata["data_keys"])
        also = tuple(
            (key, entries[key], values[index], readings.owners.get(key) or key)
            for key, values in readings.moved_in.get(of_stream, {}).items()
            if index < len(values)
        )
        mask = None if masked else taken.get("series_pixel_mask")
        policies = ("nodata", "saturated", "bad_pixels")
        settings = {key: taken.get(key) for key in policies if taken.get(key) is not None}
        ended = readings.times[of_stream, found.name]
        sources.append(
            _Source(of_stream, path, partial(request_of, path, **settings), also, mask, ended[index])
        )
        events.append({"stream": of_stream, "event": number})
    if not sources:
        raise ValueError(f"the stream {stream!r} of {name} has no recorded frames")
    kept = {
        key: unwrapped(value)
        for key, value in readings.start.items()
        if key not in BLUESKYS and key not in _OWN
    }
    metadata = {
        **kept,
        **{
            f"original_{key}": readings.start[key]
            for key in ("uid", "scan_id", "plan_name")
            if key in readings.start
        },
        "original_events": events,
    }
    return _Plan(found.name, sources, metadata, readings)


def _recorded_device(readings: RunReadings, name: str, device: str | None) -> DeviceReadings:
    there = {
        key: found for key, found in readings.devices.items() if any(found.events.get("recorded_file", ()))
    }
    if device in there:
        return there[device]
    if device is None and len(there) == 1:
        return next(iter(there.values()))
    if not there:
        raise ValueError(
            f"{name} has no recorded frames: frames are recorded if the setting `record` is a path"
        )
    raise ValueError(f"{name} has recorded frames of {', '.join(there)}: say of which device, not {device!r}")


def _events_of(
    readings: RunReadings, device: DeviceReadings, name: str, event: int | None, stream: str | None
) -> Iterator[tuple[str, int, int, int]]:
    """Stream, number, place among all of the device's, and place in the stream, of the Events that are meant."""
    if stream is None and event is not None:
        stream = "primary" if "primary" in device.streams or len(device.streams) > 1 else device.streams[0]
    if stream is not None and stream not in device.streams:
        raise ValueError(
            f"{name} has no images of {device.name} in the stream {stream!r}: {', '.join(device.streams)}"
        )
    at, found = 0, False
    for of_stream in device.streams:
        numbers = readings.seq_nums[of_stream]
        for index, number in enumerate(numbers):
            if stream in (None, of_stream) and (event is None or event in (number, index - len(numbers))):
                found = True
                yield of_stream, number, at + index, index
        at += len(numbers)
    if not found:
        raise ValueError(f"{name} has no Event {event} of {device.name}: Events are numbered from 1")


# The new run ------------------------------------------------------------------------------------------


def _store(
    db: Any, plan: _Plan, made: Callable[[AcquisitionRequest], RasterResult], said: Mapping[str, Any]
) -> Any:
    """The client of the new run."""
    from live4d_ophyd.device.reprocessed import Reprocessed
    from live4d_ophyd.runs.find import as_stored
    from live4d_ophyd.storage.new_run import NewRun

    began = time.time()
    first = plan.sources[0].request()
    metadata = {
        **plan.metadata,
        **said,
        "plan_name": PLAN_NAME,
        "detectors": [plan.device],
        "num_points": len(plan.sources),
        "files": [source.path for source in plan.sources],
        "methods": {method.name: _plain(registry.to_dict(method)) for method in first.methods},
        "versions": {
            "live4d_ophyd": sys.modules["live4d_ophyd"].__version__,
            **{package: version(package) for package in ("event-model", "ophyd")},
        },
    }
    run = NewRun(db, metadata, began)
    with run.closed_at_the_end():
        for number, source in enumerate(plan.sources):
            request = source.request() if number else first
            device = Reprocessed.of(plan.device, request)
            raster = made(request)
            if source.applied_mask not in (None, raster.info.pixel_mask):
                log.warning(
                    "%s: other pixels are masked than in the live image: masks %r and %r", source.path,
                    raster.info.pixel_mask or "none", source.applied_mask or "none",
                )  # fmt: skip
            device.put(raster, source.path, str(said["decoded_on"]))
            if number == 0 and plan.readings is not None:
                _copy_baseline(run, plan.readings)
            _write_event(run, source, device)
    return as_stored(db[run.uid])


def _write_event(run: Any, source: _Source, device: Any) -> None:
    readings = device.read()
    data_keys = {key: {**entry, "object_name": device.name} for key, entry in device.describe().items()}
    object_keys: dict[str, list[str]] = {device.name: list(data_keys)}
    data = {key: reading["value"] for key, reading in readings.items()}
    timestamps = {key: source.ended or reading["timestamp"] for key, reading in readings.items()}
    for key, entry, value, owner in source.also:
        data_keys[key], data[key] = {**entry, "object_name": owner}, value
        timestamps[key] = source.ended or time.time()
        object_keys.setdefault(owner, []).append(key)
    configuration = device.read_configuration()
    run.event(
        source.stream,
        data,
        data_keys,
        object_keys,
        timestamps=timestamps,
        configuration={
            device.name: {
                "data": {key: reading["value"] for key, reading in configuration.items()},
                "timestamps": {key: reading["timestamp"] for key, reading in configuration.items()},
                "data_keys": device.describe_configuration(),
            }
        },
        hints={device.name: device.hints},
    )


def _copy_baseline(run: Any, readings: RunReadings) -> None:
    """What the microscope was set to: with it lengths on the detector are angles."""
    known = {
        key: values
        for key, values in readings.baseline.items()
        if key not in ("seq_num", "time") and all(value is not None for value in values)
    }
    times = readings.baseline.get("time", [])
    if not known or not times:
        return
    data_keys: dict[str, Any] = {}
    object_keys: dict[str, list[str]] = {}
    for key in known:
        owner = readings.owners.get(key) or key
        data_keys[key] = {**readings.data_keys[key], "object_name": owner}
        object_keys.setdefault(owner, []).append(key)
    for index, when in enumerate(times):
        data = {key: values[index] for key, values in known.items()}
        run.event("baseline", data, data_keys, object_keys, timestamps=dict.fromkeys(data, when), time=when)


def _plain(value: Any) -> Any:
    """As metadata have it: arrays by their digest, what is no number as text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return f"{' x '.join(map(str, value.shape))} {value.dtype.name}, sha256 {digest(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
