"""A run's images as xarray: positions as coordinates with step and unit, attributes that explain them, right way up.

In: a run and the name of an image. Out: a `ScanImage`, which is a DataArray in all but its ``plot``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from live4d_ophyd.runs.calibration import angular_scale, microscope
from live4d_ophyd.runs.description import description_of
from live4d_ophyd.runs.facts import local_time
from live4d_ophyd.runs.find import opened
from live4d_ophyd.runs.readings import DeviceReadings, RunReadings, is_known
from live4d_ophyd.runs.shapes import virtual_detector

#: facts of the description that an image has as attributes
_ATTRIBUTES = {
    "beam": ("energy", "wavelength", "camera_length", "convergence_angle", "magnification"),
    "exposure": ("dwell_time", "count_time", "frame_time"),
    "detector": ("model", "serial_number"),
    "pixels": ("pixel_mask", "gain"),
}
_2D = ("imshow", "pcolormesh", "contour", "contourf")


class ScanImage(xr.DataArray):
    """A DataArray whose plots have row 0 on top, equal lengths equally long, and grey values as the live pictures.

    Slices and arithmetic keep that; what xarray makes anew (``fillna``, ``where``, ``xr.apply_ufunc``) is a DataArray,
    which `plot_image` draws in the same way.
    """

    __slots__ = ()

    @property
    def plot(self) -> Any:  # type: ignore[override]
        """As ``DataArray.plot``: ``image.plot()``, ``image.plot.imshow(robust=True)``, ``images.plot(col="event")``."""
        return _RightWayUp(self)


class _RightWayUp:
    """xarray's plots of an image with other defaults. A scan of one line is drawn as a line."""

    def __init__(self, image: ScanImage) -> None:
        self._image = image
        self._plain = xr.DataArray(image).plot

    def __call__(self, **kwargs: Any) -> Any:
        if self._image.ndim == 2 and 1 in self._image.shape:
            return xr.DataArray(self._image).squeeze().plot(**kwargs)
        return self._drawn(self._plain, kwargs)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._plain, name)
        if name not in _2D:
            return method
        return lambda **kwargs: self._drawn(method, kwargs)

    def _drawn(self, method: Any, kwargs: dict[str, Any]) -> Any:
        if self._image.dims[-2:] != ("scan_y", "scan_x"):
            return method(**kwargs)
        if not {"x", "y"} & kwargs.keys():
            kwargs.setdefault("yincrease", False)
        if not {"cmap", "colors", "levels"} & kwargs.keys():
            kwargs["cmap"] = colors_of(self._image)
            if is_symmetric(self._image) and not {"vmin", "vmax", "robust", "norm", "center"} & kwargs.keys():
                kwargs["vmin"], kwargs["vmax"] = about_zero(self._image.to_numpy())
        drawn = method(**kwargs)
        if self._image.ndim == 2:
            drawn.axes.set_aspect("equal")
            drawn.axes.set_title(title(self._image), fontsize="medium")
        else:
            for axes in np.ravel(getattr(drawn, "axs", [])):
                axes.set_aspect("equal")
        return drawn


def plot_image(image: xr.DataArray, **kwargs: Any) -> Any:
    """``image.plot(**kwargs)`` with row 0 on top, for any DataArray over ``scan_y`` and ``scan_x``."""
    return ScanImage(image).plot(**kwargs)


def grey_values() -> Any:
    """The colours of the live pictures: grey, and another for positions without a value."""
    import matplotlib

    from live4d_ophyd.live.panel import NOT_SEEN

    return matplotlib.colormaps["gray"].with_extremes(bad=NOT_SEEN)


def is_symmetric(image: xr.DataArray) -> bool:
    """Whether the values are of either sign, as a strain: shown in two colours, equally far about 0."""
    return bool(image.attrs.get("symmetric"))


def colors_of(image: xr.DataArray) -> Any:
    """The colours of the live pictures for an image: grey, or two about 0."""
    import matplotlib

    from live4d_ophyd.live.panel import NOT_SEEN_OF_TWO

    if not is_symmetric(image):
        return grey_values()
    return matplotlib.colormaps["RdBu_r"].with_extremes(bad=NOT_SEEN_OF_TWO)


def about_zero(values: np.ndarray) -> tuple[float, float]:
    """The lowest and highest value that two colours show: but for the last percent, equally far about 0."""
    seen = np.abs(values[np.isfinite(values)])
    most = float(np.percentile(seen, 99)) if seen.size else 0.0
    return (-most, most) if most > 0 else (-1.0, 1.0)


def title(image: xr.DataArray) -> str:
    """Which image it is; what the plan moved is in a second line."""
    attrs = image.attrs
    which = [str(image.name)]
    where: list[str] = []
    if "uid" in attrs:
        which.append(f"scan {attrs.get('scan_id', '?')} ({attrs['uid'][:8]})")
    for name, coordinate in image.coords.items():
        if coordinate.ndim == 0 and name not in ("time", "scan_y", "scan_x"):
            value = coordinate.item()
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            text = f"{name} {shown} {coordinate.attrs.get('units', '')}".rstrip()
            (which if name == "event" else where).append(text)
    return "\n".join(", ".join(line) for line in (which, where) if line)


def image(
    run: Any, name: str, event: int = -1, *, stream: str | None = None, catalog: str | None = None
) -> ScanImage:
    """One image of a run, ``(scan_y, scan_x)`` float64, NaN where no frame came.

    Parameters
    ----------
    run
        As `describe` takes it: ``db[-1]``, or a uid, its first characters, a scan id, -1.
    name
        What a method gave, ``"vbf"``, or data key, ``"live4d_vbf"``.
    event
        Its number in the run's table, from 1; -1 is the last.
    stream
        Default: the only one that holds such images, else ``primary``.
    catalog
        As in `describe`.

    Returns
    -------
    ScanImage
        An ``xarray.DataArray``. Coordinates ``scan_y``, ``scan_x``: distance from the first position, in the unit of
        the scan's step; ``event``, and what the plan moved. Attributes: ``units``, uid, scan id, plan, time, virtual
        detector (px and, where calibrated, mrad), energy, exposure, frames lost.

    Raises
    ------
    NoSuchRun, KeyError
        No such run; no such images, stream or Event in it: the error names those that are there.
    """
    found = _read(run, name, event, stream, catalog)
    return ScanImage(found.isel(event=0))


def images(run: Any, name: str, *, stream: str | None = None, catalog: str | None = None) -> ScanImage:
    """All images of one name, ``(event, scan_y, scan_x)``; otherwise as `image`.

    Coordinates along ``event``: its number, ``time`` (UTC), and what the plan moved.
    """
    return _read(run, name, None, stream, catalog)


def _read(run: Any, name: str, event: int | None, stream: str | None, catalog: str | None) -> ScanImage:
    with opened(run, catalog) as client:
        readings = RunReadings(client)
        device, short = find_images(readings, name)
        stream = find_stream(readings, device, short, stream)
        return read_images(readings, device, short, stream, event)


def find_images(readings: RunReadings, name: str) -> tuple[DeviceReadings, str]:
    """The device and its image that ``name`` means."""
    found = [
        (device, short)
        for device in readings.devices.values()
        for short in device.images
        if name in (short, f"{device.name}_{short}")
    ]
    if len(found) != 1:
        there = [f"{device.name}_{short}" for device in readings.devices.values() for short in device.images]
        why = f"several devices have images {name!r}" if found else f"no images {name!r} in this run"
        raise KeyError(f"{why}: there are {', '.join(there) or 'none'}")
    return found[0]


def find_stream(readings: RunReadings, device: DeviceReadings, short: str, stream: str | None) -> str:
    """The stream to read ``short`` from."""
    key = f"{device.name}_{short}"
    there = [name for name in device.streams if key in readings.streams[name].keys]
    if stream is None:
        stream = "primary" if "primary" in there or not there else there[0]
        if len(there) > 1 and stream not in there:
            raise KeyError(f"{key} is in the streams {', '.join(there)}: say which")
    if stream not in there:
        raise KeyError(
            f"no images {key} in the stream {stream!r}: there are some in {', '.join(there) or 'none'}"
        )
    return stream


def read_images(
    readings: RunReadings, device: DeviceReadings, short: str, stream: str, event: int | None
) -> ScanImage:
    """The images of one stream, all or only that of the Event number ``event``, ``(event, scan_y, scan_x)``.

    The catalog must still be open.
    """
    key = f"{device.name}_{short}"
    numbers = readings.seq_nums[stream]
    stored = readings.streams[stream]
    count = min(stored.events(key), len(numbers))  # of a run that goes on, what came since is not read
    chosen = range(count)
    if event is not None:
        index = count + event if event < 0 else numbers.index(event) if event in numbers else -1
        if not 0 <= index < count:
            raise KeyError(f"no Event {event} in the stream {stream!r}: there are {count}, numbered from 1")
        chosen = range(index, index + 1)
    values = stored.array(key, slice(chosen.start, chosen.stop)).astype(np.float64, copy=False)
    before = sum(len(readings.seq_nums[other]) for other in _before(device.streams, stream))
    at = [before + index for index in chosen]
    coords: dict[str, Any] = {
        **_positions(device.of_events(at), values.shape[1:]),
        "event": ("event", np.array(numbers[chosen.start : chosen.stop], dtype=np.int64)),
        "time": ("event", _times(readings.times[stream, device.name], chosen), {"long_name": "time (UTC)"}),
    }
    for moved, series in readings.moved_in.get(stream, {}).items():
        part = series[chosen.start : chosen.stop]
        if not moved.endswith("_setpoint") and len(part) == len(chosen):
            unit = {"units": readings.units[moved]} if readings.units.get(moved) else {}
            coords[moved] = ("event", np.array(part), unit)
    attrs = attributes(readings.of_events(device, at), short, stream)
    return ScanImage(values, dims=("event", "scan_y", "scan_x"), coords=coords, name=key, attrs=attrs)


def _before(streams: list[str], stream: str) -> list[str]:
    return streams[: streams.index(stream)]


def _times(seconds: list[float], chosen: range) -> np.ndarray:
    microseconds = np.round(np.array(seconds[chosen.start : chosen.stop]) * 1e6)
    return microseconds.astype("datetime64[us]").astype("datetime64[ns]")


def _positions(device: DeviceReadings, shape: tuple[int, ...]) -> dict[str, Any]:
    """Coordinates of the scan positions; numbers of positions where the Events have different steps."""
    unit = device.get("scan_unit")
    steps = [device.get(f"scan_step_{axis}") for axis in "yx"]
    if not isinstance(unit, str) or not all(isinstance(step, int | float) for step in steps):
        unit, steps = "px", [1.0, 1.0]
    return {
        f"scan_{axis}": (
            f"scan_{axis}",
            np.arange(size) * float(step),
            {"long_name": f"scan {axis}", "units": unit, "step": float(step)},
        )
        for axis, size, step in zip("yx", shape, steps)
    }


def attributes(readings: RunReadings, short: str, stream: str) -> dict[str, Any]:
    """What an image says of itself: texts, numbers and lists of numbers, as every file format can hold them.

    ``readings`` are of one device and the Events of the image only.
    """
    (device,) = readings.devices.values()
    start, stop = readings.start, readings.stop
    description = description_of(readings)
    attrs: dict[str, Any] = {
        "long_name": short,
        "units": device.units.get(short, "counts"),
        "uid": start["uid"],
        "scan_id": start.get("scan_id", 0),
        "plan_name": start.get("plan_name", ""),
        "stream": stream,
        "began": local_time(start["time"]),
        "exit_status": stop.get("exit_status", "not finished"),
    }
    if short in device.channels:
        attrs["channel"] = device.channels[short]
    if short in device.symmetric:
        attrs["symmetric"] = 1  # as a number, which every file format has
    for key, fact in description.get("metadata", {}).items():
        attrs[key if key not in attrs else f"md_{key}"] = _attribute(fact.value)
    scale = angular_scale(device, microscope(readings))
    for key, value in virtual_detector(device, short, scale).value.items():
        if is_known(value):
            attrs[f"detector_{key}"] = _attribute(value)
    if scale.mrad is not None:
        attrs["mrad_per_px"] = scale.mrad
    for section, names in _ATTRIBUTES.items():
        facts = description.get(section, {})
        for fact_name in names:
            if (
                fact_name in facts
                and is_known(value := facts[fact_name].value)
                and not isinstance(value, list)
            ):
                unit = f"_{facts[fact_name].unit}" if facts[fact_name].unit else ""
                attrs[f"{fact_name}{unit}"] = _attribute(value)
    for key in ("expected", "lost", "bad", "saturated"):
        if values := device.events.get(f"frames_{key}"):
            attrs[f"frames_{key}"] = int(sum(values))
    return attrs


def _attribute(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list) and value and all(isinstance(v, int | float) for v in value):
        return [float(v) for v in value]
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str)
    return value if isinstance(value, int | float | str) else str(value)
