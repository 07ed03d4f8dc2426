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
        """Data key of each output that is shown while a raster runs, by the output's name; lengths not known are 0."""

    def request_preview(self) -> None: ...
    def read_configuration(self) -> dict[str, Any]: ...
    def describe_configuration(self) -> dict[str, Any]: ...


class LivePreview:
    """The newest arrays, under the data keys of the results themselves.

    Besides ``<name>_live_fraction``: frames received of expected, and ``<name>_live_saturated``: frames with a pixel
    under a virtual detector that holds no count. Every reading asks the engine for the next preview, so that only
    those somebody reads are sent.

    A stream is described once a run. What has the detector's size, a pattern, is in it if it had come when the first
    preview was read, or in a run before; and as large throughout.
    """

    def __init__(self, parent: Previewed) -> None:
        self.parent = parent
        self.name = f"{parent.name}_live"
        self.hints: dict[str, Any] = {"fields": []}
        self._lock = threading.Lock()
        self._shapes: dict[str, tuple[int, ...]] = {}  # of what came
        self.begin()
        self.clear()

    def begin(self) -> None:
        """A run, or a stage: its stream is not described yet."""
        #: data keys of outputs of the detector's size: as described; and as of the newest reading
        self._described: dict[str, dict[str, Any]] | None = None
        self._sized: dict[str, dict[str, Any]] | None = None

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
            self._shapes |= {name: array.shape for name, array in arrays.items() if array.size}
            self._time = time.time()

    def _keys(self) -> dict[str, dict[str, Any]]:
        """Data keys by output; of those of the detector's size as they were described, or will be."""
        keys = self.parent.preview_keys()
        sized = self._described
        if sized is None:
            with self._lock:
                sized = {
                    name: {**entry, "shape": list(self._shapes[name])}
                    for name, entry in keys.items()
                    if not all(entry["shape"]) and name in self._shapes
                }
        self._sized = sized
        return {name: entry for name, entry in keys.items() if all(entry["shape"])} | sized

    def describe(self) -> dict[str, Any]:
        if self._described is None:  # Bluesky describes what it has read
            self._described = self._sized
        keys = {f"{self.parent.name}_{name}": entry for name, entry in self._keys().items()}
        self._described = self._sized
        fraction = {"source": f"live4d:{self.name}", "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        saturated = {**fraction, "dtype": "integer", "dtype_numpy": "<i8", "units": "frames"}
        return {**keys, f"{self.name}_fraction": fraction, f"{self.name}_saturated": saturated}

    def read(self) -> dict[str, Any]:
        with self._lock:
            arrays, fraction, when = self._arrays, self._fraction, self._time
            saturated = self._saturated
        self.parent.request_preview()
        values: dict[str, Any] = {}
        for name, entry in self._keys().items():
            array = arrays.get(name)
            fits = array is not None and list(array.shape) == entry["shape"]
            values[f"{self.parent.name}_{name}"] = array if fits else np.full(entry["shape"], np.nan)
        values |= {f"{self.name}_fraction": fraction, f"{self.name}_saturated": saturated}
        return {key: {"value": value, "timestamp": when} for key, value in values.items()}

    def describe_configuration(self) -> dict[str, Any]:
        return self.parent.describe_configuration()

    def read_configuration(self) -> dict[str, Any]:
        return self.parent.read_configuration()
