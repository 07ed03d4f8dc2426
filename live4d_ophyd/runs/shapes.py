"""The virtual detector under an image: what a run recorded of the shape, in px and in mrad.

In: the readings of a device, the name of an image, the angle of a pixel. Out: a `Fact`, whose value is a dict.
"""

from __future__ import annotations

from typing import Any

from live4d_ophyd.runs.calibration import AngularScale
from live4d_ophyd.runs.facts import Fact, text_by_event, text_of
from live4d_ophyd.runs.readings import DeviceReadings, is_known

#: parameters of a method that say which pixels it takes
_LENGTHS = ("radius", "inner", "outer")
_SHAPE = (*_LENGTHS, "center", "center_row", "center_col", "soft", "kind", "unit", "enabled")


def virtual_detector(device: DeviceReadings, name: str, scale: AngularScale) -> Fact:
    """The shape under an image: a dict with ``kind``, ``center``, lengths in px and, as ``..._mrad``, in mrad.

    Of a detector in another ``unit`` these are the px that it was, and the text has what was set, too.

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
    unit = device.get(f"{method}_unit") or "px"
    if unit != "px":
        shape["unit"] = unit
    for key in lengths:
        set_to, words = device.get(f"{method}_{key}"), device.units.get(f"{method}_{key}") or unit
        value = shape[key] = set_to if unit == "px" else device.get(f"{method}_{key}_px")
        text = f"{key} {_text(value, 'px')}"
        if unit != "px":
            text = f"{key} {_text(set_to, words)}" + (f" = {_text(value, 'px')}" if value is not None else "")
        if is_known(value) and not isinstance(value, list) and (angle := scale.angle(value)) is not None:
            shape[f"{key}_mrad"] = angle
            text += f" = {angle:.4g} mrad"
        texts.append(text)
    if lengths:
        center = shape["center"] = _center(device, method)
        if center is None:
            texts.append("in the middle of the frame")
        else:
            sides = [text_by_event(v, "px") if isinstance(v, list) else f"{v:.6g} px" for v in center]
            texts.append(f"centre row {sides[0]}, col {sides[1]}")
    if device.get(f"{method}_soft"):
        shape["soft"] = True
        texts.append("soft edge")
    for key in others:
        value = shape[key] = device.get(f"{method}_{key}")
        unit = device.units.get(f"{method}_{key}", "")
        shown = text_by_event(value, unit) if isinstance(value, list) else text_of(value, unit)
        texts.append(f"{key.replace('_', ' ')} {shown}")
    if name in device.channels:
        texts.append(f"channel {device.channels[name]}")
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
    """Where it was: as it was set, else as the calibration has it; None is the middle of the frame."""
    for what, end in ((name, "_px"), (name, ""), ("calibration", "")):
        row, col = device.get(f"{what}_center_row{end}"), device.get(f"{what}_center_col{end}")
        if row is None and not end:
            row, col = device.configuration.get(f"{what}_center") or (None, None)
        if is_known(row) and is_known(col):
            return [row, col]
    return None


def _text(value: Any, unit: str) -> str:
    return text_by_event(value, unit) if isinstance(value, list) else text_of(value, unit)
