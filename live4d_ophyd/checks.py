"""Checks of the values that a user gives to an acquisition, and of those that it gives back.

Each raises ValueError that names the value and what was expected.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

#: a day: longer than anything here lasts
LONGEST_S = 86_400.0
#: the bound of a factor: sums of counts stay finite with it
LARGEST_GAIN = 1e12
#: what may become of the weight of bad pixels
BAD_PIXELS = ("exclude", "spread")
#: lists and objects in each other, of JSON that somebody means
_DEEPEST_JSON = 32
_TOO_DEEP = f"it has lists or objects in each other more than {_DEEPEST_JSON} deep"
# ZMQ lets an address begin with one of this machine's own: tcp://10.0.0.5:0;dcu:31001
_ADDRESS = re.compile(
    r"tcp://([^\s/;]+;)?(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})|(ipc|inproc)://\S.*"
)


def shown(value: Any) -> str:
    """The value in an error's text: short; of arrays, bytes, lists and maps only how large they are.

    These may be long, and hold a password.
    """
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    for kind, words in ((bytes, "bytes"), (list, "a list"), (dict, "a map")):
        if isinstance(value, kind):
            return f"{words} of length {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:  # Python refuses to write very large ones
        return "a number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number, also one of NumPy's."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}; expected a whole number from {least} to {most}")
    return int(value)


def count(name: str, value: Any) -> None:
    if value < 0:
        raise ValueError(f"{name} is {shown(value)}; expected a whole number of at least 0")


def rate(name: str, value: Any) -> None:
    """In Hz; None is not known."""
    if value is not None and not 0 <= value < math.inf:
        raise ValueError(f"{name} is {shown(value)}; expected a rate in Hz, or None")


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


def bad_pixels(value: Any) -> None:
    if not isinstance(value, str) or value not in BAD_PIXELS:
        raise ValueError(f"bad_pixels is {shown(value)}; expected one of {', '.join(BAD_PIXELS)}")


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


# What comes from elsewhere -----------------------------------------------------------------------


def printable(words: str, most: int = 1000, keep: str = "") -> str:
    """Somebody else's text for a log or an error: cut to ``most`` characters, control characters escaped.

    Those of ``keep`` stay as they are.
    """
    cut = words if len(words) <= most else f"{words[:most]}... ({len(words)} characters)"
    if cut.isprintable():
        return cut
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in cut
    )


def from_json(content: str | bytes | bytearray) -> Any:
    """The value of a JSON text. Raises ValueError for what is none, and for what calculations fail on.

    That is numbers of more than 64 bits, and lists or objects in each other so deep that nobody can mean them.
    """
    try:
        value = json.loads(content, parse_int=_int64)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _is_deep(value, _DEEPEST_JSON):
        raise ValueError(_TOO_DEEP)
    return value


def _int64(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= (value := int(digits)) < 1 << 64:
        raise ValueError(f"the number {digits[:20]}... has more than 64 bits")
    return value


def _is_deep(value: Any, most: int) -> bool:
    if not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return most == 0 or any(_is_deep(item, most - 1) for item in inner)


def has_too_many_items(cbor: bytes, most: int) -> bool:
    """Whether a CBOR message has more than ``most`` items, counted by their heads, whatever they nest in.

    An empty list of one byte becomes 56 bytes of Python.
    """
    position = items = 0
    while position < len(cbor) and len(cbor) > most and items <= most:
        major, detail = cbor[position] >> 5, cbor[position] & 31
        size = 1 << detail - 24 if 24 <= detail <= 27 else 0
        position += 1 + size
        if major in (2, 3) and detail <= 27:
            position += int.from_bytes(cbor[position - size : position], "big") if size else detail
        items += 1
    return items > most
