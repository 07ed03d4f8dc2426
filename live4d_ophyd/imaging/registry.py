"""Methods by name: what crosses to the engine is a kind and plain fields, and the engine imports by name.

Kinds are those of this package, those that installed packages give in the entry point group
``live4d_ophyd.methods``, and ``module:Class`` where the engine allows it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from live4d_ophyd.imaging.center_of_mass import CenterOfMass
from live4d_ophyd.imaging.dpc import DPC, IDPC
from live4d_ophyd.imaging.drawn_detectors import Mask, Points, Polygon
from live4d_ophyd.imaging.drift import Drift
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.imaging.of_channel import OfChannel
from live4d_ophyd.imaging.parallax import Parallax
from live4d_ophyd.imaging.pattern_statistics import LastPattern, MaxPattern, StdPattern
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.strain import Strain
from live4d_ophyd.imaging.virtual_detectors import Annulus, Disk

GROUP = "live4d_ophyd.methods"

_OWN: dict[str, type] = {
    "disk": Disk,
    "annulus": Annulus,
    "points": Points,
    "polygon": Polygon,
    "mask": Mask,
    "segments": Segments,
    "center_of_mass": CenterOfMass,
    "dpc": DPC,
    "idpc": IDPC,
    "parallax": Parallax,
    "drift": Drift,
    "strain": Strain,
    "mean_pattern": MeanPattern,
    "max_pattern": MaxPattern,
    "std_pattern": StdPattern,
    "last_pattern": LastPattern,
    "of_channel": OfChannel,
}


def _installed() -> dict[str, EntryPoint]:
    return _installed_on(tuple(sys.path))


@lru_cache(maxsize=1)
def _installed_on(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    # Kept: each trigger asks, and the search goes through all packages of the environment.
    return {point.name: point for point in entry_points(group=GROUP)}


def kind_of(method: Any) -> str:
    """The name by which an engine finds the class of a method. Raises ValueError for what is no method."""
    of = type(method)
    for kind, own in _OWN.items():
        if of is own:
            return kind
    if not hasattr(method, "name"):
        raise ValueError(f"{method!r} is no imaging method: it has no name")
    if why := _lacks(of):
        raise ValueError(f"{method!r} is no imaging method: {why}")
    path = f"{of.__module__}:{of.__qualname__}"
    for name, point in _installed().items():
        if point.value == path:
            return name
    if of.__module__ == "__main__" or "<locals>" in of.__qualname__:
        raise ValueError(
            f"the class of {method!r} is defined in this session only: the engine, a process of its own, imports "
            "methods by name. Put it into a file that can be imported"
        )
    return path


def _lacks(of: Any) -> str:
    """What a class lacks to be a method; "" if it is one."""
    if not isinstance(of, type) or not is_dataclass(of):
        return "it is no dataclass"
    missing = [name for name in ("demand", "outputs", "results") if not hasattr(of, name)]
    return f"it has no {missing[0]}" if missing else ""


def class_of(kind: str, *, allow_modules: bool = False) -> type:
    """The class of a kind. Raises ValueError that says what is missing where."""
    if kind in _OWN:
        return _OWN[kind]
    installed = _installed()
    try:
        if kind in installed:
            found: Any = installed[kind].load()
            if why := _lacks(found):
                raise ValueError(f"{installed[kind].value} is no imaging method: {why}")
            return found
        if ":" in kind:
            if not allow_modules:
                raise ValueError(
                    f"this engine does not take methods by module ({kind}): start it with --allow-methods, or install "
                    f"a package there that gives the method as an entry point of {GROUP}"
                )
            module, _, name = kind.partition(":")
            found = importlib.import_module(module)
            for part in name.split("."):
                found = getattr(found, part)
            if why := _lacks(found):
                raise ValueError(f"{kind} is no imaging method: {why}")
            return found
    except ValueError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"the method {kind!r} cannot be imported by the engine: {words}") from error
    raise ValueError(
        f"the method {kind!r} is not installed where the engine runs: it knows {', '.join([*_OWN, *installed])}"
    )


def to_dict(method: Any) -> dict[str, Any]:
    """The method as plain values: ``kind`` and its fields; fields that are methods themselves likewise."""
    values: dict[str, Any] = {"kind": kind_of(method)}
    for field in fields(method):
        value = getattr(method, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            value = to_dict(value)
        values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


def from_dict(values: Mapping[str, Any], *, allow_modules: bool = False) -> Any:
    """The method of these plain values, `to_dict`'s; lists stand for tuples. Raises ValueError for what is none."""
    if not isinstance(values.get("kind"), str):
        raise ValueError(f"{dict(values)!r} is no method: it has no kind")
    of = class_of(values["kind"], allow_modules=allow_modules)
    given = {
        field.name: _from_plain(values[field.name], allow_modules)
        for field in fields(of)
        if field.init and field.name in values
    }
    try:
        return of(**given)
    except TypeError as error:
        raise ValueError(f"the method {values['kind']!r} cannot be made of {given}: {error}") from error


def _from_plain(value: Any, allow_modules: bool) -> Any:
    if isinstance(value, Mapping) and "kind" in value:
        return from_dict(value, allow_modules=allow_modules)
    return tuple(value) if isinstance(value, list) else value
