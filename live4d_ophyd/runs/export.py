"""``export_run``: the images of a run as files that other programs open, each with what is needed to understand it.

In: a run and a format. Out: files named ``SCANID_UID8_KEY``; those of formats that cannot hold metadata have a JSON
file beside them, ``SCANID_UID8_KEY.png.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from live4d_ophyd.image_streams import run_stem
from live4d_ophyd.runs.description import RunDescription, description_of
from live4d_ophyd.runs.find import opened
from live4d_ophyd.runs.images import ScanImage, find_images, read_images
from live4d_ophyd.runs.picture import colors, steps_of, write_png
from live4d_ophyd.runs.readings import RunReadings
from live4d_ophyd.runs.tiff import write_tiff

#: suffix by format
FORMATS = {"png": ".png", "tiff": ".tif", "npy": ".npy", "nexus": ".nxs", "zarr": ".zarr"}
#: what holds all images of a run in one file
_WHOLE = ("nexus", "zarr")
#: what cannot hold metadata
_WITH_JSON = ("png", "npy")


class NothingToExport(LookupError):
    """The run has no images of that name, stream or Event."""


@dataclass(frozen=True)
class Stack:
    """The images of one name in one stream, ``(event, scan_y, scan_x)``."""

    stream: str
    images: ScanImage
    brightness: ScanImage | None = None  #: of angles: with it they are a colour wheel


def export_run(
    run: Any,
    to: str,
    out: str | os.PathLike = ".",
    *,
    names: Sequence[str] = (),
    event: int | None = None,
    overwrite: bool = False,
    catalog: str | None = None,
) -> list[Path]:
    """Write a run's images to files; returns their paths.

    Parameters
    ----------
    run
        As `describe` takes it.
    to
        ``png``: a picture an Event, with scale bar; angles as a colour wheel. ``tiff``: float32, a stack where there
        are several Events; ImageJ's form, with step and unit; of angles, in a folder, also ``..._colors.tif``, the
        colour wheel. ``npy``: float64, ``(event, scan_y, scan_x)`` where there are several Events.
        ``nexus``: one HDF5 file of NXdata groups. ``zarr``: one Zarr 3 store, which
        ``xarray.open_zarr(path, consolidated=False)`` reads.
    out
        Folder; or, with the suffix of the format, the file, where it is one.
    names
        Images, as `image` takes them; default: all.
    event
        Only the Event of this number, from 1; -1 is the last.
    overwrite
        Replace files that are there.

    Raises
    ------
    NothingToExport
        There are no such images.
    FileExistsError
        A file is there; nothing is written then.
    ValueError
        The format is none, or ``out`` is one file and there would be several.
    """
    if to not in FORMATS:
        raise ValueError(f"no format {to!r}: there are {', '.join(FORMATS)}")
    with opened(run, catalog) as client:
        readings = RunReadings(client)
        stacks = _stacks(readings, names, event)
    description = description_of(readings)
    plan = _plan(readings, to, Path(out), stacks)
    beside = [_json_of(path) for path in plan if to in _WITH_JSON]
    taken = [path for path in [*plan, *beside] if path.exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{taken[0]} is there already: overwrite=True (--overwrite) replaces it")
    for path, write in plan.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, description)
    return [*plan, *beside]


def _stacks(readings: RunReadings, names: Sequence[str], event: int | None) -> list[Stack]:
    wanted = list(names) or [
        f"{device.name}_{n}" for device in readings.devices.values() for n in device.images
    ]
    found, why = [], "the run has no images"
    for name in wanted:
        try:
            device, short = find_images(readings, name)
        except KeyError as error:
            raise NothingToExport(str(error.args[0])) from None
        for stream in device.streams:
            there = readings.streams[stream].keys
            if f"{device.name}_{short}" in there:
                bright = device.brightness.get(short)
                if bright is not None and f"{device.name}_{bright}" not in there:
                    bright = None
                try:
                    both = [
                        None if each is None else read_images(readings, device, each, stream, event)
                        for each in (short, bright)
                    ]
                    assert both[0] is not None
                    found.append(Stack(stream, both[0], both[1]))
                except KeyError as error:
                    why = str(error.args[0])
    if not found:
        raise NothingToExport(why)
    return found


def _plan(
    readings: RunReadings, to: str, out: Path, stacks: list[Stack]
) -> dict[Path, Callable[[Path, RunDescription], None]]:
    """Which file gets written how."""
    start = readings.start
    stem = run_stem(start.get("scan_id", 0), start["uid"])
    suffix = FORMATS[to]
    files: dict[str, Callable[[Path, RunDescription], None]] = {}
    colored: dict[str, Callable[[Path, RunDescription], None]] = {}  # beside the numbers, in folders
    if to in _WHOLE:
        write_all = _write_nexus if to == "nexus" else _write_zarr
        files[stem] = lambda path, description: write_all(path, description, readings, stacks)
    for stack in [] if to in _WHOLE else stacks:
        name = f"{stem}_{stack.images.name}"
        if stack.stream != "primary":
            name += f"_{stack.stream}"
        if to == "png":
            for index in range(stack.images.sizes["event"]):
                picture, bright = (
                    None if each is None else ScanImage(each.isel(event=index))
                    for each in (stack.images, stack.brightness)
                )
                assert picture is not None
                number = f"_{int(picture.event):03d}" if stack.images.sizes["event"] > 1 else ""
                files[name + number] = _bound(partial(_write_png, brightness=bright), picture)
        else:
            if to == "tiff" and stack.brightness is not None:
                colored[f"{name}_colors"] = _bound(
                    partial(_write_tiff, brightness=stack.brightness), stack.images
                )
            files[name] = _bound(_write_tiff if to == "tiff" else _write_npy, stack.images)
    suffixes = (suffix, ".tiff") if to == "tiff" else (suffix, ".h5") if to == "nexus" else (suffix,)
    if out.suffix.lower() in suffixes and not (out.is_dir() and to != "zarr"):
        if len(files) > 1:
            raise ValueError(
                f"{out} is one file, and there would be {len(files)}: give a folder, or choose detector and Event"
            )
        return {out: next(iter(files.values()))}
    if out.suffix and not out.is_dir():
        raise ValueError(f"{out} is neither a folder nor called {suffix}, which {to} files are")
    return {out / f"{name}{suffix}": write for name, write in (files | colored).items()}


def _bound(write: Callable[[Path, ScanImage, RunDescription], None], images: ScanImage) -> Any:
    return lambda path, description: write(path, images, description)


def _beside(path: Path, images: ScanImage, description: RunDescription, **more: Any) -> None:
    """What the file cannot say, as JSON."""
    steps, unit = steps_of(images)
    content = {
        "file": path.name,
        "key": str(images.name),
        "axes": list(images.dims),
        "shape": list(images.shape),
        "step": {"scan_y": steps[0], "scan_x": steps[1], "unit": unit},
        "units": images.attrs["units"],
        **more,
        "events": _events(images),
        "attributes": images.attrs,
        "run": description.to_dict(),
    }
    _json_of(path).write_text(json.dumps(content, indent=1, default=str) + "\n")


def _json_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _events(images: ScanImage) -> list[dict[str, Any]]:
    """Number, time and what was moved, of each Event."""
    along = images.expand_dims("event") if images.ndim == 2 else images
    return [
        {str(name): _plain(values.values) for name, values in one.coords.items() if values.ndim == 0}
        for one in (along.isel(event=index) for index in range(along.sizes["event"]))
    ]


def _plain(value: np.ndarray) -> Any:
    if np.issubdtype(value.dtype, np.datetime64):
        return f"{np.datetime_as_string(value, unit='ms')}Z"
    plain = value.item()
    return None if isinstance(plain, float) and not np.isfinite(plain) else plain


def _one_or_all(images: ScanImage) -> np.ndarray:
    """(scan_y, scan_x) of one Event, (event, scan_y, scan_x) of several."""
    values = images.to_numpy()
    return values[0] if len(values) == 1 else values


def _write_png(
    path: Path, image: ScanImage, description: RunDescription, brightness: ScanImage | None = None
) -> None:
    more = {}
    if brightness is not None:  # black and white are in its unit
        more = {
            "brightness": str(brightness.name),
            "brightness_units": str(brightness.attrs.get("units", "")),
        }
    _beside(path, image, description, **write_png(path, image, brightness), **more)


def _write_npy(path: Path, images: ScanImage, description: RunDescription) -> None:
    values = _one_or_all(images)
    np.save(path, values)
    _beside(path, ScanImage(images.isel(event=0)) if values.ndim == 2 else images, description)


def _write_tiff(
    path: Path, images: ScanImage, description: RunDescription, brightness: ScanImage | None = None
) -> None:
    steps, unit = steps_of(images)
    values, events = _one_or_all(images), _events(images)
    if brightness is not None:
        wheel = colors(images, brightness)
        values = wheel[0] if len(wheel) == 1 else wheel
    labels = [", ".join(f"{key} {value}" for key, value in entry.items()) for entry in events]
    metadata = {"events": events, "attributes": images.attrs, "run": description.to_dict()}
    write_tiff(path, values, steps=steps, unit=unit, metadata=metadata, labels=labels)


def _write_zarr(path: Path, description: RunDescription, readings: RunReadings, stacks: list[Stack]) -> None:
    """One group a stream, the first one's images at the top if it is the only one."""
    import xarray as xr

    if path.exists():
        rmtree(path)
    streams = list(dict.fromkeys(stack.stream for stack in stacks))
    for stream in streams:
        # Devices of other grids would share the names of the axes.
        parts = [_apart(xr.DataArray(stack.images), stacks) for stack in stacks if stack.stream == stream]
        dataset = xr.merge([part.to_dataset() for part in parts], compat="override", join="outer")
        dataset.attrs = {"description": json.dumps(description.to_dict()), **_of_run(readings)}
        group = None if len(streams) == 1 else stream
        dataset.to_zarr(path, mode="a", group=group, zarr_format=3, consolidated=False)


def _apart(images: Any, stacks: list[Stack]) -> Any:
    """The images with axes of their own names where the first ones of the run have other positions."""
    first = stacks[0].images
    if all(images.coords[axis].equals(first.coords[axis]) for axis in ("scan_y", "scan_x")):
        return images
    return images.rename({axis: f"{images.name}_{axis}" for axis in ("scan_y", "scan_x")})


def _of_run(readings: RunReadings) -> dict[str, Any]:
    start = readings.start
    return {"uid": start["uid"], "scan_id": start.get("scan_id", 0), "plan_name": start.get("plan_name", "")}


def _write_nexus(path: Path, description: RunDescription, readings: RunReadings, stacks: list[Stack]) -> None:
    from live4d_ophyd.runs.nexus import write_nexus

    write_nexus(path, description, readings, [(stack.stream, stack.images) for stack in stacks])
