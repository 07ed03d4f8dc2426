"""The ophyd pieces Live4D is made of: image and value signals, the live preview, and the status of a trigger."""

from __future__ import annotations

import inspect
import threading
import time
from typing import Any

import numpy as np
from ophyd import Signal
from ophyd.status import DeviceStatus

from live4d_ophyd.engine.spec import Progress


class Value(Signal):
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


class Checked(Value):
    """A value whose `check_value` refuses before anything happens."""

    def set(self, value: Any, **kwargs: Any) -> Any:
        self.check_value(value)  # here, not in ophyd's thread: the plan gets the error, with its text
        return super().set(value, **kwargs)

    def put(self, value: Any, **kwargs: Any) -> None:
        self.check_value(value)
        super().put(value, **kwargs)


class Vector(Checked):
    """A few numbers, kept as a tuple of floats."""

    def __init__(self, *args: Any, length: int = 2, **kwargs: Any) -> None:
        self._length = length
        super().__init__(*args, **kwargs)

    def check_value(self, value: Any, **kwargs: Any) -> None:
        if np.shape(value) != (self._length,):
            raise ValueError(f"{self.name} takes {self._length} numbers, got {value!r}")

    def put(self, value: Any, **kwargs: Any) -> None:
        self.check_value(value)
        super().put(tuple(float(v) for v in value), **kwargs)


class Image(Signal):
    """A float64 array in counts whose shape is known before the first one is taken."""

    def __init__(self, *args: Any, dims: tuple[str, str] = ("scan_y", "scan_x"), **kwargs: Any) -> None:
        kwargs.setdefault("value", np.full((1, 1), np.nan))
        super().__init__(*args, **kwargs)
        self._dims = dims

    def describe(self) -> dict[str, Any]:
        return {self.name: image_key(self.name, self._shape(), self._dims)}

    def _shape(self) -> tuple[int, ...]:
        if self._dims == ("scan_y", "scan_x"):
            return self.parent.grid().shape
        return np.shape(self._readback)


def image_key(name: str, shape: tuple[int, ...], dims: tuple[str, str]) -> dict[str, Any]:
    """Data key of an image. Without ``dtype_numpy`` storage would guess, without ``dims`` it could not name axes."""
    return {
        "source": f"live4d:{name}",
        "dtype": "array",
        "dtype_numpy": "<f8",
        "shape": list(shape),
        "dims": list(dims),
        "units": "counts",
    }


class LivePreview:
    """The images of the raster that runs, for the stream ``live4d_live``. A bluesky Readable.

    It has the data keys of the images themselves and ``<name>_live_fraction``: frames received of expected.
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
            self._images: np.ndarray | None = None
            self._fraction = 0.0
            self._time = time.time()

    def update(self, images: np.ndarray, fraction: float) -> None:
        """Take the newest images, (detectors, rows, cols)."""
        with self._lock:
            self._images, self._fraction, self._time = images, fraction, time.time()

    def _keys(self) -> list[str]:
        return [f"{self.parent.name}_{name}" for name in self.parent.detector_names]

    def describe(self) -> dict[str, Any]:
        shape = self.parent.grid().shape
        keys = {key: image_key(key, shape, ("scan_y", "scan_x")) for key in self._keys()}
        fraction = {"source": f"live4d:{self.name}", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        return {**keys, f"{self.name}_fraction": fraction}

    def read(self) -> dict[str, Any]:
        with self._lock:
            images, fraction, when = self._images, self._fraction, self._time
        self.parent.request_preview()
        if images is None:
            images = np.full((len(self._keys()), *self.parent.grid().shape), np.nan)
        readings = {key: {"value": image, "timestamp": when} for key, image in zip(self._keys(), images)}
        return {**readings, f"{self.name}_fraction": {"value": fraction, "timestamp": when}}

    def describe_configuration(self) -> dict[str, Any]:
        return self.parent.describe_configuration()

    def read_configuration(self) -> dict[str, Any]:
        return self.parent.read_configuration()


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
