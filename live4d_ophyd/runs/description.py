"""``describe``: everything needed to understand a run's images a year later, as a table and as plain values.

In: a run. Out: a `RunDescription` of sections of facts. What the run does not say is left out; what differs from Event
to Event is a list of values.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from live4d_ophyd.runs.calibration import AngularScale, angular_scale, microscope, wavelength_m
from live4d_ophyd.runs.find import opened
from live4d_ophyd.runs.readings import DeviceReadings, RunReadings, is_known, same

#: of a start document: what Bluesky and its plans put there, and the table has elsewhere
_BLUESKYS = {
    "uid", "time", "versions", "scan_id", "plan_type", "plan_name", "plan_args", "detectors", "motors", "num_points",
    "num_intervals", "hints", "plan_pattern", "plan_pattern_args", "plan_pattern_module", "shape", "extents", "snaking",
}  # fmt: skip
_PREFIXES = (
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
)
_SCALED = ("s", "eV", "m", "Hz", "A")
#: parameters of a method that say which pixels it takes
_LENGTHS = ("radius", "inner", "outer")
_SHAPE = (*_LENGTHS, "center", "center_row", "center_col", "soft", "kind")
#: digits are counted in a shape of four or more numbers
_SHOWN_VALUES = 4


@dataclass(frozen=True)
class Fact:
    """A value with its unit. ``str(fact)`` is what the table shows."""

    value: Any  #: plain; a list with one value an Event where ``by_event``; a dict for a virtual detector
    unit: str = ""
    note: str = ""  #: where it comes from, or what it means
    by_event: bool = False
    text: str = ""  #: shown instead of the value

    def __str__(self) -> str:
        shown = self.text or (
            _by_event(self.value, self.unit) if self.by_event else _shown(self.value, self.unit)
        )
        return f"{shown} ({self.note})" if self.note else shown


class RunDescription(Mapping[str, Mapping[str, Fact]]):
    """Sections of facts: ``description["scan"]["step"].value``. Its repr is the table, in notebooks an HTML one."""

    def __init__(self, sections: Mapping[str, Mapping[str, Fact]]) -> None:
        self._sections = {name: dict(facts) for name, facts in sections.items() if facts}

    def __getitem__(self, section: str) -> Mapping[str, Fact]:
        return self._sections[section]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """For JSON: ``{section: {name: {"value": ..., "unit": ..., "note": ..., "by_event": true}}}``; NaN is null."""
        return {
            section: {name: _plain_fact(fact) for name, fact in facts.items()}
            for section, facts in self.items()
        }

    def __repr__(self) -> str:
        width = max((len(name) for facts in self.values() for name in facts), default=0)
        lines = []
        for section, facts in self.items():
            lines.append(section)
            for name, fact in facts.items():
                first, *others = str(fact).splitlines() or [""]
                lines.append(f"  {name.replace('_', ' '):{width}}  {first}".rstrip())
                lines.extend(f"  {'':{width}}  {line}".rstrip() for line in others)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for section, facts in self.items():
            rows.append(f'<tr><th colspan="2" style="text-align:left">{html.escape(section)}</th></tr>')
            for name, fact in facts.items():
                shown = html.escape(str(fact)).replace("\n", "<br>")
                style = "text-align:left"
                rows.append(
                    f'<tr><td style="{style}">{html.escape(name.replace("_", " "))}</td>'
                    f'<td style="{style}">{shown}</td></tr>'
                )
        return f"<table>{''.join(rows)}</table>"


def describe(run: Any, *, catalog: str | None = None) -> RunDescription:
    """What a run is: plan, time, sample, scan, virtual detectors, beam, detector, losses, software.

    Parameters
    ----------
    run
        A run of a catalog, ``db[-1]``; or its uid, the first characters of that, its scan id, or -1.
    catalog
        Where a run that is not a client is looked up: Tiled profile, directory or Tiled server; default: the catalog
        that a session opens.

    Returns
    -------
    RunDescription
        Shows itself as a table; ``description["scan"]["step"].value`` and ``.unit``; ``description.to_dict()``.

    Raises
    ------
    NoSuchRun
        There is none, or several of that scan id.

    Examples
    --------
    >>> describe(db[-1])
    >>> describe(-1)["virtual detectors"]["vbf"].value["radius"]
    15.0
    """
    with opened(run, catalog) as client:
        return description_of(RunReadings(client))


def description_of(readings: RunReadings) -> RunDescription:
    """The description of what was read of a run."""
    known = microscope(readings)
    sections: dict[str, dict[str, Fact]] = {
        "run": _run(readings),
        "metadata": {
            key: _fact(value)
            for key, value in readings.start.items()
            if key not in _BLUESKYS and is_known(value)
        },
        "plan": _plan(readings),
    }
    several = len(readings.devices) > 1
    for name, device in readings.devices.items():
        scale = angular_scale(device, known)
        for title, facts in {
            "scan": _scan(device),
            "virtual detectors": _virtual_detectors(device, scale),
            "pixels": _pixels(device),
            "exposure": _exposure(device),
            "detector": _detector(device),
            "frames": _frames(device),
            "decoded by": _software(device),
        }.items():
            sections[f"{name}: {title}" if several else title] = facts
    sections["beam"] = _beam(readings, known)
    sections["microscope"] = _baseline(readings)
    sections["versions"] = {key: Fact(value) for key, value in (readings.start.get("versions") or {}).items()}
    return RunDescription(sections)


def local_time(seconds: float) -> str:
    """A time of a document in the local zone, ``2026-11-29T02:01:45+01:00``."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


# Sections -----------------------------------------------------------------------------------------


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
    facts["events"] = Fact(dict(events), text=", ".join(f"{name} {count}" for name, count in events.items()))
    return _only_known(facts)


def _plan(readings: RunReadings) -> dict[str, Fact]:
    start = readings.start
    facts = {"name": Fact(start.get("plan_name"))}
    for key in ("motors", "detectors"):
        facts[key] = Fact(list(start.get(key) or ()) or None)
    facts["points"] = Fact(start.get("num_points"))
    for key, values in readings.moved.items():
        if not key.endswith("_setpoint"):
            facts[key] = _values(values, readings.units.get(key, ""))
    return _only_known(facts)


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
    return _only_known(facts)


def _virtual_detectors(device: DeviceReadings, scale: AngularScale) -> dict[str, Fact]:
    facts = {name: virtual_detector(device, name, scale) for name in device.images}
    facts["calibration"] = (
        Fact(scale.mrad, "mrad/px", scale.how)
        if scale.mrad is not None
        else Fact(None, note=scale.how, text="no angles")
    )
    return facts


def virtual_detector(device: DeviceReadings, name: str, scale: AngularScale) -> Fact:
    """The shape under an image: a dict with ``kind``, ``center``, lengths in px and, as ``..._mrad``, in mrad.

    And whatever else its method was set to: ``sectors``, ``rotation``.
    """
    method, others = _method_of(device, name)
    lengths = [key for key in _LENGTHS if device.get(f"{method}_{key}") is not None]
    if not lengths and not others:
        return Fact({}, text="its shape is not recorded")
    shape: dict[str, Any] = {}
    texts = []
    recorded = device.get(f"{method}_kind")
    if recorded is not None:
        shape["kind"] = recorded
        texts.append(str(recorded).replace("_", " "))
    if lengths:
        of_lengths = "disk" if lengths == ["radius"] else "annulus"
        if shape.setdefault("kind", of_lengths) != of_lengths:
            texts.append(f"in a{'n' * (of_lengths == 'annulus')} {of_lengths}")
        elif recorded is None:
            texts.append(of_lengths)
    for key in lengths:
        value = shape[key] = device.get(f"{method}_{key}")
        text = f"{key} {_by_event(value, 'px') if isinstance(value, list) else _shown(value, 'px')}"
        if not isinstance(value, list) and (angle := scale.angle(value)) is not None:
            shape[f"{key}_mrad"] = angle
            text += f" = {angle:.4g} mrad"
        texts.append(text)
    if lengths:
        center = shape["center"] = _center(device, method)
        if center is None:
            texts.append("in the middle of the frame")
        else:
            sides = [_by_event(v, "px") if isinstance(v, list) else f"{v:.6g} px" for v in center]
            texts.append(f"centre row {sides[0]}, col {sides[1]}")
    if device.get(f"{method}_soft"):
        shape["soft"] = True
        texts.append("soft edge")
    for key in others:
        value = shape[key] = device.get(f"{method}_{key}")
        unit = device.units.get(f"{method}_{key}", "")
        shown = _by_event(value, unit) if isinstance(value, list) else _shown(value, unit)
        texts.append(f"{key.replace('_', ' ')} {shown}")
    return Fact(shape, text=", ".join(texts))


def _method_of(device: DeviceReadings, image: str) -> tuple[str, list[str]]:
    """Name of the method that made an image, and of its parameters that are no shape: ``com`` for ``com_y``.

    A method's outputs and its parameters begin with its name.
    """
    words = image.split("_")
    for count in range(len(words), 0, -1):
        method = "_".join(words[:count])
        longer = tuple(f"{other}_" for other in device.images if other.startswith(f"{method}_"))
        found = [
            key.removeprefix(f"{method}_")
            for key in device.configuration
            if key.startswith(f"{method}_") and not key.startswith(longer)
        ]
        if found:
            return method, [key for key in found if key not in _SHAPE]
    return image, []


def _center(device: DeviceReadings, name: str) -> list[Any] | None:
    row, col = device.get(f"{name}_center_row"), device.get(f"{name}_center_col")
    if row is None:
        row, col = device.configuration.get(f"{name}_center") or (None, None)
    return [row, col] if is_known(row) and is_known(col) else None


def _pixels(device: DeviceReadings) -> dict[str, Fact]:
    facts = {
        "pixel_mask": _of(device, "pixel_mask"),
        "gain": _of(device, "gain"),
        "masked": _of(device, "series_pixels_masked", "px"),
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
    return _only_known(facts)


def _exposure(device: DeviceReadings) -> dict[str, Fact]:
    return _only_known(
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
    return _only_known(facts)


def _frames(device: DeviceReadings) -> dict[str, Fact]:
    facts = {}
    for name in ("expected", "received", "lost", "bad", "dropped", "saturated"):
        values = [value for value in device.events.get(f"frames_{name}", ()) if is_known(value)]
        if values:
            total = sum(values)
            total = int(total) if total == int(total) else total
            where = [number for number, value in enumerate(values, 1) if value]
            note = ""
            if name not in ("expected", "received") and total and len(values) > 1:
                note = f"in {len(where)} of {len(values)} Events"
            facts[name] = Fact(total, "frames", note)
    return facts


def _software(device: DeviceReadings) -> dict[str, Fact]:
    return _only_known(
        {
            "engine": _of(device, "engine"),
            "engine_detail": _of(device, "engine_detail"),
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
            ends = f"{_shown(values[0], unit)} before, {_shown(values[-1], unit)} after"
            facts[key] = Fact(values, unit, by_event=True, text=ends)
    return facts


# Facts and their text -----------------------------------------------------------------------------


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
    value = _unwrapped(value)
    if isinstance(value, dict):
        return Fact(value, text=", ".join(f"{key}: {_shown(item, '')}" for key, item in value.items()))
    return Fact(value)


def _unwrapped(value: Any) -> Any:
    """What Tiled gives as views, as the dicts and lists that they show."""
    if isinstance(value, Mapping):
        return {key: _unwrapped(item) for key, item in value.items()}
    if isinstance(value, list | tuple) or type(value).__name__ == "ListView":
        return [_unwrapped(item) for item in value]
    return value


def _only_known(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    return {name: fact for name, fact in facts.items() if fact.text or is_known(fact.value)}


def _plain_fact(fact: Fact) -> dict[str, Any]:
    plain = {"value": _without_nan(fact.value)}
    if fact.unit:
        plain["unit"] = fact.unit
    if fact.note:
        plain["note"] = fact.note
    if fact.by_event:
        plain["by_event"] = True
    return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _by_event(values: list[Any], unit: str) -> str:
    known = [value for value in values if is_known(value)]
    if len(values) <= _SHOWN_VALUES or any(isinstance(value, str | bool) for value in known):
        different = list(dict.fromkeys(_shown(value, unit) for value in values))
        return f"{', '.join(different[:_SHOWN_VALUES])}{' ...' * (len(different) > _SHOWN_VALUES)} by Event"
    return f"{_shown(min(known), unit)} to {_shown(max(known), unit)} in {len(values)} Events"


def _shown(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value} {unit}".rstrip()
    if isinstance(value, float):
        if not math.isfinite(value):
            return "not known"
        if unit in _SCALED and value:
            for factor, prefix in _PREFIXES:
                if abs(value) >= factor * 0.9999999:
                    return f"{value / factor:.6g} {prefix}{unit}"
        return f"{value:.6g} {unit}".rstrip()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item, '')}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item, unit) for item in value)
    return f"{value} {unit}".rstrip()
