"""What the microscope was set to, by the names that a baseline may use, and how large a detector pixel is in mrad.

In: the readings of a run. Out: energy, wavelength, camera length, convergence angle, magnification in one unit each,
and mrad a pixel with where that comes from, or why there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from live4d_ophyd.runs.readings import DeviceReadings, RunReadings, is_known, same

_LENGTHS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "nm": 1e-9}
_ENERGIES = {"eV": 1.0, "keV": 1e3, "MeV": 1e6, "V": 1.0, "kV": 1e3}
_ANGLES = {"mrad": 1.0, "rad": 1e3, "urad": 1e-3, "µrad": 1e-3, "μrad": 1e-3, "deg": math.radians(1) * 1e3}
_NUMBERS = {"": 1.0, "1": 1.0, "x": 1.0}

#: signals of a baseline that are understood, by name or ``<device>_name``: the units that they may have, and ours
MICROSCOPE: dict[str, tuple[dict[str, float], str]] = {
    "beam_energy": (_ENERGIES, "eV"),
    "camera_length": (_LENGTHS, "m"),
    "convergence_angle": (_ANGLES, "mrad"),  # semi-angle
    "magnification": (_NUMBERS, ""),
    "detector_pixel_size": (_LENGTHS, "m"),
    "bright_field_radius": ({"px": 1.0, "": 1.0}, "px"),
}


@dataclass(frozen=True)
class Known:
    """A value of the microscope in the unit of `MICROSCOPE`, or why it is not used."""

    value: float | None
    key: str
    problem: str = ""


@dataclass(frozen=True)
class AngularScale:
    """``mrad`` a pixel near the axis, and how it was found; None with the reason."""

    mrad: float | None
    how: str
    #: tangent of the angle a pixel away from the axis; None: angles are taken as proportional to the distance
    tangent: float | None = None

    def angle(self, pixels: float) -> float | None:
        """Scattering angle (mrad) at a distance from the centre (px)."""
        if self.tangent is not None:
            return 1e3 * math.atan(pixels * self.tangent)
        return None if self.mrad is None else pixels * self.mrad


def microscope(readings: RunReadings) -> dict[str, Known]:
    """What the run has of `MICROSCOPE`; what a plan moved comes from the Events of the images."""
    found = {}
    for name in MICROSCOPE:
        for source in (readings.moved, readings.baseline):
            keys = [key for key in source if _is_called(key, name, readings.owners.get(key, ""))]
            if keys:
                found[name] = _known(name, keys, source, readings.units)
                break
    return found


def _is_called(key: str, name: str, owner: str) -> bool:
    # By the owner, so that no setpoint and no "nominal_camera_length" is taken. A signal that is read by itself owns
    # its key, and its name begins with that of its device.
    return key in (name, f"{owner}_{name}") or (key == owner and key.endswith(f"_{name}"))


def _known(name: str, keys: list[str], source: dict[str, list[Any]], units: dict[str, str]) -> Known:
    accepted, _ = MICROSCOPE[name]
    if len(keys) > 1:
        return Known(None, keys[0], f"{' and '.join(keys)} both claim to be the {name}")
    (key,) = keys
    values, given = source[key], units.get(key, "")
    if given not in accepted:
        expected = ", ".join(filter(None, accepted)) or "none"
        return Known(None, key, f"{key} has the unit {given!r}; expected one of {expected}")
    if (
        not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        or not values
    ):
        return Known(None, key, f"{key} is no number")
    if not same(values):
        return Known(None, key, f"{key} changed during the run")
    if not is_known(values[0]):
        return Known(None, key, f"{key} is not known")
    return Known(values[0] * accepted[given], key)


def angular_scale(device: DeviceReadings, known: dict[str, Known]) -> AngularScale:
    """How large a pixel of the device's detector is in angle."""

    def value(name: str) -> float | None:
        entry = known.get(name)
        return entry.value if entry is not None and entry.value and entry.value > 0 else None

    if is_known(said := device.get("calibration_mrad_per_px")) and not isinstance(said, list):
        return AngularScale(said, f"{device.name}_calibration_mrad_per_px")
    missing = [entry.problem for entry in known.values() if entry.problem]
    length, convergence = value("camera_length"), value("convergence_angle")
    if length is not None:
        pixel, source = _pixel_size(device), f"{device.name}_detector_x_pixel_size"
        if pixel is None and (pixel := value("detector_pixel_size")) is not None:
            source = known["detector_pixel_size"].key
        if device.get("detector_binning_mode") not in (None, "", "off", "1x1"):
            missing.append("the detector's binning is on, which makes its pixels larger than they say")
        elif pixel is not None:
            how = f"{known['camera_length'].key} {length:.6g} m, {source} {1e6 * pixel:.6g} µm"
            return AngularScale(1e3 * pixel / length, how, pixel / length)
        else:
            missing.append("the size of the detector's pixels is not known (baseline: detector_pixel_size)")
    if convergence is not None:
        radius, source = value("bright_field_radius"), "bright_field_radius"
        if radius is None:
            radius, source = _disk_radius(device)
        if radius is not None:
            how = f"{known['convergence_angle'].key} {convergence:.6g} mrad over {source} {radius:.6g} px"
            return AngularScale(convergence / radius, how)
        missing.append("no disk whose radius is that of the bright-field disk")
    if length is None and convergence is None and not missing:
        missing.append("the baseline has neither camera_length nor convergence_angle")
    return AngularScale(None, "; ".join(missing))


def _pixel_size(device: DeviceReadings) -> float | None:
    """Side of the detector's square pixels, m."""
    x, y = device.get("detector_x_pixel_size"), device.get("detector_y_pixel_size")
    return x if isinstance(x, float) and x > 0 and y in (x, None) else None


def _disk_radius(device: DeviceReadings) -> tuple[float | None, str]:
    """Radius of the first disk, which `calibrate_bright_field` sets to that of the bright-field disk."""
    if isinstance(radius := device.get("calibration_bf_radius"), int | float) and radius > 0:
        return float(radius), "the calibrated radius of the bright-field disk"
    for image in device.images:
        if device.get(f"{image}_unit") not in (None, "px"):
            continue
        radius = device.get(f"{image}_radius")
        if isinstance(radius, int | float) and radius > 0:
            return float(radius), f"the radius of {image}"
    return None, ""
