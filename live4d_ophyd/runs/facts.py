"""Facts: what a run says, each value with its unit, its note and the text that a table shows.

In: plain values. Out: `Fact`, and texts of values with their units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from live4d_ophyd.runs.readings import is_known

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
#: different values of Events that are shown one by one
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
            text_by_event(self.value, self.unit) if self.by_event else text_of(self.value, self.unit)
        )
        return f"{shown} ({self.note})" if self.note else shown

    def plain(self) -> dict[str, Any]:
        """For JSON: value, and unit, note and by_event where there are any; NaN is null."""
        plain = {"value": _without_nan(self.value)}
        if self.unit:
            plain["unit"] = self.unit
        if self.note:
            plain["note"] = self.note
        if self.by_event:
            plain["by_event"] = True
        return plain


def only_known(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """Without those that say nothing."""
    return {name: fact for name, fact in facts.items() if fact.text or is_known(fact.value)}


def local_time(seconds: float) -> str:
    """A time of a document in the local zone, ``2026-11-29T02:01:45+01:00``."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def text_of(value: Any, unit: str) -> str:
    """A plain value in words: numbers with 6 digits, physical units with a prefix."""
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
        return ", ".join(f"{key}: {text_of(item, '')}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(text_of(item, unit) for item in value)
    return f"{value} {unit}".rstrip()


def text_by_event(values: list[Any], unit: str) -> str:
    """The values of several Events: each of a few, or from where to where."""
    known = [value for value in values if is_known(value)]
    if len(values) <= _SHOWN_VALUES or any(isinstance(value, str | bool) for value in known):
        different = list(dict.fromkeys(text_of(value, unit) for value in values))
        return f"{', '.join(different[:_SHOWN_VALUES])}{' ...' * (len(different) > _SHOWN_VALUES)} by Event"
    return f"{text_of(min(known), unit)} to {text_of(max(known), unit)} in {len(values)} Events"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
