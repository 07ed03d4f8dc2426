"""Parameters of a method as settings: one signal a field, with the unit and the smallest value in its metadata.

In: a frozen dataclass, ``radius: float = field(metadata={"units": "px", "least": 0})``; ``units_of`` names the field
that has the unit, and what is ``fixed`` cannot be set. Out: components ``vbf_radius``
for a device's class, and the method again, with the values of the signals. Fields of a field that is a dataclass
itself count as the method's own: ``com_radius`` for ``CenterOfMass("com", within=Disk(..., radius=30))``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from ophyd import Component as Cpt

from live4d_ophyd import checks
from live4d_ophyd.device.pixel_array import PixelArray
from live4d_ophyd.device.signals import (
    Flag,
    Number,
    Positions,
    Setting,
    Text,
    Value,
    Vector,
    Whole,
    setting,
)
from live4d_ophyd.imaging.of_channel import plain

#: units of lengths, in the words of a data key
UNITS = {"bf": "bright-field radius"}


@dataclass(frozen=True)
class Parameter:
    """A field of a method, or of a dataclass in it, as a setting."""

    key: str  #: behind the device's name
    path: tuple[str, ...]  #: of fields, from the method to it
    component: Cpt
    optional: bool  #: None stands for NaN


def parameters(method: Any) -> list[Parameter]:
    """The settings of a method."""
    return list(_parameters(method, method.name, (), plain(method)))


def _parameters(part: Any, prefix: str, path: tuple[str, ...], whole: Any) -> Iterator[Parameter]:
    """``whole`` is the method, without the channel it is put on."""
    hints = _hints(part)
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name == "name" or not field.init or (part is not whole and field.name == "enabled"):
            continue  # a part has its method's name, and is enabled with it
        if is_dataclass(value):
            yield from _parameters(value, prefix, (*path, field.name), whole)
            continue
        kinds = (
            get_args(hints[field.name]) if NoneType in get_args(hints[field.name]) else (hints[field.name],)
        )
        optional = NoneType in kinds
        units = field.metadata.get("units")
        if "units_of" in field.metadata:
            unit = getattr(part, field.metadata["units_of"])
            units = UNITS.get(unit, unit)
        component = _setting(value, [kind for kind in kinds if kind is not NoneType], optional, field, units)
        yield Parameter(f"{prefix}_{field.name}", (*path, field.name), component, optional)


def _hints(part: Any) -> dict[str, Any]:
    """Types of the fields; as the values have them where a name is known to type checkers only."""
    try:
        return get_type_hints(type(part))
    except NameError:
        return {field.name: type(getattr(part, field.name)) for field in fields(part)}


def _setting(value: Any, kinds: Sequence[Any], optional: bool, field: Field, units: str | None) -> Cpt:
    """The setting of a field; what is no number, text, position or array is recorded, and cannot be set."""
    (kind,) = kinds if len(kinds) == 1 else (None,)
    least = field.metadata.get("least", -math.inf)
    if field.metadata.get("fixed"):
        return Cpt(Value, value=value, kind="config")
    if kind is bool:
        return setting(Flag, value=value)
    if kind is int and not optional:
        return setting(Whole, value=value, least=least, units=units)
    if kind is float:
        number = math.nan if value is None else float(value)
        return setting(Number, value=number, least=least, nan=optional, units=units)
    if kind is str and not optional:
        return setting(Text, value=value)
    if get_origin(kind) is tuple and get_args(kind) == (float, float):
        position = (math.nan, math.nan) if value is None else tuple(map(float, value))
        return setting(Vector, value=position, units=units)
    if kind == tuple[tuple[float, float], ...]:
        return setting(Positions, value=value, units=units)
    if kind is np.ndarray and value.ndim == 2:
        return setting(PixelArray, value=value, check=_check_map, optional=False)
    return Cpt(Value, value=repr(value), kind="config")


def _check_map(array: Any) -> None:
    """Raise ValueError unless it is one number a pixel; what else it must be the method says."""
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ValueError(f"it is {checks.shown(array)}; expected an array (q_y, q_x) of numbers")


def with_settings(
    method: Any, device: Any, settings: Sequence[Parameter], instead: Mapping[str, Any] | None = None
) -> Any:
    """``method`` with the values that its ``settings`` have on ``device``; those of ``instead``, by key, go first.

    Raises ValueError where they do not fit each other.
    """
    instead = instead or {}
    changes: dict[
        tuple[str, ...], dict[str, Any]
    ] = {}  # of a part all at once: one by one they might not fit
    for parameter in settings:
        signal = getattr(device, parameter.key)
        if isinstance(signal, Setting):
            *path, name = parameter.path
            value = instead[parameter.key] if parameter.key in instead else signal.get()
            none = parameter.optional and np.isnan(value).any()  # only numbers and positions may be
            changes.setdefault(tuple(path), {})[name] = None if none else value
    return _changed(method, (), changes)


def _changed(part: Any, path: tuple[str, ...], changes: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Any:
    """A method, or a dataclass in it at ``path``, with these fields."""
    parts = {
        field.name: _changed(getattr(part, field.name), (*path, field.name), changes)
        for field in fields(part)
        if is_dataclass(getattr(part, field.name))
    }
    return replace(part, **parts, **changes.get(path, {}))
