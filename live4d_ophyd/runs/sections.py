"""The sections of a run's description: which facts each has, and where in the readings they are.

In: the readings of a run. Out: facts by section. What the run does not say is left out; what differs from Event to
Event is a list of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from live4d_ophyd.calibration import wavelength_m
from live4d_ophyd.runs.calibration import AngularScale, angular_scale, microscope
from live4d_ophyd.runs.facts import Fact, local_time, only_known, text_of
from live4d_ophyd.runs.readings import DeviceReadings, RunReadings, is_known, same
from live4d_ophyd.runs.shapes import virtual_detector

#: of a start document: what Bluesky and its plans put there, and the table has elsewhere
BLUESKYS = {
    "uid", "time", "versions", "scan_id", "plan_type", "plan_name", "plan_args", "detectors", "motors", "num_points",
    "num_intervals", "hints", "plan_pattern", "plan_pattern_args", "plan_pattern_module", "shape", "extents", "snaking",
}  # fmt: skip


def sections_of_devices(readings: RunReadings) -> dict[str, dict[str, dict[str, Fact]]]:
    """The sections of each device, by its name and their title."""
    known = microscope(readings)
    return {
        name: {
            "scan": _scan(device),
            "virtual detectors": _virtual_detectors(device, angular_scale(device, known)),
            "pixels": _pixels(device),
            "exposure": _exposure(device),
            "detector": _detector(device),
            "frames": _frames(device),
            "decoded by": _software(device),
        }
        for name, device in readings.devices.items()
    }


def sections_of(
    readings: RunReadings, of_devices: Mapping[str, Mapping[str, dict[str, Fact]]]
) -> dict[str, dict[str, Fact]]:
    """All sections, by title; of several devices, each has its own, which begin with its name."""
    sections: dict[str, dict[str, Fact]] = {
        "run": _run(readings),
        "metadata": {
            key: _fact(value)
            for key, value in readings.start.items()
            if key not in BLUESKYS and is_known(value)
        },
        "plan": _plan(readings),
    }
    for name, of_device in of_devices.items():
        for title, facts in of_device.items():
            sections[f"{name}: {title}" if len(of_devices) > 1 else title] = facts
    sections["beam"] = _beam(readings, microscope(readings))
    sections["microscope"] = _baseline(readings)
    sections["versions"] = {key: Fact(value) for key, value in (readings.start.get("versions") or {}).items()}
    return sections


def _run(readings: RunReadings) -> dict[str, Fact]:
    start, stop = readings.start, readings.stop
    facts = {"uid": Fact(start["uid"]), "scan_id": Fact(start.get("scan_id"))}
    began = datetime.fromtimestamp(start["time"]).astimezone()
    facts["began"] = Fact(local_time(start["time"]), text=f"{began:%Y-%m-%d %H:%M:%S %Z (UTC%z)}")
    if stop:
        facts["duration"] = Fact(stop["time"] - start["time"], "s")
        reason = stop.get("reason") or ""
        facts["ended"] = Fact(stop["exit_status"], note=reason)
    else:
        facts["ended"] = Fact(None, text="not finished: it goes on, or its session died")
    events = stop.get("num_events") or {name: len(numbers) for name, numbers in readings.seq_nums.items()}
    words = [
        f"{name} {count}" + " (not stored)" * (name not in readings.stored) for name, count in events.items()
    ]
    facts["events"] = Fact(dict(events), text=", ".join(words))
    return only_known(facts)


def _plan(readings: RunReadings) -> dict[str, Fact]:
    start = readings.start
    facts = {"name": Fact(start.get("plan_name"))}
    for key in ("motors", "detectors"):
        facts[key] = Fact(list(start.get(key) or ()) or None)
    facts["points"] = Fact(start.get("num_points"))
    for key, values in readings.moved.items():
        if not key.endswith("_setpoint"):
            facts[key] = _values(values, readings.units.get(key, ""))
    return only_known(facts)


def _scan(device: DeviceReadings) -> dict[str, Fact]:
    rows, cols = device.get("scan_rows"), device.get("scan_cols")
    step_y, step_x = device.get("scan_step_y"), device.get("scan_step_x")
    unit = device.get("scan_unit") or "px"
    facts: dict[str, Fact] = {}
    if isinstance(rows, int) and isinstance(cols, int):
        facts["positions"] = Fact([rows, cols], text=f"{rows} x {cols} (rows x cols)")
    if isinstance(step_y, float) and isinstance(step_x, float) and isinstance(unit, str):
        both = f"{step_y:.6g} {unit}" if step_y == step_x else f"{step_y:.6g} x {step_x:.6g} {unit} (y x x)"
        calibrated = "" if unit != "px" else "not calibrated: no step was given"
        facts["step"] = Fact([step_y, step_x], unit, calibrated, text=both)
        if "positions" in facts:
            view = [rows * step_y, cols * step_x]
            facts["field_of_view"] = Fact(view, unit, text=f"{view[0]:.6g} x {view[1]:.6g} {unit} (y x x)")
    elif step_y is not None:
        facts["step_y"], facts["step_x"] = _of(device, "scan_step_y", unit), _of(device, "scan_step_x", unit)
    for name in ("serpentine", "flyback", "last_flyback", "lead_in"):
        fact = _of(device, f"scan_{name}")
        if fact.value not in (False, 0) and not (name == "last_flyback" and device.get("scan_flyback") == 0):
            facts[name] = fact
    return only_known(facts)


def _virtual_detectors(device: DeviceReadings, scale: AngularScale) -> dict[str, Fact]:
    facts = {name: virtual_detector(device, name, scale) for name in device.images}
    facts["calibration"] = (
        Fact(scale.mrad, "mrad/px", scale.how)
        if scale.mrad is not None
        else Fact(None, note=scale.how, text="no angles")
    )
    named = {key: _of(device, key) for key in ("calibration_name", "calibration_runs")}
    return facts | only_known(named)


def _pixels(device: DeviceReadings) -> dict[str, Fact]:
    facts = {
        "pixel_mask": _of(device, "pixel_mask"),
        "gain": _of(device, "gain"),
        "masked": _of(device, "series_pixels_masked", "px"),
        "spread": _of(
            device, "series_pixels_spread", "px", note="of the masked: their neighbours have their weight"
        ),
        "mask_applied": _of(device, "series_pixel_mask", note="digest, the detector's own included"),
        "detectors_mask": _of(device, "series_detector_mask", note="digest"),
        "nodata": _of(device, "nodata"),
        "saturated_pixels": _of(device, "saturated"),
        "saturation": _of(device, "series_saturation", "counts"),
        "channel": _of(device, "series_channel"),
        "pixel_format": _of(device, "detector_pixel_format"),
    }
    if isinstance(facts["nodata"].value, bool):
        hold = "hold no count" if facts["nodata"].value else "are counts as all others"
        facts["nodata"] = Fact(facts["nodata"].value, text=f"pixels at the data type's maximum {hold}")
    policies = {
        "leave_out": "left out of the sums",
        "count": "counted as they are",
        "nan": "make their position NaN",
    }
    if (policy := facts["saturated_pixels"].value) in tuple(policies):
        facts["saturated_pixels"] = Fact(policy, text=policies[policy])
    return only_known(facts)


def _exposure(device: DeviceReadings) -> dict[str, Fact]:
    return only_known(
        {
            "dwell_time": _of(device, "dwell_time", "s", note="as set"),
            "count_time": _either(device, "series_count_time", "detector_count_time", "s"),
            "frame_time": _either(device, "series_frame_time", "detector_frame_time", "s"),
            "frame_rate": _of(device, "frame_rate", "Hz", note="as received"),
            "trigger_mode": _of(device, "detector_trigger_mode"),
        }
    )


def _detector(device: DeviceReadings) -> dict[str, Fact]:
    facts = {
        "model": _either(device, "detector_description", "series_detector", ""),
        "serial_number": _of(device, "detector_detector_number"),
        "software": _of(device, "detector_software_version"),
        "firmware": _of(device, "detector_firmware_version"),
        "pixel_size": _of(device, "detector_x_pixel_size", "m"),
        "threshold": _either(device, "series_threshold", "detector_threshold_1_energy", "eV"),
        "binning": _of(device, "detector_binning_mode"),
        "roi": _of(device, "detector_roi_mode"),
        "compression": _of(device, "detector_compression"),
    }
    corrections = ("flatfield", "countrate", "virtual_pixel")
    states = {name: device.get(f"detector_{name}_correction_applied") for name in corrections}
    applied = [name for name, state in states.items() if state is True]
    if any(state is not None for state in states.values()):
        facts["corrections"] = Fact(applied, text=", ".join(applied) or "none")
    facts["stream"] = _of(device, "endpoint")
    return only_known(facts)


def _frames(device: DeviceReadings) -> dict[str, Fact]:
    facts = {}
    files = [path for path in device.events.get("recorded_file", ()) if path]
    names = ("expected", "received", "lost", "bad", "dropped", "saturated")
    for name in (*names, "recorded", "unrecorded") if files else names:
        values = [value for value in device.events.get(f"frames_{name}", ()) if is_known(value)]
        if values:
            total = sum(values)
            total = int(total) if total == int(total) else total
            where = [number for number, value in enumerate(values, 1) if value]
            note = ""
            if name not in ("expected", "received", "recorded") and total and len(values) > 1:
                note = f"in {len(where)} of {len(values)} Events"
            facts[name] = Fact(total, "frames", note)
    if files:
        facts["recorded in"] = _values(files, "")
    return facts


def _software(device: DeviceReadings) -> dict[str, Fact]:
    return only_known(
        {
            # Older runs have it as engine.
            "backend": _either(device, "backend", "engine", ""),
            "backend_detail": _either(device, "backend_detail", "engine_detail", ""),
            "connections": _of(device, "connections"),
            "versions": _of(device, "versions"),
        }
    )


def _beam(readings: RunReadings, known: Mapping[str, Any]) -> dict[str, Fact]:
    facts: dict[str, Fact] = {}
    energy, source = None, ""
    if "beam_energy" in known:
        energy, source = known["beam_energy"].value, known["beam_energy"].key
        if known["beam_energy"].problem:
            facts["energy"] = Fact(None, note=known["beam_energy"].problem, text="not known")
    else:
        for device in readings.devices.values():
            said = device.get("series_energy")
            if is_known(said) and not isinstance(said, list):
                energy, source = said, "as the detector was told"
    if energy is not None and energy > 0:
        facts["energy"] = Fact(energy, "eV", source)
        wavelength = wavelength_m(energy)
        facts["wavelength"] = Fact(wavelength, "m", text=f"{1e12 * wavelength:.5g} pm")
    for name, unit in (("camera_length", "m"), ("convergence_angle", "mrad"), ("magnification", "")):
        if name in known:
            entry = known[name]
            facts[name] = (
                Fact(entry.value, unit, entry.key)
                if entry.value is not None
                else Fact(None, note=entry.problem, text="not used")
            )
    return facts


def _baseline(readings: RunReadings) -> dict[str, Fact]:
    facts = {}
    for key, values in readings.baseline.items():
        if key in ("seq_num", "time") or not is_known(values):
            continue
        unit = readings.units.get(key, "")
        if same(values):
            facts[key] = Fact(values[0], unit)
        else:
            ends = f"{text_of(values[0], unit)} before, {text_of(values[-1], unit)} after"
            facts[key] = Fact(values, unit, by_event=True, text=ends)
    return facts


# Facts of readings -----------------------------------------------------------------------------------


def _of(device: DeviceReadings, key: str, unit: str = "", note: str = "") -> Fact:
    value = device.get(key)
    return Fact(value, device.units.get(key, unit) or unit, note, by_event=isinstance(device.events.get(key), list)
                and isinstance(value, list))  # fmt: skip


def _either(device: DeviceReadings, key: str, other: str, unit: str) -> Fact:
    fact = _of(device, key, unit)
    return fact if is_known(fact.value) else _of(device, other, unit)


def _values(values: list[Any], unit: str) -> Fact:
    return Fact(values[0], unit) if same(values) else Fact(values, unit, by_event=True)


def _fact(value: Any) -> Fact:
    """Of metadata: nested ones a line each."""
    value = unwrapped(value)
    if isinstance(value, dict):
        return Fact(value, text=", ".join(f"{key}: {text_of(item, '')}" for key, item in value.items()))
    return Fact(value)


def unwrapped(value: Any) -> Any:
    """What Tiled gives as views, as the dicts and lists that they show."""
    if isinstance(value, Mapping):
        return {key: unwrapped(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListView":
        return [unwrapped(item) for item in value]
    return value
