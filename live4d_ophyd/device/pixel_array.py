"""PixelArray: a setting with a value for each pixel of the detector: a mask, or a gain.

In: an array, or the path of a ``.npy`` file. Out: the array for the engine, and for records a text that tells it from
others. To load, check and digest millions of pixels takes up to half a second, so `set` does it in a thread of its
own, ``<name>-set``: the RunEngine's loop goes on meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ophyd.status import Status

from live4d_ophyd.device.signals import Setting, Value
from live4d_ophyd.engine.series_record import digest


class PixelArray(Setting):
    """An array (det rows, det cols), given as such or as the path of a ``.npy`` file; None is none, if ``optional``.

    It is too large for a record: read, it is a text that says how large it is, where it came from, and its `digest`.
    ``get()`` gives the array. ``check`` raises ValueError for other arrays; ``mask``: what is not 0 is bad, and
    counted.
    """

    def __init__(
        self,
        *args: Any,
        check: Callable[[Any], None],
        mask: bool = False,
        value: np.ndarray | None = None,
        optional: bool = True,
        **kwargs: Any,
    ) -> None:
        self._check, self._mask, self._optional = check, mask, optional
        self._summary = self._summarize(value, "")
        self._one_at_a_time = threading.Lock()
        super().__init__(*args, value=value, **kwargs)

    def accepted(self, value: Any) -> np.ndarray | None:
        if value is None and self._optional:
            return None
        array = _load(self.name, value) if isinstance(value, str | Path) else value
        try:
            self._check(array)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}, or the path of a .npy file that holds one") from None
        kept = array.copy()  # what the caller does to the array later is not recorded
        kept.flags.writeable = False
        return kept

    def set(self, value: Any, *, timeout: float | None = None, settle_time: float | None = None) -> Status:
        """As `put`, in a thread; the status fails with what `put` raises."""
        status = self._set_status(timeout, settle_time)

        def put() -> None:
            with self._one_at_a_time:
                before = self.get()
                try:
                    self.put(value)
                except Exception as error:
                    status.set_exception(error)
                else:
                    self._finish_set(before, status)

        threading.Thread(target=put, name=f"{self.name}-set", daemon=True).start()
        return status

    def put(self, value: Any, **kwargs: Any) -> None:
        kept = self.accepted(value)
        # Once, and before it is the value: readings must not take a digest of millions of pixels.
        summary = self._summarize(kept, f" from {value}" if isinstance(value, str | Path) else "")
        Value.put(
            self, kept, **{**kwargs, "force": True}
        )  # it was checked, which takes as long as the digest
        self._summary = summary

    def _summarize(self, array: np.ndarray | None, source: str) -> str:
        """``"none"``, or size, source and digest."""
        if array is None:
            return "none"
        size = f"{array.shape[0]} x {array.shape[1]} px"
        if self._mask:
            return f"{np.count_nonzero(array)} of {size}{source}, sha256 {digest(array != 0)}"
        return f"{size}{source}, sha256 {digest(array)}"

    def read(self) -> dict[str, Any]:
        return {self.name: {"value": self._summary, "timestamp": self.timestamp}}

    def describe(self) -> dict[str, Any]:
        return {self.name: {"source": f"live4d:{self.name}", "dtype": "string", "shape": []}}


def _load(name: str, path: str | Path) -> np.ndarray:
    try:
        return np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{name}: {path} cannot be read as a .npy file: {error}") from error
