"""Parameter: one key of the detector as it describes it, and when two values of it are the same."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

#: how far a number that is read back may be from the one that was set, as a part of it: up to the first it is the same
#: in another precision, up to the second the detector has rounded it, beyond it has not taken it
SAME, ROUNDED = 1e-6, 0.01
_TYPES: dict[str, tuple[type, ...]] = {
    "float": (float, int),
    "uint": (int,),
    "int": (int,),
    "string": (str,),
    "bool": (bool,),
}
_DTYPES = {"float": "number", "uint": "integer", "int": "integer", "bool": "boolean", "string": "string"}


@dataclass(frozen=True)
class Parameter:
    """One key as the device describes it. Limits and unit are None or "" where it says nothing."""

    key: str  #: ``detector/config/frame_time``
    value: Any
    value_type: str = ""
    unit: str = ""
    writable: bool = True
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[Any, ...] | None = None

    @classmethod
    def from_answer(cls, key: str, answer: dict[str, Any]) -> Parameter:
        """What does not fit its meaning, a limit that is a text, counts as not said."""

        def text(name: str, otherwise: str = "") -> str:
            return said if isinstance(said := answer.get(name), str) else otherwise

        def limit(name: str) -> float | None:
            said: Any = answer.get(name)
            return said if is_number(said) and math.isfinite(said) else None

        allowed = answer.get("allowed_values")
        return cls(
            key,
            answer["value"],
            value_type=text("value_type"),
            unit=text("unit"),
            writable="w" in text("access_mode", "rw"),
            minimum=limit("min"),
            maximum=limit("max"),
            allowed=tuple(allowed) if isinstance(allowed, (list, tuple)) and allowed else None,
        )

    @property
    def in_documents(self) -> tuple[str, Any]:
        """dtype and value as Bluesky's documents have them, also where firmware sends another type than it names."""
        dtype, value = _DTYPES.get(self.value_type), self.value
        if isinstance(value, bool):
            return "boolean", value
        if is_number(value):
            if dtype == "number" or isinstance(value, float):
                return "number", float(value)
            return "integer", value
        if value is None and dtype in ("number", "integer"):
            return "number", math.nan
        return "string", value if isinstance(value, str) else json.dumps(value)

    def __str__(self) -> str:
        """Value, unit, and what is allowed."""
        text = f"{self.value!r} {self.unit}".rstrip()
        if not self.writable:
            return text
        if self.allowed is not None:
            return f"{text}  ({', '.join(map(str, self.allowed))})"
        if self.minimum is None and self.maximum is None:
            return text
        return f"{text}  ({_bound(self.minimum)} to {_bound(self.maximum)})"

    def check(self, value: Any) -> None:
        """Raise ValueError with key, value and limits unless the device would take ``value``."""
        if not self.writable:
            raise ValueError(f"{self.key} cannot be set: the device only reports it")
        kinds = _TYPES.get(self.value_type)
        if kinds and (not isinstance(value, kinds) or isinstance(value, bool) != (kinds == (bool,))):
            raise ValueError(f"{self.key} = {value!r}: the device wants a {self.value_type}")
        unit = f" {self.unit}" if self.unit else ""
        if self.allowed is not None and value not in self.allowed:
            raise ValueError(
                f"{self.key} = {value!r}{unit}: the device allows {', '.join(map(str, self.allowed))}"
            )
        low, high = self.minimum, self.maximum
        if not (low is None and high is None) and not is_number(value):
            raise ValueError(f"{self.key} = {value!r}: the device wants a number")
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            raise ValueError(
                f"{self.key} = {value!r}{unit}: the device allows {_bound(low)} to {_bound(high)}{unit}"
            )


def _bound(limit: float | None) -> str:
    return "anything" if limit is None else f"{limit:g}"


def is_number(value: Any) -> bool:
    """A bool is an int to Python, never to the detector."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_same(found: Any, wanted: Any, part: float = SAME) -> bool:
    """Whether a value of the detector is the wanted one. Whole numbers and texts are so exactly, others to ``part``."""
    if is_number(found) and is_number(wanted) and (isinstance(found, float) or isinstance(wanted, float)):
        return math.isclose(found, wanted, rel_tol=part)
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)
