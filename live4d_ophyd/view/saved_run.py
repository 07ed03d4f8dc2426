"""A run of the catalog as pages show it: its images and patterns by Event, settings, recorded frames.

In: the client of a run. Out: `SavedEvent`. A thread that may use the catalog, one at a time; `recorded_pattern` and
`make_image` in any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from live4d_ophyd.decode import choose_backend
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.live.panel import ScanAxes
from live4d_ophyd.offline import acquire_raster, request_for
from live4d_ophyd.recording.frame_sets import FRAMES, SCAN, STATES
from live4d_ophyd.recording.template import CORRUPT, GOOD, LOST, UNRECORDED
from live4d_ophyd.runs.description import description_of
from live4d_ophyd.runs.find import as_stored
from live4d_ophyd.runs.images import is_symmetric, read_images
from live4d_ophyd.runs.picture import steps_of
from live4d_ophyd.runs.readings import RunReadings, is_known
from live4d_ophyd.view.live_run import PLAIN, PatternPicture, ScanPicture
from live4d_ophyd.view.outlines import detector_shape

#: of a recorded frame that cannot be shown
_STATES = {LOST: "lost", CORRUPT: "corrupt", UNRECORDED: "not recorded"}


class NoImages(ValueError):
    """The run has no images over a scan."""


@dataclass(frozen=True, eq=False)
class SavedEvent:
    """What is shown of one Event."""

    #: from 0
    index: int
    #: of the run's table
    seq_num: int
    #: what the plan moved, and where it was: ``defocus 14.7 nm``
    moved: str
    #: ``12 frames lost``
    alarms: tuple[str, ...]
    #: of the device, by their full names
    settings: Mapping[str, Any]
    pictures: Mapping[str, ScanPicture]
    pattern: PatternPicture | None
    #: of its recorded frames; None where there are none, or where they are not on a disk that is seen here
    frames: Path | None
    #: (q_y, q_x) px; None: nobody knows
    detector_shape: tuple[int, int] | None


class SavedRun:
    """One run, one device with images and one of its streams; by default the first device's.

    Raises `NoImages`.
    """

    def __init__(self, run: Any, device: str | None = None) -> None:
        self.readings = RunReadings(as_stored(run))
        start = self.readings.start
        self.uid = str(start["uid"])
        self.title = f"scan {start.get('scan_id', '?')}  {start.get('plan_name', '')}"
        if not self.readings.devices:
            raise NoImages(f"run {self.uid[:8]} has no images over a scan")
        self.device = self.readings.devices[device] if device else next(iter(self.readings.devices.values()))
        streams = self.device.streams
        self.stream = "primary" if "primary" in streams else streams[0]
        self._before = sum(
            len(self.readings.seq_nums[name]) for name in streams[: streams.index(self.stream)]
        )
        self.status = str(self.readings.stop.get("exit_status", "not finished"))
        self._seq_nums = self.readings.seq_nums[self.stream]
        self._stored = self.readings.streams[self.stream]
        keys = self._stored.metadata["data_keys"]
        prefix = f"{self.device.name}_"
        self.images = [
            name for name in self.device.images if f"{prefix}{name}" in keys and PLAIN.fullmatch(name)
        ]
        self.patterns = [
            key.removeprefix(prefix)
            for key, entry in keys.items()
            if key.startswith(prefix) and not entry.get("external") and list(entry.get("dims") or ()) == ["q_y", "q_x"]
        ]  # fmt: skip
        self._brightness = {
            key.removeprefix(prefix): str(entry["brightness"]).removeprefix(prefix)
            for key, entry in keys.items()
            if entry.get("brightness")
        }

    @property
    def events(self) -> int:
        """How many Events it has."""
        return len(self._seq_nums)

    def table(self) -> str:
        """What the run is, as an HTML table."""
        return description_of(self.readings)._repr_html_()

    def event(self, index: int, images: Sequence[str], pattern: str | None) -> SavedEvent:
        """The Event at ``index``, from 0, with these of its `images`, and one of its `patterns`."""
        of_event = self.device.of_events([self._before + index])
        values = {key: series[0] for key, series in of_event.events.items() if series}
        settings = {
            f"{self.device.name}_{key}": value for key, value in {**of_event.configuration, **values}.items()
        }
        lost = {what: values.get(f"frames_{what}") for what in ("lost", "bad", "saturated")}
        alarms = tuple(
            f"{count:g} frames {what}" for what, count in lost.items() if is_known(count) and count
        )
        return SavedEvent(
            index, self._seq_nums[index], self._moved(index), alarms, settings,
            {name: self._picture(name, index) for name in images},
            self._pattern(pattern, index) if pattern else None,
            _file(values.get("recorded_file")), detector_shape(settings, self.device.name),
        )  # fmt: skip

    def _picture(self, name: str, index: int) -> ScanPicture:
        found = self._read(name, index)
        bright = self._brightness.get(name)
        brightness = self._read(bright, index).to_numpy() if bright in self.images else None
        steps, unit = steps_of(found)
        units = str(found.attrs.get("units", ""))
        return ScanPicture(
            name, found.to_numpy(), ScanAxes(steps, unit), units, brightness, is_symmetric(found)
        )

    def _read(self, name: str, index: int) -> Any:
        number = self._seq_nums[index]
        return read_images(self.readings, self.device, name, self.stream, number).isel(event=0)

    def _moved(self, index: int) -> str:
        words = []
        for key, values in self.readings.moved_in.get(self.stream, {}).items():
            if not key.endswith("_setpoint") and index < len(values) and is_known(values[index]):
                value = values[index]
                shown = f"{value:.6g}" if isinstance(value, float) else str(value)
                words.append(f"{key} {shown} {self.readings.units.get(key, '')}".rstrip())
        return ", ".join(words)

    def _pattern(self, name: str, index: int) -> PatternPicture:
        (values,) = self._stored.array(f"{self.device.name}_{name}", slice(index, index + 1))
        return PatternPicture(name, values.astype(float), self.device.units.get(name, ""))


def _file(name: Any) -> Path | None:
    """The file of this name, if it is there."""
    with suppress(OSError, ValueError):
        if name and (path := Path(str(name))).is_file():
            return path
    return None


def make_image(path: Path, method: Method, on_progress: Callable[[float], None]) -> tuple[np.ndarray, str]:
    """The image that ``method`` makes of recorded frames, (scan_y, scan_x), and its unit; raises as `reprocess_file`.

    One thread makes it.

    ``on_progress`` gets the fraction that is done; what it raises ends it.
    """
    request = request_for(path, [method], workers=1)
    total = max(request.grid.frames, 1)
    raster = acquire_raster(
        request, choose_backend("cpu"), quiet=True, on_progress=lambda done: on_progress(done / total)
    )
    return raster.outputs[method.name], "counts" if request.gain is None else "gain-corrected counts"


def recorded_pattern(path: Path, row: int, col: int) -> PatternPicture:
    """The pattern of one scan position, (q_y, q_x) counts; NaN where a pixel holds none, or the frame is not there.

    Raises OSError, ValueError where the file is none that live4d has recorded.
    """
    import h5py
    import hdf5plugin  # noqa: F401  the filters of the frames

    with h5py.File(path, "r") as file:
        if FRAMES not in file or STATES not in file or SCAN not in file:
            raise ValueError(f"{path.name} is no file of frames that live4d recorded")
        number = row * file[SCAN].shape[1] + col
        state, frame = int(file[STATES][number]), file[FRAMES][number]
    values = frame.astype(float)
    values[frame == np.iinfo(frame.dtype).max] = np.nan
    label = f"pattern at row {row}, col {col}"
    if state != GOOD:
        values[:] = np.nan
        label += f": {_STATES.get(state, 'not there')}"
    return PatternPicture(label, values, "counts")
