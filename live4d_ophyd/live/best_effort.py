"""Bluesky's BestEffortCallback with live images of the methods.

Comes in: the documents of a RunEngine. Goes out: the usual table and plots of the hinted numbers, and for
each device with images over (scan_y, scan_x) one window, one PNG file a run, or both. Previews (stream
``live4d_live``) and results (``primary``) of a device feed the same panels. Under Qt everything here runs in
the GUI's thread, otherwise in the RunEngine's; files are drawn by a process of their own (pictures.py).
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.callbacks.best_effort import BestEffortCallback

from live4d_ophyd.image_streams import image_keys, previewed_device, run_stem
from live4d_ophyd.live.panel import LARGEST_IN, ImageFigure, Panel, ScanAxes
from live4d_ophyd.live.pictures import Picture, Pictures

#: of one file, while the run goes on, s: a picture takes about 0.2 s of a core
PICTURE_PERIOD = 1.0
#: how long who asks for a picture waits until it is drawn, s
PICTURE_WAIT_S = 10.0
#: what an operator must see: the end of a data key, and the words after its number
ALARMS = {
    "frames_lost": "lost",
    "frames_bad": "bad",
    "frames_saturated": "saturated",
    "frames_unrecorded": "not recorded",
    "live_saturated": "saturated",
}
#: of these, columns of the table
IN_TABLE = ("frames_lost", "frames_saturated")


#: what calibrations found, one Event each: a curve of it would be one point
SINGLE_EVENT_STREAMS = ("bright_field", "flat_field", "lattice", "rotation")


class Live4DBestEffortCallback(BestEffortCallback):
    """Table, plots, and live images: ``RE.subscribe(Live4DBestEffortCallback())``.

    Parameters
    ----------
    image_directory
        Write ``SCANID_UID8_DEVICE.png`` there: with windows at the end of each run, without also while it goes on, at
        most once a second. ``picture_path`` is the newest.
    windows
        Show images in windows. Default: unless there is an ``image_directory``, as for sessions without a display.
    max_rate
        Redraws of a window a second, at most. The last image of a run is always drawn.
    percentiles
        Of the positions seen, that become black and white.
    **kwargs
        As for ``BestEffortCallback``.
    """

    def __init__(
        self,
        *,
        image_directory: str | os.PathLike | None = None,
        windows: bool | None = None,
        max_rate: float = 5.0,
        percentiles: tuple[float, float] = (0.5, 99.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.noplot_streams = [*self.noplot_streams, *SINGLE_EVENT_STREAMS]
        self._image_directory = (
            None if image_directory is None else Path(image_directory).expanduser().resolve()
        )
        self._windows = self._image_directory is None if windows is None else windows
        self._period = 1 / max_rate if self._windows else PICTURE_PERIOD
        self._percentiles = percentiles
        self._pictures = Pictures(percentiles)
        self._figures: dict[str, ImageFigure] = {}  # by device; windows outlive the run
        self._panels: dict[str, dict[str, Panel]] = {}  # by device, of this run: by data key
        self._axes: dict[str, ScanAxes] = {}  # by device; as of the newest descriptor that knows
        self._previews: dict[str, str] = {}  # descriptor uid: device, of the streams nothing else is shown of
        self._image_streams: dict[str, dict[str, list[str]]] = {}  # descriptor uid: device: data keys
        self._titles: dict[str, tuple[str, bool]] = {}  # by device, of this run: and whether it is alarming
        self._finished: dict[str, int] = {}  # by device: seq_num of its newest Event that is no preview
        self._drawn_at: dict[str, float] = {}  # by device, time.monotonic()
        self._run_uid, self._scan_id, self._plan_name = "", 0, ""
        self._motors: tuple[str, ...] = ()
        self._pictures_of: str | None = None  # uid of the run that picture_paths are of
        self._picture_paths: dict[str, Path] = {}

    @property
    def picture_paths(self) -> dict[str, Path]:
        """The PNG files of the last run that had images, by device; waits until they are drawn."""
        self._pictures.wait(PICTURE_WAIT_S)
        return self._picture_paths

    @property
    def picture_path(self) -> Path | None:
        """The first of `picture_paths`; None before the first run, and without ``image_directory``."""
        return next(iter(self.picture_paths.values()), None)

    def start(self, doc: Any) -> None:
        super().start(doc)
        self._run_uid = doc["uid"]
        self._scan_id = doc.get("scan_id", 0)
        self._plan_name = str(doc.get("plan_name", ""))
        motors = doc.get("motors", ())
        self._motors = tuple(motors) if isinstance(motors, (list, tuple)) else ()

    def clear(self) -> None:
        super().clear()
        self._previews.clear()
        self._image_streams.clear()
        self._panels.clear()
        self._titles.clear()
        self._finished.clear()

    def descriptor(self, doc: Any) -> None:
        keys = image_keys(doc["data_keys"])
        if device := previewed_device(doc):
            self._descriptors[doc["uid"]] = doc
            self._previews[doc["uid"]] = device
            owners = {device: keys}
        else:
            super().descriptor(_for_table(doc))
            owners = {name: [key for key in of if key in keys] for name, of in doc["object_keys"].items()}
        if self._plots_enabled:
            self._image_streams[doc["uid"]] = {name: of for name, of in owners.items() if of}
            for name in self._image_streams[doc["uid"]]:
                self._axes[name] = scan_axes(doc, name) or self._axes.get(name, ScanAxes())

    def event(self, doc: Any) -> Any:
        preview = doc["descriptor"] in self._previews
        if not preview:
            super().event(doc)
        data_keys = self._descriptors[doc["descriptor"]]["data_keys"]
        for device, keys in self._image_streams.get(doc["descriptor"], {}).items():
            panels = self._panels.setdefault(device, {})
            for key in keys:
                image = np.asarray(doc["data"][key], dtype=float)
                units, brightness = data_keys[key].get("units") or "", data_keys[key].get("brightness")
                bright = None if brightness not in doc["data"] else np.asarray(doc["data"][brightness], float)
                symmetric = bool(data_keys[key].get("symmetric"))
                panels[key] = Panel(image, self._axes[device], units, bright, symmetric)
            if not preview:
                self._finished[device] = doc["seq_num"]
            number = (
                self._finished.get(device, 0) + preview
            )  # a preview belongs to the Event that will follow
            parts = [f"scan {self._scan_id}", self._plan_name, f"event {number}"]
            if not preview:
                stream = self._descriptors[doc["descriptor"]]["name"]
                parts += ["" if stream == "primary" else stream, self._moved(doc)]
            alarms = _alarms(device, doc["data"])
            self._titles[device] = ", ".join(filter(None, [*parts, *alarms])), bool(alarms)
            if time.monotonic() - self._drawn_at.get(device, -math.inf) >= self._period:
                self._draw(device)

    def stop(self, doc: Any) -> None:
        super().stop(doc)
        for device in self._titles:
            self._draw(device, last=True)

    def _set_up_plots(self, doc: Any, stream_name: str, columns: list[Any]) -> None:
        # What is lost is a column of the table, and no curve.
        super()._set_up_plots(doc, stream_name, [key for key in columns if not key.endswith(IN_TABLE)])

    def _generate_axes(self, columns: list[Any], ndims: int, figure: Any) -> Any:
        axes = super()._generate_axes(columns, ndims, figure)
        figure.set_size_inches(*np.minimum(figure.get_size_inches(), LARGEST_IN))
        return axes

    def _moved(self, event: Mapping[str, Any]) -> str:
        """What the plan moved, and where it was at this Event: ``defocus 14.7 nm``."""
        descriptor, data = self._descriptors[event["descriptor"]], event["data"]
        keys, own = descriptor["data_keys"], descriptor["object_keys"]
        moved = [key for motor in self._motors for key in own.get(motor, ()) if key in data]
        return ", ".join(
            f"{key} {data[key]:.6g} {keys[key].get('units') or ''}".rstrip()
            for key in moved
            if keys[key]["dtype"] == "number" and "setpoint" not in key
        )

    def _draw(self, device: str, last: bool = False) -> None:
        panels, (title, alarming) = self._panels[device], self._titles[device]
        if self._windows:
            figure = self._figure(device, tuple(panels))
            figure.show(panels)
            figure.redraw(title, alarming)
        if self._image_directory is not None and (last or not self._windows):
            if self._pictures_of != self._run_uid:
                self._pictures_of, self._picture_paths = self._run_uid, {}
            name = re.sub(r"[^\w.-]", "_", f"{run_stem(self._scan_id, self._run_uid)}_{device}.png")
            path = self._image_directory / name  # never elsewhere, whatever a device is called
            self._pictures.put(path, Picture(f"{device} images", dict(panels), title, alarming))
            self._picture_paths[device] = path
        self._drawn_at[device] = time.monotonic()

    def _figure(self, device: str, keys: tuple[str, ...]) -> ImageFigure:
        """The device's window, opened anew if it is closed or has other panels than this run needs."""
        figure = self._figures.get(device)
        if figure is None or figure.closed or figure.keys != keys:
            figure = ImageFigure(f"{device} images", keys, window=True, percentiles=self._percentiles)
            self._figures[device] = figure
        return figure


def _alarms(device: str, data: Mapping[str, Any]) -> list[str]:
    """What of a preview, or of a result, an operator must see: ``12 frames lost``."""
    counts = [(data.get(f"{device}_{key}") or 0, words) for key, words in ALARMS.items()]
    return [f"{count:g} frames {words}" for count, words in counts if count]


def scan_axes(descriptor: Mapping[str, Any], device: str) -> ScanAxes | None:
    """Scan step and unit as the configuration in a descriptor has them; None if it does not."""
    for configuration in descriptor.get("configuration", {}).values():
        values = configuration.get("data", {})
        try:
            step = float(values[f"{device}_scan_step_y"]), float(values[f"{device}_scan_step_x"])
        except KeyError:
            continue
        return ScanAxes(step, str(values.get(f"{device}_scan_unit", "px")))
    return None


def _for_table(descriptor: dict) -> dict:
    """The descriptor as one in which numbers only are hinted, and what was lost or saturated.

    The standard table and plots know nothing else; a hinted array would raise in LiveGrid.
    """
    data_keys = descriptor["data_keys"]
    hints = {}
    for name, keys in descriptor["object_keys"].items():
        hint = descriptor.get("hints", {}).get(name, {})
        fields = [key for key in hint.get("fields", keys) if data_keys[key]["dtype"] != "array"]
        fields += [key for end in IN_TABLE if (key := f"{name}_{end}") in keys and key not in fields]
        hints[name] = {**hint, "fields": fields}
    return {**descriptor, "hints": hints}
