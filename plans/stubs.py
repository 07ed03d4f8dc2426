"""Parts of plans that calibrate: work in a thread, arrays for a run, bad pixels, and which runs measured what."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import MsgGenerator

from live4d_ophyd.device.calibration_origin import CHANGED

T = TypeVar("T")


def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> MsgGenerator[T]:
    """What ``function`` returns, or raises; the RunEngine's loop goes on meanwhile. It may run again after a pause."""
    (task,) = yield from bps.wait_for([partial(asyncio.to_thread, function, *args, **kwargs)])
    return task.result()


class Measured:
    """Numbers and arrays that a plan has measured, as something that is read into a run.

    ``values`` by name behind that of the device; ``dims`` of arrays are those of a pattern.
    """

    parent = None

    def __init__(self, name: str, values: Mapping[str, Any], units: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._values = {f"{name}_{key}": value for key, value in values.items()}
        self._units = {f"{name}_{key}": unit for key, unit in (units or {}).items()}
        self._time = time.time()

    def read(self) -> dict[str, Any]:
        return {key: {"value": value, "timestamp": self._time} for key, value in self._values.items()}

    def describe(self) -> dict[str, Any]:
        return {key: self._described(key, value) for key, value in self._values.items()}

    def _described(self, key: str, value: Any) -> dict[str, Any]:
        entry: dict[str, Any] = {"source": f"live4d:{key}", "dtype": "number", "shape": []}
        if isinstance(value, np.ndarray):
            entry |= {"dtype": "array", "shape": list(value.shape), "dims": ["q_y", "q_x"]}
            entry["dtype_numpy"] = value.dtype.str
        elif isinstance(value, int):
            entry |= {"dtype": "integer", "dtype_numpy": "<i8"}
        else:
            entry["dtype_numpy"] = "<f8"
        return entry | ({"units": self._units[key]} if key in self._units else {})

    def read_configuration(self) -> dict[str, Any]:
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        return {}


def runs_before(detector: Any) -> dict[str, str]:
    """Uids of the runs that measured what is calibrated, by what they measured; {} where it was changed since."""
    text = detector.calibration_runs.get()
    return {} if text.endswith(CHANGED) else dict(part.split("=", 1) for part in text.split())


def note_run(detector: Any, what: str, uid: str, before: Mapping[str, str]) -> MsgGenerator[None]:
    """Have the device say that the run ``uid`` measured ``what``, besides those of `runs_before`."""
    runs = {**before, what: uid}
    yield from bps.mv(detector.calibration_runs, " ".join(f"{key}={value}" for key, value in runs.items()))


def mask_pixels(detector: Any, bad: np.ndarray) -> MsgGenerator[None]:
    """Add ``bad`` (q_y, q_x) to the device's pixel mask, and have the weight of all bad pixels on their neighbours."""
    before = detector.pixel_mask.get()
    both = bad if before is None or before.shape != bad.shape else bad | (before != 0)
    yield from bps.mv(detector.pixel_mask, both, detector.bad_pixels, "spread")
