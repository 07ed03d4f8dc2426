"""The file of a recorded raster before its first frame: groups, datasets and everything that is known of it.

In: the scan, the frames' format, what the series says of itself, notes. Out: a closed HDF5 file for `ChunkFile`, which
other programs read as DECTRIS' files (arina readers), as NeXus with scan axes, and as EMD 1.0 (py4DSTEM, quantem):
docs/how-to/record.md has the layout, and who reads what.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5z

from live4d_ophyd.frames.codecs import BY_NAME, Codec
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.recording.chunk_file import LIBVER, make_index
from live4d_ophyd.recording.frame_sets import RECORDING, SCAN, FrameSet, frame_sets, names_in_file
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.units import ANGSTROM_M, METRES

#: whether the file was closed, (1,) int8; of a session that was killed it is 0
COMPLETE = f"{RECORDING}/complete"
#: when, (1,) text
END_TIME = f"{RECORDING}/end_time"

#: of a frame: it never came; it is in the file; it came, cannot be decoded, and lies in the file apart; it came, and is
#: not in the file, because the disk was too slow, say. In a file that is not complete, LOST may be UNRECORDED, too
LOST, GOOD, CORRUPT, UNRECORDED = range(4)
#: the same in words
STATE_WORDS = ("lost", "good", "corrupt", "not recorded")
MOST_CORRUPT = 1024

_AXES = ("scan_y", "scan_x", "q_y", "q_x")


@dataclass(frozen=True)
class Channel:
    """What is known of one of the detector's channels; as of `Recorded`."""

    name: str
    threshold: float | None = None
    pixel_mask: np.ndarray | None = None
    flatfield: np.ndarray | None = None


@dataclass(frozen=True)
class Recorded:
    """What a file is of. None, "" and empty: not known.

    channel : that of the images; others : further ones, each with frames of the same format
    flyback : frames that belong to no position are in it, too

    pixel_mask : of the detector, (q_y, q_x) uint32, any bit is bad
    flatfield : of the detector, (q_y, q_x) float32
    energy, threshold : eV. count_time, frame_time : s
    notes : what else is known, as JSON takes it: run, plan, microscope, settings of the acquisition
    """

    scan: ScanGrid
    format: FrameFormat
    codec: Codec
    detector: str = ""
    channel: str = ""
    series: int = 0
    unique_id: str = ""
    energy: float | None = None
    threshold: float | None = None
    count_time: float | None = None
    frame_time: float | None = None
    saturation: int | None = None
    pixel_mask: np.ndarray | None = None
    flatfield: np.ndarray | None = None
    software: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[Channel, ...] = ()
    flyback: bool = False

    @property
    def sets(self) -> tuple[FrameSet, ...]:
        """Datasets of frames."""
        others = [channel.name for channel in self.others]
        aside = self.scan.frames - self.scan.size if self.flyback else 0
        return frame_sets(self.scan.size, self.channel, others, aside)

    @property
    def in_place(self) -> tuple[str, ...]:
        """Datasets that are written to in place."""
        return (*(name for s in self.sets for name in (s.states, s.corrupt)), COMPLETE, END_TIME)


def cannot_record(codec: Codec, scan: ScanGrid) -> str:
    """Why such frames cannot lie in a file as they came; "" where they can."""
    if codec.name and codec.hdf5_filter is None:
        return f"HDF5 has no filter for frames that are compressed by {codec.name}: set the detector to bslz4 or lz4"
    return "a scan of one position has no index of chunks" if scan.size < 2 else ""


def write_template(path: Path, what: Recorded) -> None:
    """Make the file. Raises FileExistsError, OSError."""
    with h5py.File(path, "x", libver=LIBVER) as file:
        file.attrs.update(default=_text("entry"), NX_class=_text("NXroot"), creator=_text("live4d-ophyd"))
        entry = _group(file, "entry", "NXentry", default="scan")
        entry["title"] = str(what.notes.get("plan_name", "")) or "4D-STEM scan"
        entry["start_time"] = _now()
        for frame_set in what.sets:
            _write_frames(file, frame_set, what)
            if frame_set.scan:
                _write_scan(file, frame_set, what)
            else:
                _write_flyback(file, frame_set, what)
        _write_instrument(entry, what)
        _write_recording(entry, what)
        _write_emd(file, what)
        for frame_set in what.sets:
            make_index(file[frame_set.frames])


def now_as_text() -> np.ndarray:
    """For `END_TIME`."""
    return np.array([_now()], "S32")


def _write_frames(file: h5py.File, frame_set: FrameSet, what: Recorded) -> None:
    place, _, name = frame_set.frames.rpartition("/")
    group = _group(file, place, "NXdata", signal=name)
    shape = (frame_set.count, *what.format.shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *what.format.shape))
    # Frames without compression have the mark of a filter that was skipped: the index is of one kind for all.
    number, options = _filter_of(what)
    properties.set_filter(number, h5z.FLAG_OPTIONAL, options)
    space = h5py.h5s.create_simple(shape)
    dtype = h5py.h5t.py_create(what.format.dtype.newbyteorder("<"))
    h5py.h5d.create(group.id, name.encode(), dtype, space, properties)
    if frame_set.scan:
        group[name].attrs.update(image_nr_low=np.uint64(1), image_nr_high=np.uint64(shape[0]))


def _write_flyback(file: h5py.File, frame_set: FrameSet, what: Recorded) -> None:
    group = file[frame_set.frames.rpartition("/")[0]]
    numbers = np.full(frame_set.count, -1, np.int64)
    numbers[: what.scan.frames - what.scan.size] = what.scan.aside
    group["frame_number"] = numbers
    group.attrs["axes"] = np.array(["frame_number", ".", "."], "S12")
    group.attrs["frame_number_indices"] = 0


def _filter_of(what: Recorded) -> tuple[int, tuple[int, ...]]:
    codec = BY_NAME["bslz4"] if what.codec.hdf5_filter is None else what.codec
    assert codec.hdf5_filter is not None
    if codec.bitshuffle is None:
        return codec.hdf5_filter, ()
    # Elements of a block, 0: a chunk says so itself; what compresses.
    options = (0, codec.bitshuffle)
    # Before them: version of the filter, bytes of an element. Where the plugin is loaded it puts them there.
    itself = h5z.filter_avail(codec.hdf5_filter)
    return codec.hdf5_filter, options if itself else (0, 3, what.format.dtype.itemsize, *options)


def _write_scan(file: h5py.File, frame_set: FrameSet, what: Recorded) -> None:
    frames = file[frame_set.frames]
    (rows, cols), (q_rows, q_cols), scan = what.scan.shape, what.format.shape, what.scan
    place = frame_set.scan.rpartition("/")[0]
    group = _group(file, place, "NXdata", signal="data", interpretation="image")
    group.attrs["axes"] = np.array(_AXES, "S6")
    # As h5py.VirtualLayout does it, without its Python a row. One mapping of all would be slow to read.
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    virtual = h5py.h5s.create_simple((rows, cols, q_rows, q_cols))
    source = h5py.h5s.create_simple(frames.shape)
    for row in range(rows):
        virtual.select_hyperslab((row, 0, 0, 0), (1, cols, q_rows, q_cols))
        source.select_hyperslab((row * cols, 0, 0), (cols, q_rows, q_cols))
        properties.set_virtual(virtual, b".", frame_set.frames.encode(), source)
    virtual.select_all()
    h5py.h5d.create(group.id, b"data", frames.id.get_type(), virtual, properties)
    group["data"].attrs["units"] = "counts"
    lengths = dict(zip(_AXES, (rows, cols, q_rows, q_cols)))
    steps = dict(zip(_AXES, (*scan.steps, 1.0, 1.0)))
    for number, (axis, n) in enumerate(lengths.items()):
        group.attrs[f"{axis}_indices"] = number
        origin = (n - 1) / 2 if axis in _AXES[2:] else 0.0
        group[axis] = (np.arange(n) - origin) * steps[axis]
        group[axis].attrs.update(units=scan.unit if axis in _AXES[:2] else "px", step=float(steps[axis]))


def _write_instrument(entry: h5py.Group, what: Recorded) -> None:
    instrument = _group(entry, "instrument", "NXinstrument")
    detector = _group(instrument, "detector", "NXdetector")
    if what.detector:
        detector["description"] = what.detector
    for name, value in (("count_time", what.count_time), ("frame_time", what.frame_time)):
        _number(detector, name, value, "s")
    if what.saturation:
        detector["saturation_value"] = np.int64(what.saturation)
    detector["bit_depth_image"] = np.uint16(8 * what.format.dtype.itemsize)
    _write_channel(detector, what)
    # Readers of DECTRIS' files look into `detector`: it is of the images' channel.
    for channel, name in zip(what.others, names_in_file([other.name for other in what.others])):
        other = _group(instrument, f"detector_{name}", "NXdetector")
        _write_channel(other, channel)
        for shared in ("description", "count_time", "frame_time", "saturation_value"):
            if shared in detector:
                other[shared] = detector[shared]
    specific = _group(detector, "detectorSpecific", "NXcollection")
    specific["nimages"] = np.uint64(1)
    specific["ntrigger"] = np.uint64(what.scan.size)
    specific["y_pixels_in_detector"], specific["x_pixels_in_detector"] = map(np.uint64, what.format.shape)
    if what.energy is not None and np.isfinite(what.energy):
        _number(_group(instrument, "beam", "NXbeam"), "incident_energy", what.energy, "eV")


def _write_channel(detector: h5py.Group, what: Recorded | Channel) -> None:
    _number(detector, "threshold_energy", what.threshold, "eV")
    if what.pixel_mask is not None:
        detector["pixel_mask"] = what.pixel_mask.astype("<u4")
    if what.flatfield is not None:
        detector["flatfield"] = what.flatfield.astype("<f4")


def _number(group: h5py.Group, name: str, value: float | None, units: str) -> None:
    if value is not None and np.isfinite(value):
        group[name] = float(value)
        group[name].attrs["units"] = units


def _write_recording(entry: h5py.Group, what: Recorded) -> None:
    """What NeXus has no names for; what is written to in place has its size from the beginning."""
    group = _group(entry, "recording", "NXcollection")
    group["complete"] = np.zeros(1, np.int8)
    group["end_time"] = np.zeros(1, "S32")
    for frame_set in what.sets:
        group[frame_set.states] = np.full(frame_set.count, LOST, np.uint8)
        group[frame_set.corrupt] = np.full((MOST_CORRUPT, 3), -1, np.int64)
        group[frame_set.states].attrs.update(
            channel=frame_set.channel,
            frames=frame_set.frames,
            # As the CF conventions have it.
            flag_values=np.arange(len(STATE_WORDS), dtype=np.uint8),
            flag_meanings=" ".join(word.replace(" ", "_") for word in STATE_WORDS),
            description=(
                "lost: the frame never came. good: it is in the dataset of `frames`. corrupt: it came, cannot be "
                "decoded, and lies in the file apart. not recorded: it came, and is not in the file, because the disk "
                "was too slow, full, or failed. In a file that is not complete, lost may also be not recorded."
            ),
        )
    group["channel"] = what.channel
    group["series"] = np.int64(what.series)
    group["series_unique_id"] = what.unique_id
    group["software"] = what.software
    group["notes"] = json.dumps(what.notes, default=_plain)
    grid = what.scan
    for name in ("rows", "cols", "serpentine", "flyback", "last_flyback", "lead_in"):
        group[f"scan_{name}"] = np.int64(getattr(grid, name))


def _write_emd(file: h5py.File, what: Recorded) -> None:
    """EMD 1.0, as py4DSTEM and quantem read it: a data cube that is the dataset over the scan."""
    user = ""
    with suppress(Exception):  # no such user
        user = getpass.getuser()
    file.attrs.update(
        emd_group_type="file", version_major=1, version_minor=0, authoring_program="live4d-ophyd",
        authoring_user=user, UUID=what.unique_id,
    )  # fmt: skip
    root = file.create_group("datacube_root")
    root.attrs.update(emd_group_type="root", python_class="Root")
    cube = root.create_group("datacube")
    cube.attrs.update(emd_group_type="array", python_class="DataCube")
    cube["data"] = file[SCAN]
    metres = METRES.get(what.scan.unit)
    step_y, step_x = (step * (metres / ANGSTROM_M if metres else 1.0) for step in what.scan.steps)
    unit = "A" if metres else "pixels"  # what EMD's readers know
    # x comes first in py4DSTEM: its Rx is scan_y.
    for number, (name, size, units) in enumerate(
        (("Rx", step_y, unit), ("Ry", step_x, unit), ("Qx", 1.0, "pixels"), ("Qy", 1.0, "pixels"))
    ):
        dim = cube.create_dataset(f"dim{number}", data=np.array([0.0, size]))
        dim.attrs.update(name=name, units=units)
    bundle = root.create_group("metadatabundle")
    bundle.attrs["emd_group_type"] = "metadatabundle"
    calibration = bundle.create_group("calibration")
    calibration.attrs.update(emd_group_type="metadata", python_class="Calibration")
    for key, value, kind in (
        ("R_pixel_size", step_x, "number"), ("R_pixel_units", unit, "string"), ("Q_pixel_size", 1.0, "number"),
        ("Q_pixel_units", "pixels", "string"), ("QR_flip", False, "bool"), ("_root_treepath", "", "string"),
    ):  # fmt: skip
        calibration[key] = value
        calibration[key].attrs["type"] = kind
    targets = calibration.create_group("_target_paths")
    targets.attrs.update(length=1, type="list_of_strings")
    targets["0"] = "/datacube"


def _group(parent: h5py.Group, name: str, kind: str, **attributes: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update(NX_class=_text(kind), **{key: _text(value) for key, value in attributes.items()})
    return group


def _text(value: str) -> np.bytes_:
    return np.bytes_(value)


def _now() -> str:
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value)
