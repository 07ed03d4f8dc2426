"""Checks of plain values: those a user gives to an acquisition, and those that come over the wire.

Each raises ValueError that names the value and what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

#: a day: longer than anything here lasts
LONGEST_S = 86_400.0
#: the bound of a factor: sums of counts stay finite with it
LARGEST_GAIN = 1e12
# ZMQ lets an address begin with one of this machine's own: tcp://10.0.0.5:0;dcu:31001
_ADDRESS = re.compile(
    r"tcp://([^\s/;]+;)?(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})|(ipc|inproc)://\S.*"
)


def shown(value: Any) -> str:
    """The value in an error's text: short, and of an array its shape and dtype."""
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# What is given to an acquisition -----------------------------------------------------------------


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number, also one of NumPy's."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; expected a whole number from {least} to {most}")
    return int(value)


def seconds(name: str, value: Any, remark: str = "", most: float = LONGEST_S) -> float:
    """A time that is positive and finite, and not absurd where nobody else says what is."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not 0 < value <= most or value == math.inf:
        limit = "finite" if most == math.inf else f"at most {most:g} s"
        raise ValueError(f"{name} is {shown(value)} s; it must be positive and {limit}{remark}")
    return float(value)


def switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {shown(value)}; expected True or False")
    return bool(value)


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}; expected a text")
    return value


def addresses(name: str, value: Any) -> list[str]:
    """The ZMQ addresses of a text with commas between them."""
    found = [part.strip() for part in text(name, value).split(",")]
    for address in found:
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match["port"] or 1) < 65536:
            raise ValueError(
                f"{name} is {shown(value)}; expected an address like tcp://dcu:31001, or several with commas between"
            )
    return found


def pixel_mask(value: Any) -> None:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "biu":
        raise ValueError(
            f"pixel_mask is {shown(value)}; expected a NumPy array (det rows, det cols) of bool, or of integers that "
            "are not 0 where a pixel is bad"
        )


def gain(value: Any) -> None:
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "fiu":
        raise ValueError(
            f"gain is {shown(value)}; expected a NumPy array (det rows, det cols) of real numbers"
        )
    # NaN is left to the virtual detectors: a pixel that none of them uses may have it.
    largest = _largest(value)
    if largest > LARGEST_GAIN:
        raise ValueError(f"gain has a factor of {largest:g}; expected at most {LARGEST_GAIN:g}")


def _largest(value: np.ndarray) -> float:
    """The largest amount of the finite numbers of an array."""
    low, high = (float(extreme(value, initial=0)) for extreme in (np.min, np.max))
    if math.isfinite(low) and math.isfinite(high):
        return max(-low, high)  # several times as fast: this runs with every trigger
    return float(np.max(np.abs(value), where=np.isfinite(value), initial=0.0))


# What comes over the wire ------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def is_array(value: Any, ndim: int) -> bool:
    """Of float64, as all results are."""
    return isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim == ndim


#: what a field is, in words, and the test for it
Kind = tuple[str, Callable[[Any], bool]]
COUNT: Kind = ("a whole number of at least 0", _is_count)
COUNT_OR_NONE: Kind = (f"{COUNT[0]}, or None", lambda v: v is None or _is_count(v))
RATE_OR_NONE: Kind = ("a rate in Hz, or None", lambda v: v is None or _is_rate(v))
NUMBER: Kind = ("a number, NaN where it is not known", lambda v: type(v) in (int, float))
TEXT: Kind = ("a text", lambda v: isinstance(v, str))
MAP: Kind = ("a map", lambda v: isinstance(v, dict))
IMAGES: Kind = ("float64 images (detectors, rows, cols)", lambda v: is_array(v, 3))
PATTERN_OR_NONE: Kind = ("a float64 pattern (rows, cols), or None", lambda v: v is None or is_array(v, 2))


def checked_fields(values: Any, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """``values`` if it has exactly these fields, each of its kind."""
    same_names(values, kinds)
    for name, (words, fits) in kinds.items():
        if not fits(values[name]):
            raise ValueError(f"{name} is {shown(values[name])}; expected {words}")
    return values


def same_names(values: Any, names: Collection[str]) -> None:
    """A map with exactly these names, no more and no less."""
    if not isinstance(values, dict):
        raise ValueError(f"it is {shown(values)}; expected a map")
    missing = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names]
    if missing:
        raise ValueError(f"it has no {missing[0]!r}; expected {', '.join(names)}")
    if unknown:
        raise ValueError(f"{shown(unknown[0])} is not known; expected {', '.join(names)}")
