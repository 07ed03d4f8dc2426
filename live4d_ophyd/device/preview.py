"""LivePreview: what is known so far of the raster that runs, for the stream ``live4d_live``. A bluesky Readable.

In: arrays by output, from the engine client's thread. Out: readings, in the RunEngine's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np


class Previewed(Protocol):
    """The device that is previewed."""

    name: str

    def preview_keys(self) -> dict[str, dict[str, Any]]:
        """Data key of each output that is shown while a raster runs, by the output's name."""

    def request_preview(self) -> None: ...
    def read_configuration(self) -> dict[str, Any]: ...
    def describe_configuration(self) -> dict[str, Any]: ...


class LivePreview:
    """The newest arrays, under the data keys of the results themselves.

    Besides ``<name>_live_fraction``: frames received of expected, and ``<name>_live_saturated``: frames with a pixel
    under a virtual detector that holds no count. Every reading asks the engine for the next preview, so that only
    those somebody reads are sent.
    """

    def __init__(self, parent: Previewed) -> None:
        self.parent = parent
        self.name = f"{parent.name}_live"
        self.hints: dict[str, Any] = {"fields": []}
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget the last raster."""
        with self._lock:
            self._arrays: Mapping[str, np.ndarray] = {}
            self._fraction, self._saturated = 0.0, 0
            self._time = time.time()

    def update(self, arrays: Mapping[str, np.ndarray], fraction: float, saturated: int = 0) -> None:
        """Take the newest arrays, by the outputs' names."""
        with self._lock:
            self._arrays, self._fraction, self._saturated = arrays, fraction, saturated
            self._time = time.time()

    def describe(self) -> dict[str, Any]:
        keys = {f"{self.parent.name}_{name}": entry for name, entry in self.parent.preview_keys().items()}
        fraction = {"source": f"live4d:{self.name}", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        saturated = {**fraction, "dtype": "integer", "dtype_numpy": "<i8", "units": "frames"}
        return {**keys, f"{self.name}_fraction": fraction, f"{self.name}_saturated": saturated}

    def read(self) -> dict[str, Any]:
        with self._lock:
            arrays, fraction, when = self._arrays, self._fraction, self._time
            saturated = self._saturated
        self.parent.request_preview()
        values: dict[str, Any] = {}
        for name, entry in self.parent.preview_keys().items():
            array = arrays.get(name)
            values[f"{self.parent.name}_{name}"] = np.full(entry["shape"], np.nan) if array is None else array
        values |= {f"{self.name}_fraction": fraction, f"{self.name}_saturated": saturated}
        return {key: {"value": value, "timestamp": when} for key, value in values.items()}

    def describe_configuration(self) -> dict[str, Any]:
        return self.parent.describe_configuration()

    def read_configuration(self) -> dict[str, Any]:
        return self.parent.read_configuration()
