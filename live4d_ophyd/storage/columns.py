"""Types of the table columns and arrays of a stream: what each value is stored as, or why it cannot be.

A column has the narrowest type that holds all of its values exactly: true/false, int64, float64, or text. It
may become wider from one Event to the next (0 and then 12.5: float64), never inexact. An array keeps the shape and
the type of its first one: it lies in a file of that type.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

_NUMBERS = (bool, int, float)  # each holds the one before
_DECLARED = {"boolean": bool, "integer": int, "number": float, "string": str}
_NAMES = {bool: "true/false", int: "whole numbers (int64)", float: "numbers (float64)", str: "text"}
_OTHER_KEY = "Give it another key or stream, or begin another run"
#: what may go into an array of this kind
_HELD_BY: dict[str, Any] = {
    "b": Real,
    "i": Real,
    "u": Real,
    "f": Real | None,
    "c": complex | Real | None,
    "U": str,
}
#: width of text in arrays whose data key does not say ``dtype_numpy="<U..."``: it cannot grow later
_TEXT_WIDTH = 64


class Refused(ValueError):
    """Why a value cannot be stored as what it is."""


@dataclass(frozen=True)
class Column:
    """The type of a table column so far."""

    type: type | None  #: bool, int, float or str; before the first value as described
    used: bool = False
    odd: int | None = None  #: a whole number in it that no float64 is equal to

    @classmethod
    def of(cls, data_key: Mapping[str, Any]) -> Column:
        """The column that a data key describes."""
        return cls(_DECLARED.get(data_key["dtype"]))

    def holding(self, value: Any) -> tuple[Column, Any]:
        """The column with ``value`` in it, and the value as that stores it. Raises `Refused`."""
        if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
            value = value.item()
        if value is None and self.type is str:
            return replace(self, used=True), None
        if value is None:
            value = math.nan  # a number that is not known
        match value:
            case str():
                return self._with_text(str(value))
            case bool() | float():
                return self._with_number(value)
            case Integral():
                return self._with_number(int(value))
            case Real() if float(value) == value:  # a library's own type
                return self._with_number(float(value))
        raise Refused(
            f"{_short(value)} is {_kind(value)}, and the key is described as one number, text or true/false. Read it "
            "as one of these; describe an array with dtype 'array' and its shape"
        )

    def _with_text(self, value: str) -> tuple[Column, str]:
        if self.used and self.type in _NUMBERS:
            raise Refused(
                f"{_short(value)} is text, the Events before hold {_NAMES[self.type]}. {_OTHER_KEY}"
            )
        if not _encodable(value):
            raise Refused(f"{_short(value)} has characters that no file can hold (surrogates). Escape them")
        return Column(str, True), value

    def _with_number(self, value: bool | int | float) -> tuple[Column, bool | int | float]:
        if self.used and self.type is str:
            raise Refused(f"{_short(value)} is {_kind(value)}, the Events before hold text. {_OTHER_KEY}")
        described = self.type if self.type in _NUMBERS else bool
        wanted: Any = max(described, type(value), key=_NUMBERS.index)
        odd = self.odd if _is_float64(value) else int(value)
        if wanted is int and not -(2**63) <= value < 2**63:
            wanted = float
        if wanted is float and odd is not None:
            raise Refused(
                f"with {_short(value)}, {_kind(value)}, the key needs numbers (float64), and {odd} is none of them: "
                f"it would be rounded. {_OTHER_KEY}, or read it as text"
            )
        return Column(wanted, True, odd), wanted(value)


@dataclass(frozen=True)
class Array:
    """Shape and type of the arrays under one key."""

    #: stands for an array without elements, of which nothing can be stored
    NOTHING: ClassVar[object] = object()

    shape: tuple[int | None, ...]  #: None, or () as a whole: as the first one has it
    dtype: np.dtype | None  #: None: as the first one needs it
    used: bool = False

    @classmethod
    def of(cls, data_key: Mapping[str, Any]) -> Array:
        """The arrays that a data key describes."""
        try:
            dtype = np.dtype(data_key.get("dtype_numpy") or "O")
        except TypeError:
            dtype = np.dtype("V")  # of several fields
        # A size of 0 is that of a signal that was still empty when it was described.
        shape = tuple(size or None for size in data_key.get("shape") or ())
        return cls(shape, None if dtype.hasobject or dtype == np.dtype("<U0") else dtype)

    def holding(self, value: Any) -> tuple[Array, Any]:
        """The arrays with ``value`` among them, and that as it is stored, or `NOTHING`. Raises `Refused`."""
        # A list as objects: NumPy would round its numbers to a common type.
        array = np.asarray(value, dtype=None if hasattr(value, "__array__") else object)
        wanted = self.shape or (None,) * array.ndim
        fits = len(wanted) == array.ndim and all(w in (None, n) for w, n in zip(wanted, array.shape))
        if not fits or not array.ndim:
            came = f"an array of shape {array.shape}" if array.ndim else f"{_short(value)}, {_kind(value)},"
            raise Refused(
                f"{came} came, and {'the Events before have' if self.used else 'the descriptor says'} "
                f"{self._shape_text()}. A stream holds one shape in a run: use another stream or run for another"
            )
        stored = self._as_stored(array)
        return Array(array.shape, stored.dtype, True), stored if stored.size else self.NOTHING

    def _shape_text(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"shape ({sizes}{',' * (len(self.shape) == 1)})" if self.shape else "an array"

    def _as_stored(self, array: np.ndarray) -> np.ndarray:
        """The array in the type of its file, every element what it was."""
        target = self.dtype or np.dtype("<f8")
        # What NumPy converts exactly need not be compared; int64 to float64 it calls safe, too.
        safe = array.dtype.kind in "biuf" and array.itemsize < 8 and np.can_cast(array.dtype, target)
        if array.dtype == target or safe:
            return array.astype(target, copy=False)
        elements = [v.item() if isinstance(v, np.generic) else v for v in array.ravel().tolist()]
        if self.dtype is None and elements and all(isinstance(value, str) for value in elements):
            target = np.dtype(f"<U{max(_TEXT_WIDTH, *map(len, elements))}")
        lost = [value for value in elements if not isinstance(value, _HELD_BY.get(target.kind, ()))]
        if not lost:
            try:
                with np.errstate(all="ignore"):
                    stored = array.astype(target)
            except (TypeError, ValueError, OverflowError):  # NaN or too many bits for a whole number
                lost = elements
            else:
                pairs = zip(elements, stored.ravel().tolist())
                lost = [value for value, as_stored in pairs if not _same(value, as_stored)]
        if lost:
            raise Refused(
                f"the array holds {_short(lost[0])}, {_kind(lost[0])}, and is stored as {target}, "
                f"{'like those of the Events before' if self.used else 'as its key is described'}. Describe the key "
                "with a dtype_numpy that holds all of its values; rows are of one length"
            )
        return stored


def _same(value: Any, stored: Any) -> bool:
    if value is None:
        return True  # NaN now: _HELD_BY lets it into nothing else
    if isinstance(value, str):
        return value == stored and _encodable(value)
    if isinstance(value, float | complex) and isinstance(stored, float | complex):
        # Rounded to the precision that the key is described with, never out of its range.
        return cmath.isfinite(value) == cmath.isfinite(stored)
    return value == stored


def _is_float64(value: bool | int | float) -> bool:
    try:
        return isinstance(value, float) or float(value) == value
    except OverflowError:
        return False


def _encodable(text: str) -> bool:
    """Whether a file can hold it. A file name of another encoding becomes text with surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    name = type(value).__name__
    common = {"int": "a whole number (int)", "float": "a number (float)", "str": "text (str)"}
    return common.get(name, f"of type {name}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
