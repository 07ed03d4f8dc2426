"""How the live image of a recorded raster was made: what an acquisition was asked for, in the notes of its file.

In: an `AcquisitionRequest`, as its frames are recorded; or notes. Out: plain values for JSON; or `RecordedSettings`,
with which the frames give that image again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from live4d_ophyd.calibration import Calibration
from live4d_ophyd.engine.request import AcquisitionRequest
from live4d_ophyd.imaging import registry
from live4d_ophyd.imaging.method import Method
from live4d_ophyd.packed import packed, unpacked


@dataclass(frozen=True, eq=False)
class RecordedSettings:
    """Those that change a number. None: the file does not say, or there was none; see `AcquisitionRequest`."""

    methods: tuple[Method, ...] | None = None
    nodata: bool | None = None
    saturated: str | None = None
    bad_pixels: str | None = None
    pixel_mask: np.ndarray | None = None
    gain: np.ndarray | None = None
    calibration: Calibration | None = None
    #: why the methods are not known, for an error
    why_no_methods: str = "the file does not say which made the live image"


def noted(request: AcquisitionRequest) -> dict[str, Any]:
    """The settings of a request as the notes have them."""
    return {
        "methods": {method.name: _plain(method) for method in request.methods},
        "nodata": request.nodata,
        "saturated": request.saturated,
        "bad_pixels": request.bad_pixels,
        "pixel_mask": None if request.pixel_mask is None else packed(request.pixel_mask.astype(bool)),
        "gain": None if request.gain is None else packed(request.gain),
        "calibration": asdict(request.calibration),
    }


def settings_in(notes: Mapping[str, Any], pixels: int, given: Collection[str] = ()) -> RecordedSettings:
    """The settings that the notes of a file have, but those that are ``given``; arrays have ``pixels`` at most.

    Raises ValueError for what cannot be read.
    """
    notes = {name: value for name, value in notes.items() if name not in given}
    said = notes.get("methods")
    methods, why = None, RecordedSettings.why_no_methods
    if isinstance(said, Mapping) and said:
        try:
            methods = tuple(registry.from_dict(_with_arrays(values, pixels)) for values in said.values())
        except (ValueError, OverflowError, RecursionError) as error:
            why = str(error)
    nodata, saturated, bad = notes.get("nodata"), notes.get("saturated"), notes.get("bad_pixels")
    return RecordedSettings(
        methods,
        nodata if isinstance(nodata, bool) else None,
        saturated if isinstance(saturated, str) else None,
        bad if isinstance(bad, str) else None,
        _unpacked("pixel mask", notes.get("pixel_mask"), pixels),
        _unpacked("gain", notes.get("gain"), pixels),
        _calibration(notes.get("calibration")),
        why,
    )


def _plain(method: Any) -> dict[str, Any]:
    values = {"class": type(method).__name__}
    try:
        values |= registry.to_dict(method)
    except ValueError:  # of a class that only this process has
        values |= {field.name: getattr(method, field.name) for field in fields(method)}
    return _with_packed(values)


def _with_packed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a method, and of methods in it, with their arrays packed."""
    return {
        name: packed(value)
        if isinstance(value, np.ndarray)
        else _with_packed(value)
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }


def _with_arrays(values: Any, pixels: int) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"the notes have {values!r} for a method")
    return {name: _with_array(name, value, pixels) for name, value in values.items()}


def _with_array(name: str, value: Any, pixels: int) -> Any:
    if not isinstance(value, Mapping):
        return value
    return _unpacked(name, value, pixels) if "zlib" in value else _with_arrays(value, pixels)


def _calibration(said: Any) -> Calibration | None:
    if not isinstance(said, Mapping):
        return None
    try:
        return Calibration(**said)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the calibration in the notes cannot be read ({error}): give another") from error


def _unpacked(what: str, value: Any, pixels: int) -> np.ndarray | None:
    if value is None:
        return None
    try:
        return unpacked(value, pixels)
    except ValueError as error:
        raise ValueError(f"the {what} in the notes cannot be read ({error}): give another") from error
