"""Values of a message: each from its plain form, strictly, and to that form where the two differ.

In: what CBOR gave. Out: bool, int, float, str, NumPy arrays, and plain values for fields of type Any; Misfit for all
else. An array is its dtype, shape and bytes: nothing is executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from live4d_ophyd.checks import shown

#: dtypes of arrays: bool, integers and floats, little-endian
DTYPES = ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8")
_MAX_DIMS = 32
_INT64 = 1 << 63


class Misfit(ValueError):
    """A value is not of its field's type; the text continues behind the field's name."""


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise Misfit(f"is {shown(value)}; expected True or False")
    return value


def whole(value: Any) -> int:
    if type(value) is not int or not -_INT64 <= value < _INT64:
        raise Misfit(f"is {shown(value)}; expected a whole number")
    return value


def number(value: Any, nan: bool = False) -> float:
    known = (type(value) is int and abs(value) < _INT64) or (type(value) is float and math.isfinite(value))
    if not known and not (nan and type(value) is float and math.isnan(value)):
        raise Misfit(f"is {shown(value)}; expected a number{', NaN where it is not known' if nan else ''}")
    return float(value)


def text(value: Any) -> str:
    if type(value) is not str:
        raise Misfit(f"is {shown(value)}; expected a text")
    return value


def nothing(value: Any) -> None:
    if value is not None:
        raise Misfit(f"is {shown(value)}; expected None")


def array(value: Any) -> np.ndarray:
    """Of one of `DTYPES`, and writable."""
    if type(value) is not dict or value.keys() != {"dtype", "shape", "data"}:
        raise Misfit(f"is {shown(value)}; expected an array: dtype, shape and data")
    code, shape, data = value["dtype"], value["shape"], value["data"]
    if type(code) is not str or code not in DTYPES:
        raise Misfit(f"is an array of {shown(code)}; expected one of {', '.join(DTYPES)}")
    lengths = type(shape) is list and all(type(length) is int and length >= 0 for length in shape)
    if not lengths or len(shape) > _MAX_DIMS:
        raise Misfit(f"is an array whose shape is {shown(shape)}; expected at most {_MAX_DIMS} lengths")
    dtype = np.dtype(code)
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.itemsize:
        raise Misfit(
            f"is an array {tuple(shape)} of {dtype} whose data is {shown(data)}; expected all its bytes"
        )
    if dtype.kind == "b" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise Misfit("is an array of bool with other bytes than 0 and 1")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def array_to_map(value: np.ndarray) -> dict[str, Any]:
    """Raises TypeError for a dtype that does not cross; half floats become float32."""
    if value.dtype.kind == "f" and value.dtype.itemsize < 4:
        value = value.astype("<f4")
    code = value.dtype.newbyteorder("<").str
    if code not in DTYPES:
        raise TypeError(f"an array of {value.dtype} cannot be sent; expected bool, integers or floats")
    return {"dtype": code, "shape": list(value.shape), "data": value.astype(code, copy=False).tobytes()}


def plain(value: Any) -> Any:
    """What a field of type Any takes: scalars, texts, bytes, lists and maps of these."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if type(value) is list:
        return [plain(item) for item in value]
    if type(value) is dict:
        return {text(key): plain(item) for key, item in value.items()}
    raise Misfit(f"is {shown(value)}; expected a plain value")


def to_plain(value: Any) -> Any:
    """Tuples as lists, NumPy's scalars as Python's. Raises TypeError for what is not plain."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_plain(item) for key, item in value.items()}
    raise TypeError(f"a {type(value).__name__} cannot be sent; expected a number, a text, a list or a map")


def check_names(value: Any, names: Sequence[str]) -> None:
    """A map with exactly these names, no more and no less."""
    if type(value) is not dict:
        raise Misfit(f"is {shown(value)}; expected a map")
    for name in names:
        if name not in value:
            raise Misfit(f"has no {name!r}; its fields are {', '.join(names) or 'none'}")
    for name in value:
        if name not in names:
            raise Misfit(
                f"has {shown(name)}, which is not known; its fields are {', '.join(names) or 'none'}"
            )
