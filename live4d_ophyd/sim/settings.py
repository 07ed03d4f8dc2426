"""The SIMPLON parameters of the simulated DCU: names, limits, what changes with what, what `start` says of them.

In: values as the REST interface gets them. Out: the names of what changed; a :class:`~.encode.Header`. No thread
of its own; the DCU locks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from live4d_ophyd.sim.encode import HEADER_DETAILS, Header
from live4d_ophyd.sim.frames import binned_position
from live4d_ophyd.sim.specimen import Detector, Microscope, Scan

API_VERSIONS = ("1.6.0", "1.7.0", "1.8.0")

#: value of ``binning_mode`` -> edge of the square that is one pixel
BINNING = {"off": 1, "2x2": 2}

#: what another user may leave a detector with, and a scan cannot use; the readout time, s, is the detector's own
UNPREPARED: dict[str, dict[str, Any]] = {
    "detector": {
        "detector_readout_time": 1e-5,
        "trigger_mode": "ints",
        "nimages": 7,
        "ntrigger": 3,
        "frame_time": 0.5,
        "count_time": 0.2,
        "compression": "none",
    },
    "stream": {"mode": "disabled", "format": "legacy", "header_detail": "none"},
}

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "float": (float, int),
    "uint": (int,),
    "string": (str,),
    "bool": (bool,),
}


@dataclass
class Parameter:
    """One key of the REST interface."""

    value: Any
    value_type: str = "string"
    unit: str = ""
    writable: bool = True
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[Any, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """Answer to a GET."""
        answer: dict[str, Any] = {
            "value": self.value,
            "value_type": self.value_type,
            "access_mode": "rw" if self.writable else "r",
        }
        if self.unit:
            answer["unit"] = self.unit
        optional = {"min": self.minimum, "max": self.maximum, "allowed_values": self.allowed}
        answer |= {name: value for name, value in optional.items() if value is not None}
        return answer

    def checked(self, name: str, value: Any) -> Any:
        """``value`` in this parameter's type. Raises ValueError that says what is expected."""
        if not self.writable:
            raise ValueError(f"{name} is read-only")
        kinds = _PYTHON_TYPES[self.value_type]
        if type(value) not in kinds:
            raise ValueError(f"{name} = {value!r}: expected a value of type {self.value_type}")
        if self.allowed is not None and value not in self.allowed:
            raise ValueError(f"{name} = {value!r}: allowed values are {list(self.allowed)}")
        low, high = self.minimum, self.maximum
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            unit = f" {self.unit}" if self.unit else ""
            raise ValueError(f"{name} = {value!r}{unit}: allowed from {low} to {high}")
        return float(value) if self.value_type == "float" else value


class Settings:
    """A tree of parameters of one SIMPLON module (``detector``, ``stream``, ...)."""

    def __init__(
        self, parameters: dict[str, Parameter], follow: Mapping[str, Callable[[Settings], None]] | None = None
    ):
        """``follow[name]`` adapts other parameters after ``name`` was set."""
        self._parameters = parameters
        self._follow = follow or {}
        self._hidden: frozenset[str] = frozenset()

    def hide(self, names: Iterable[str]) -> None:
        """As firmware without these: they keep their values, but are not there for anybody who asks."""
        self._hidden |= frozenset(names)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters and name not in self._hidden

    def __getitem__(self, name: str) -> Any:
        return self._parameters[name].value

    def keys(self) -> list[str]:
        return sorted(self._parameters.keys() - self._hidden)

    def parameter(self, name: str) -> Parameter:
        return self._parameters[name]

    def values(self) -> dict[str, Any]:
        """All values by name, hidden ones too, a copy."""
        return {name: parameter.value for name, parameter in self._parameters.items()}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Make values again what :meth:`values` said; those it does not name stay."""
        for name, value in values.items():
            self._parameters[name].value = value

    def put(self, name: str, value: Any) -> list[str]:
        """Set a value; the names of all parameters that changed, ``name`` always first. Raises ValueError."""
        before = self.values()
        self._parameters[name].value = self._parameters[name].checked(name, value)
        if self[name] != before[name] and name in self._follow:
            self._follow[name](self)
        changed = [key for key, old in before.items() if key in self and key != name and self[key] != old]
        return [name, *changed]


def _frame_time_follows(settings: Settings) -> None:
    frame_time = settings.parameter("frame_time")
    frame_time.value = max(frame_time.value, settings["count_time"] + settings["detector_readout_time"])


def _count_time_follows(settings: Settings) -> None:
    count_time = settings.parameter("count_time")
    longest = settings["frame_time"] - settings["detector_readout_time"]
    count_time.value = max(min(count_time.value, longest), count_time.minimum or 0.0)


def _bit_depth_follows(settings: Settings) -> None:
    bits = int(settings["pixel_format"].removeprefix("uint"))
    settings.parameter("bit_depth_image").value = bits
    settings.parameter("saturation_value").value = 2**bits - 2


def _binning_follows(settings: Settings) -> None:
    # Called when it changed, and there are two modes.
    edge = 2.0 if settings["binning_mode"] == "2x2" else 0.5
    for axis in "xy":
        center, size = settings.parameter(f"beam_center_{axis}"), settings.parameter(f"{axis}_pixel_size")
        center.value = binned_position(center.value, edge)
        size.value *= edge


def detector_settings(
    detector: Detector, microscope: Microscope, dtype: str = "uint16", api: str = API_VERSIONS[-1]
) -> Settings:
    """``/detector/api/.../config``; lengths in px are those of the frames, binned or not."""
    on_off = ("enabled", "disabled")
    row, col = detector.bf_center

    def fixed(value: Any, value_type: str = "string", unit: str = "") -> Parameter:
        return Parameter(value, value_type, unit, writable=False)

    def seconds(value: float) -> Parameter:
        return Parameter(value, "float", "s", minimum=1e-7, maximum=1800.0)

    def number(value: int, highest: int) -> Parameter:
        return Parameter(value, "uint", minimum=1, maximum=highest)

    def energy(value: float) -> Parameter:
        return Parameter(value, "float", "eV", minimum=0.0, maximum=400e3)

    def switch(value: bool) -> Parameter:
        return Parameter(value, "bool")

    parameters = {
        "beam_center_x": Parameter(col, "float", "px"),
        "beam_center_y": Parameter(row, "float", "px"),
        "binning_mode": Parameter("off", allowed=tuple(BINNING)),
        "bit_depth_image": fixed(16, "uint"),
        "compression": Parameter("bslz4", allowed=("bslz4", "lz4", "none")),
        "count_time": seconds(1 / 30e3),
        "countrate_correction_applied": switch(False),
        "description": fixed("live4d simulated detector"),
        "detector_number": fixed("S-00-0001"),
        "detector_readout_time": fixed(0.0, "float", "s"),
        "flatfield_correction_applied": switch(False),
        "frame_time": seconds(1 / 30e3),
        "incident_energy": energy(microscope.energy_eV),
        "mask_to_zero": switch(False),
        "nimages": number(1, 2_000_000_000),
        "ntrigger": number(1, 2_000_000_000),
        "pixel_format": Parameter(dtype, allowed=("uint8", "uint16", "uint32")),
        "pixel_mask_applied": switch(True),
        "roi_mode": Parameter("disabled", allowed=("disabled",)),
        "saturation_value": fixed(65534, "uint"),
        "sensor_material": fixed("Si"),
        "sensor_thickness": fixed(450e-6, "float", "m"),
        "software_version": fixed(api),
        "threshold/1/energy": energy(microscope.energy_eV / 2),
        "threshold/1/mode": Parameter("enabled", allowed=("enabled",)),
        "threshold/2/energy": energy(microscope.energy_eV * 0.8),
        "threshold/2/mode": Parameter("disabled", allowed=on_off),
        "threshold/difference/mode": Parameter("disabled", allowed=on_off),
        "trigger_mode": Parameter("exts", allowed=("ints", "exts", "exte")),
        "virtual_pixel_correction_applied": switch(False),
        "x_pixel_size": fixed(100e-6, "float", "m"),
        "x_pixels_in_detector": fixed(detector.cols, "uint"),
        "y_pixel_size": fixed(100e-6, "float", "m"),
        "y_pixels_in_detector": fixed(detector.rows, "uint"),
    }
    follow = {
        "binning_mode": _binning_follows,
        "count_time": _frame_time_follows,
        "frame_time": _count_time_follows,
        "pixel_format": _bit_depth_follows,
    }
    settings = Settings(parameters, follow)
    settings.put("pixel_format", dtype)
    _bit_depth_follows(settings)
    return settings


def stream_settings() -> Settings:
    """``/stream/api/.../config``"""
    return Settings(
        {
            "mode": Parameter("enabled", allowed=("enabled", "disabled")),
            # legacy: another protocol on another port, which is not simulated
            "format": Parameter("cbor", allowed=("cbor", "legacy")),
            "header_detail": Parameter("basic", allowed=HEADER_DETAILS),
            "header_appendix": Parameter(""),
            "image_appendix": Parameter(""),
        }
    )


def filewriter_settings() -> Settings:
    """``/filewriter/api/.../config``: there is only its switch, on as on a detector whose user wants files."""
    return Settings({"mode": Parameter("enabled", allowed=("enabled", "disabled"))})


def channels(detector: Settings) -> tuple[str, ...]:
    """Channels that image messages hold with these settings."""
    optional = {"threshold_2": "threshold/2/mode", "difference": "threshold/difference/mode"}
    return ("threshold_1", *(name for name, key in optional.items() if detector[key] == "enabled"))


def user_data(appendix: str, scan: Scan | None) -> str | None:
    """``appendix`` as `start` has it. One of an acquisition, or none, also says what the scan generator is set to."""
    if scan is None:
        return appendix or None
    try:
        content = json.loads(appendix or "{}")
    except ValueError:
        return appendix
    if appendix and not (isinstance(content, dict) and "scan" in content):
        return appendix
    return json.dumps({**content, "scan_generator": scan.as_header()}, separators=(",", ":"))


def header(
    config: Mapping[str, Any],
    stream: Mapping[str, Any],
    names: tuple[str, ...],
    pixel_mask: np.ndarray,
    scan: Scan | None = None,
) -> Header:
    """What `start` says of a series with these values, for ``names`` of channels; the mask has SIMPLON's bits.

    Without ``scan`` it does not say what is scanned.
    """
    thresholds = {"threshold_1": "threshold/1/energy", "threshold_2": "threshold/2/energy"}
    rows, cols = pixel_mask.shape
    return Header(
        rows=rows,
        cols=cols,
        dtype=config["pixel_format"],
        channels=names,
        number_of_images=config["nimages"] * config["ntrigger"],
        count_time=config["count_time"],
        frame_time=config["frame_time"],
        beam_center=(config["beam_center_x"], config["beam_center_y"]),
        incident_energy=config["incident_energy"],
        incident_wavelength=replace(Microscope(), energy_eV=config["incident_energy"]).wavelength_nm * 10,
        description=config["description"],
        serial_number=config["detector_number"],
        pixel_size=config["x_pixel_size"],
        sensor_material=config["sensor_material"],
        sensor_thickness=config["sensor_thickness"],
        saturation_value=config["saturation_value"],
        threshold_energy=tuple((name, config[key]) for name, key in thresholds.items()),
        countrate_correction_enabled=config["countrate_correction_applied"],
        flatfield_enabled=config["flatfield_correction_applied"],
        pixel_mask_enabled=config["pixel_mask_applied"],
        virtual_pixel_interpolation_enabled=config["virtual_pixel_correction_applied"],
        user_data=user_data(stream["header_appendix"], scan),
        pixel_mask=pixel_mask,
    )
