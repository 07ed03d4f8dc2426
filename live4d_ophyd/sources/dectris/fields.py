"""Checks of message fields.

Each takes a value that cbor2 decoded and its name for the error, and returns it as the type the messages
have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

import cbor2

from live4d_ophyd.frames.encoded_array import EncodedArray, StreamError, kind_of, read_array

Check = Callable[[Any, str], Any]

_MAX_COUNT = 2**63 - 1


class Fields:
    """The values of a map with checks; ``place`` begins every error, ``notes`` takes those of optional values."""

    def __init__(self, values: Mapping[Any, Any], place: str, notes: list[str]) -> None:
        self.values, self.place, self.notes = values, place, notes

    def required(self, name: str, check: Check) -> Any:
        """The checked value; raises StreamError if there is none."""
        if name not in self.values:
            raise StreamError(f"{self.place}: {name} is missing")
        return check(self.values[name], f"{self.place}: {name}")

    def optional(self, name: str, check: Check, default: Any = None) -> Any:
        """The checked value, ``default`` if there is none or it is null, also with a note if it is no such value."""
        value = self.values.get(name)
        if value is None or value is cbor2.undefined:
            return default
        return self.noted(check)(value, f"{self.place}: {name}", default)

    def noted(self, check: Check) -> Callable[..., Any]:
        """The check, but what it refuses becomes the default (None) and a note."""

        def value_or_default(value: Any, name: str, default: Any = None) -> Any:
            try:
                return check(value, name)
            except StreamError as error:
                self.notes.append(str(error))
                return default

        return value_or_default

    def anything(self, name: str) -> Any:
        """The value whatever it is, in dicts and lists."""
        return plain(self.values.get(name))


def refuse(name: str, value: Any, expected: str) -> StreamError:
    """The error for a value of the wrong type or size."""
    return StreamError(f"{name} is {kind_of(value)}; expected {expected}")


#: channels of an image message; detectors have four at most
_MOST_CHANNELS = 64
#: characters of a name, an id or a description
_LONGEST_TEXT = 4096


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise refuse(name, value, "text")
    if len(value) > _LONGEST_TEXT:  # it would be in every document of the run
        raise StreamError(f"{name} is a text of {len(value)} characters; expected at most {_LONGEST_TEXT}")
    return value


def count(value: Any, name: str) -> int:
    """A whole number from 0 to 2**63 - 1."""
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise refuse(name, value, "a whole number from 0 to 2**63 - 1")
    return value


def number(value: Any, name: str) -> float:
    if type(value) not in (int, float) or (type(value) is int and abs(value) > _MAX_COUNT):
        raise refuse(name, value, "a number")
    return float(value)


def amount(value: Any, name: str) -> float:
    """A number that is not negative."""
    if number(value, name) < 0:
        raise refuse(name, value, "a number that is not negative")
    return float(value)


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise refuse(name, value, "true or false")
    return value


def date(value: Any, name: str) -> datetime:
    if not isinstance(value, datetime):
        raise refuse(name, value, "a date-time (tag 0)")
    return value


def sequence(value: Any, name: str, check: Check) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise refuse(name, value, "an array")
    return tuple(check(item, f"{name}[{i}]") for i, item in enumerate(value))


def named(value: Any, name: str, check: Check) -> dict[str, Any]:
    """A map with text keys, each value checked."""
    if not isinstance(value, Mapping):
        raise refuse(name, value, "a map")
    keys = [text(key, f"a key of {name}") for key in value]
    return {key: check(value[key], f"{name}[{key[:40]!r}]") for key in keys}


def names(value: Any, name: str) -> tuple[str, ...]:
    return sequence(value, name, text)


def vector(value: Any, name: str) -> tuple[float, ...]:
    return sequence(value, name, number)


def amounts(value: Any, name: str) -> dict[str, float]:
    return named(value, name, amount)


def rational(value: Any, name: str) -> Fraction:
    """``[numerator, denominator]``, whole numbers."""
    pair = sequence(value, name, count)
    if len(pair) != 2:
        raise refuse(name, value, "[numerator, denominator]")
    if pair[1] == 0:
        raise StreamError(f"{name} is [{pair[0]}, 0]; expected [numerator, denominator > 0]")
    return Fraction(*pair)


def images(value: Any, name: str) -> dict[str, EncodedArray]:
    """The arrays of an image message by channel, at least one."""
    if isinstance(value, Mapping) and len(value) > _MOST_CHANNELS:
        raise StreamError(f"{name} has {len(value)} channels; expected at most {_MOST_CHANNELS}")
    arrays = named(value, name, read_array)
    if not arrays:
        raise StreamError(f"{name} has no channel; expected one at least")
    if "" in arrays:
        raise StreamError(f"{name} has a channel without a name")
    return arrays


def plain(value: Any) -> Any:
    """The value with dicts and lists for cbor2's immutable containers."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
