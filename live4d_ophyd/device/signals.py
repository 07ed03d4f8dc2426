"""The ophyd pieces Live4D is made of: image and value signals, the live preview, and the status of a trigger."""

from __future__ import annotations

import inspect
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Kind, Signal
from ophyd.status import DeviceStatus, Status
from ophyd.utils import ReadOnlyError

from live4d_ophyd.engine.results import Progress
from live4d_ophyd.engine.series_record import digest

#: how long settings that do not fit together wait for others that a plan sets with them, s
TOGETHER_S = 0.5


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

        What does not fit together with the device's other settings is left to the device (`Settling`).
        """
        before = self.get()
        self.put(value)  # here, not in a thread: the plan gets the error, with its text
        status = SettingStatus(self, timeout=timeout, settle_time=settle_time or 0)
        if isinstance(self.parent, Settling):
            self.parent.settle(self, before, status)
        else:
            status.set_finished()
        return status

    def put(self, value: Any, **kwargs: Any) -> None:
        super().put(self.accepted(value), **kwargs)

    def refused(self, value: Any, expected: str) -> ValueError:
        """The error for a value that is not accepted."""
        return ValueError(f"{self.name} = {value!r}: expected {expected}")


class SettingStatus(Status):
    """Status of a setting; says in its text why it failed."""

    def __str__(self) -> str:
        error = self.exception(timeout=0) if self.done else None
        return str(error) if error else f"{self.obj.name} {'set' if self.done else 'waits for others'}"

    __repr__ = __str__


class Settling:
    """A device whose settings have to fit together: a plan may set them in any order, but within `TOGETHER_S`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._settling = threading.RLock()
        self._unsettled: list[tuple[Setting, Any, SettingStatus]] = []  #: with the values before
        self._patience: threading.Timer | None = None
        super().__init__(*args, **kwargs)

    def check_settings(self) -> None:
        """Raise ValueError for settings that do not fit together."""

    def settle(self, setting: Setting, before: Any, status: SettingStatus) -> None:
        """Finish ``status`` when all settings fit together; if they do not soon, put back what was before."""
        with self._settling:
            self._unsettled.append((setting, before, status))
            if self._patience is not None:
                self._patience.cancel()
            try:
                self.check_settings()
            except ValueError:
                self._patience = threading.Timer(TOGETHER_S, self._put_back)
                self._patience.daemon = True
                self._patience.start()
                return
            settled, self._unsettled = self._unsettled, []
        for _, _, done in settled:
            done.set_finished()

    def _put_back(self) -> None:
        """Runs in the timer's thread."""
        with self._settling:
            refused, self._unsettled = self._unsettled, []
            try:
                self.check_settings()
            except Exception as error:  # whoever waits must hear of it
                reason = error
            else:  # by a `put` in the meantime
                for _, _, status in refused:
                    status.set_finished()
                return
            for setting, before, _ in reversed(refused):
                setting.put(before)
        names = " and ".join(dict.fromkeys(setting.name for setting, _, _ in refused))
        for _, _, status in refused:
            status.set_exception(ValueError(f"{names} cannot be set so: {reason}"))


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
            return f" above 0{unit}" + ("" if math.isinf(self._most) else f" and up to {self._most:g}{unit}")
        if math.isinf(self._most):
            return f" of at least {self._least:g}{unit}" if math.isfinite(self._least) else ""
        return f" from {self._least:g} to {self._most:g}{unit}"


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


class PixelArray(Setting):
    """An array with a value for each pixel of the detector, given as such or as the path of a ``.npy`` file.

    It is too large for a record: read, it is a text that says how large it is, where it came from, and its `digest`.
    ``get()`` gives the array, None where there is none. ``check`` raises ValueError for other arrays; ``mask``: what
    is not 0 is bad, and counted.
    """

    def __init__(self, *args: Any, check: Callable[[Any], None], mask: bool = False, **kwargs: Any) -> None:
        self._check, self._mask = check, mask
        self._source, self._summary = "", "none"
        super().__init__(*args, value=None, **kwargs)

    def accepted(self, value: Any) -> np.ndarray | None:
        if value is None:
            return None
        array = _load(self.name, value) if isinstance(value, str | Path) else value
        try:
            self._check(array)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}, or the path of a .npy file that holds one") from None
        kept = array.copy()  # what the caller does to the array later is not recorded
        kept.flags.writeable = False
        return kept

    def put(self, value: Any, **kwargs: Any) -> None:
        super().put(value, **kwargs)
        self._source = f" from {value}" if isinstance(value, str | Path) else ""
        self._summary = self._summarize()  # once: readings must not take a digest of millions of pixels

    def _summarize(self) -> str:
        """``"none"``, or size, source and digest."""
        array = self.get()
        if array is None:
            return "none"
        size = f"{array.shape[0]} x {array.shape[1]} px"
        if self._mask:
            return f"{np.count_nonzero(array)} of {size}{self._source}, sha256 {digest(array != 0)}"
        return f"{size}{self._source}, sha256 {digest(array)}"

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self._summary, "timestamp": self.timestamp}}

    def describe(self) -> dict[str, Any]:
        return {self.name: {"source": f"live4d:{self.name}", "dtype": "string", "shape": []}}


def _load(name: str, path: str | Path) -> np.ndarray:
    try:
        return np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{name}: {path} cannot be read as a .npy file: {error}") from error


class Image(Result):
    """A float64 array whose shape is known before the first one is taken."""

    def __init__(self, *args: Any, dims: tuple[str, str] = ("scan_y", "scan_x"), **kwargs: Any) -> None:
        kwargs.setdefault("value", np.full((1, 1), np.nan))
        super().__init__(*args, **kwargs)
        self._dims = dims

    def describe(self) -> dict[str, Any]:
        units = (
            self.parent.image_units if self._dims == ("scan_y", "scan_x") else "counts"
        )  # a pattern knows no gain
        return {self.name: image_key(self.name, self._shape(), self._dims, units)}

    def _shape(self) -> tuple[int, ...]:
        if self._dims == ("scan_y", "scan_x"):
            return self.parent.grid().shape
        return np.shape(self._readback)


def image_key(
    name: str, shape: tuple[int, ...], dims: tuple[str, str], units: str = "counts"
) -> dict[str, Any]:
    """Data key of an image. Without ``dtype_numpy`` storage would guess, without ``dims`` it could not name axes."""
    return {
        "source": f"live4d:{name}",
        "dtype": "array",
        "dtype_numpy": "<f8",
        "shape": list(shape),
        "dims": list(dims),
        "units": units,
    }


class LivePreview:
    """The images of the raster that runs, for the stream ``live4d_live``. A bluesky Readable.

    It has the data keys of the images themselves, ``<name>_live_fraction``: frames received of expected, and
    ``<name>_live_saturated``: frames with a pixel under a virtual detector that holds no count.
    Every reading asks the engine for the next preview, so that only those somebody reads are sent.
    """

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.name = f"{parent.name}_live"
        self.hints: dict[str, Any] = {"fields": []}
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget the last raster."""
        with self._lock:
            self._images: dict[str, np.ndarray] | None = None
            self._fraction, self._saturated = 0.0, 0
            self._time = time.time()

    def update(self, images: dict[str, np.ndarray], fraction: float, saturated: int = 0) -> None:
        """Take the newest images, (scan_y, scan_x) each, by name."""
        with self._lock:
            self._images, self._fraction, self._saturated = images, fraction, saturated
            self._time = time.time()

    def _keys(self) -> list[str]:
        return [f"{self.parent.name}_{name}" for name in self.parent.detector_names]

    def describe(self) -> dict[str, Any]:
        shape = self.parent.grid().shape
        units = self.parent.image_units
        keys = {key: image_key(key, shape, ("scan_y", "scan_x"), units) for key in self._keys()}
        fraction = {"source": f"live4d:{self.name}", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        saturated = {**fraction, "dtype": "integer", "dtype_numpy": "<i8", "units": "frames"}
        return {**keys, f"{self.name}_fraction": fraction, f"{self.name}_saturated": saturated}

    def read(self) -> dict[str, Any]:
        with self._lock:
            images, fraction, when = self._images, self._fraction, self._time
            saturated = self._saturated
        self.parent.request_preview()
        if images is None:
            images = {}
        unknown = np.full(self.parent.grid().shape, np.nan)
        readings = {
            f"{self.parent.name}_{name}": {"value": images.get(name, unknown), "timestamp": when}
            for name in self.parent.detector_names
        }
        numbers = {f"{self.name}_fraction": fraction, f"{self.name}_saturated": saturated}
        return {**readings, **{key: {"value": value, "timestamp": when} for key, value in numbers.items()}}

    def describe_configuration(self) -> dict[str, Any]:
        return self.parent.describe_configuration()

    def read_configuration(self) -> dict[str, Any]:
        return self.parent.read_configuration()


class StageStatus(Status):
    """Status of what makes a device ready; says in its text why that failed."""

    def watch(self, func: Any) -> None:
        """Nothing can be watched; there are hooks that ask every status they wait for."""

    def __str__(self) -> str:
        error = self.exception(timeout=0) if self.done else None
        state = f"cannot be staged: {error}" if error else ("is ready" if self.done else "is made ready")
        return f"{self.obj.name} {state}"

    __repr__ = __str__


class RasterStatus(DeviceStatus):
    """Status of a trigger: reports frames to progress bars and says in its text why it failed."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self._progress_watchers: list[Any] = []
        self._started = time.monotonic()

    def watch(self, func: Any) -> None:
        """Call ``func`` with the progress, as bluesky's progress bars expect; with ``rate`` (Hz) if it takes that."""
        parameters = inspect.signature(func).parameters.values()
        takes_rate = any(p.name == "rate" or p.kind is p.VAR_KEYWORD for p in parameters)
        self._progress_watchers.append((func, takes_rate))

    def report(self, progress: Progress) -> None:
        """Tell the watchers; runs in the engine client's thread."""
        done, expected = progress.frames_received, progress.frames_expected
        elapsed = time.monotonic() - self._started
        for watcher, takes_rate in list(self._progress_watchers):
            rate = {"rate": progress.rate_hz} if takes_rate else {}
            watcher(
                name=self.device.name,
                current=done,
                initial=0,
                target=expected,
                unit="frames",
                precision=0,
                # bluesky's progress bar wants what is left, 0 at the end
                fraction=1 - done / expected if expected else None,
                time_elapsed=elapsed,
                time_remaining=elapsed * (expected - done) / done if done else None,
                **rate,
            )

    def __str__(self) -> str:
        error = self.exception(timeout=0) if self.done else None
        state = f"failed: {error}" if error else ("done" if self.done else "running")
        return f"{self.device.name} {state}"

    __repr__ = __str__
