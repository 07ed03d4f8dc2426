"""Signals of the device: results, which only the device puts, and settings, which refuse what they cannot be.

Both describe themselves in full (type, shape, unit), so that storage keeps what they hold. Threads: the callers'.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Kind, Signal
from ophyd.status import Status
from ophyd.utils import ReadOnlyError

from live4d_ophyd.device.consistent_settings import ConsistentSettings
from live4d_ophyd.device.statuses import TellingStatus
from live4d_ophyd.imaging.drawn_detectors import positions


class Result(Signal):
    """A signal that the device puts: not a plan."""

    def set(self, value: Any, *, timeout: float | None = None, settle_time: float | None = None) -> Status:
        raise ReadOnlyError(f"{self.name} is a result, and no setting: it cannot be set to {value!r}")


class Value(Result):
    """A number, text or small vector with its unit, described fully so that storage keeps its type."""

    def __init__(self, *args: Any, units: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._units = units

    def describe(self) -> dict[str, Any]:
        described = super().describe()
        entry = described[self.name]
        entry["source"] = f"live4d:{self.name}"
        value = self._readback
        if self._units:
            entry["units"] = self._units
        if isinstance(value, bool | np.bool_):
            entry["dtype"] = "boolean"
        elif isinstance(value, int | np.integer):
            entry.update(dtype="integer", dtype_numpy="<i8")
        elif isinstance(value, float):
            entry.update(dtype="number", dtype_numpy="<f8")
        elif isinstance(value, tuple | list | np.ndarray):
            entry.update(dtype="array", shape=list(np.shape(value)), dtype_numpy="<f8")
        return described


#: a setting is in the configuration, and in every Event with the value that its image was taken with
SETTING = Kind.normal | Kind.config


class Setting(Value):
    """A value that the user sets. What `check_value` refuses never gets in.

    Bluesky leaves out the parts of a device that is read itself, so a setting that a plan scans is recorded by its
    device; ``hints`` name it for tables and plots all the same.
    """

    @property
    def hints(self) -> dict[str, Any]:
        return {"fields": list(self.describe())}

    def accepted(self, value: Any) -> Any:
        """``value`` in the form in which it is kept. Raises ValueError with what was expected."""
        return value

    def check_value(self, value: Any, **kwargs: Any) -> None:
        self.accepted(value)

    def set(self, value: Any, *, timeout: float | None = None, settle_time: float | None = None) -> Status:
        """As `put`, at once. ophyd's own would wait until the value equals what was set: for ever if that is NaN.

        What does not fit together with the device's other settings is left to the device (`ConsistentSettings`).
        """
        before = self.get()
        self.put(value)  # here, not in a thread: the plan gets the error, with its text
        status = self._set_status(timeout, settle_time)
        self._finish_set(before, status)
        return status

    def _set_status(self, timeout: float | None, settle_time: float | None) -> TellingStatus:
        words = {"running": "waits for others", "done": "set", "failed": ""}
        return TellingStatus(self, **words, timeout=timeout, settle_time=settle_time)

    def _finish_set(self, before: Any, status: TellingStatus) -> None:
        if isinstance(self.parent, ConsistentSettings):
            self.parent.finish_when_consistent(self, before, status)
        else:
            status.set_finished()

    def put(self, value: Any, **kwargs: Any) -> None:
        super().put(self.accepted(value), **kwargs)

    def refused(self, value: Any, expected: str) -> ValueError:
        """The error for a value that is not accepted."""
        return ValueError(f"{self.name} = {value!r}: expected {expected}")


def setting(of: type[Setting], **options: Any) -> Cpt:
    """The component of a setting."""
    return Cpt(of, kind=SETTING, **options)


class Number(Setting):
    """A real number from ``least`` to ``most``; more than 0 with ``positive``; ``nan``: NaN is allowed, too."""

    def __init__(
        self,
        *args: Any,
        least: float = -math.inf,
        most: float = math.inf,
        positive: bool = False,
        nan: bool = False,
        **kwargs: Any,
    ) -> None:
        self._least = sys.float_info.min if positive else least
        self._most, self._positive, self._nan = most, positive, nan
        super().__init__(*args, **kwargs)

    def accepted(self, value: Any) -> float:
        real = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
        try:
            number = float(value) if real else None
        except OverflowError:  # a whole number of 400 digits
            number = math.inf
        if number is None or (math.isnan(number) and not self._nan) or math.isinf(number):
            raise self.refused(value, f"a number{self._bounds()}{' or NaN' * self._nan}")
        if not math.isnan(number) and not self._least <= number <= self._most:
            raise self.refused(value, f"a number{self._bounds()}")
        return number

    def _bounds(self) -> str:
        unit = f" {self._units}" if self._units else ""
        if self._positive:
            return f" above 0{unit}" + (
                "" if math.isinf(self._most) else f" and up to {self._most:.12g}{unit}"
            )
        if math.isinf(self._most):
            return f" of at least {self._least:.12g}{unit}" if math.isfinite(self._least) else ""
        return f" from {self._least:.12g} to {self._most:.12g}{unit}"


class Whole(Number):
    """A whole number from ``least`` to ``most``; floats that are whole are taken."""

    def accepted(self, value: Any) -> int:
        number = super().accepted(value)
        if number != int(number):
            raise self.refused(value, f"a whole number{self._bounds()}")
        return int(number)


class Flag(Setting):
    """True or False; 1 and 0 are taken."""

    def accepted(self, value: Any) -> bool:
        if isinstance(value, bool | np.bool_ | int | np.integer) and value in (0, 1):
            return bool(value)
        raise self.refused(value, "True or False")


class Text(Setting):
    """Text; ``check`` raises ValueError for what it must not be."""

    def __init__(self, *args: Any, check: Callable[[str], None] = lambda text: None, **kwargs: Any) -> None:
        self._check = check
        super().__init__(*args, **kwargs)

    def accepted(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refused(value, "text")
        try:
            self._check(value)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        return value


class Choice(Setting):
    """One of a few words."""

    def __init__(self, *args: Any, choices: Sequence[str] = (), **kwargs: Any) -> None:
        self._choices = tuple(choices)
        super().__init__(*args, **kwargs)

    def accepted(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self._choices:
            raise self.refused(value, f"one of {', '.join(self._choices)}")
        return value


class Positions(Setting):
    """A list of positions (row, col), kept as tuples of floats; given as such, or as its JSON text.

    Read, it is that text: lists of any length are then of one type in a run.
    """

    def accepted(self, value: Any) -> tuple[tuple[float, float], ...]:
        return positions(self.name, value)

    def read(self) -> dict[str, Any]:
        ((name, reading),) = super().read().items()
        return {name: {**reading, "value": json.dumps(reading["value"])}}

    def describe(self) -> dict[str, Any]:
        entry = {"source": f"live4d:{self.name}", "dtype": "string", "shape": []}
        return {self.name: {**entry, "units": self._units} if self._units else entry}


class Vector(Setting):
    """A position (row, col), kept as a tuple of floats; NaN in both is none.

    Events have it as two numbers, ``<name>_row`` and ``<name>_col``: columns of a table, where an array would be a
    file of its own.
    """

    def accepted(self, value: Any) -> tuple[float, ...]:
        numbers = () if isinstance(value, str) or np.shape(value) != (2,) else tuple(value)
        if not all(isinstance(number, Real) for number in numbers) or len(numbers) != 2:
            raise ValueError(f"{self.name} takes 2 numbers, (row, col) in {self._units}, got {value!r}")
        row, col = map(float, numbers)
        if math.isnan(row) != math.isnan(col) or math.isinf(row) or math.isinf(col):
            raise self.refused(value, "two finite numbers, or NaN in both")
        return row, col

    def read(self) -> dict[str, Any]:
        ((_, reading),) = super().read().items()
        return {key: {**reading, "value": value} for key, value in zip(self._keys(), reading["value"])}

    def describe(self) -> dict[str, Any]:
        ((_, entry),) = super().describe().items()
        return {key: {**entry, "dtype": "number", "shape": []} for key in self._keys()}

    def _keys(self) -> tuple[str, str]:
        return f"{self.name}_row", f"{self.name}_col"

    def read_configuration(self) -> dict[str, Any]:
        return super().read()

    def describe_configuration(self) -> dict[str, Any]:
        return super().describe()
