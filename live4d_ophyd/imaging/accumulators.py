"""Accumulators that most methods need: values at scan positions, and sums over frames.

One belongs to one raster and one device. Receive threads add at the same time without a lock: every frame comes once,
so that writes to positions are disjoint, and sums over frames keep one partial a thread. Pickled, for a process that
merges the parts of several, their arrays are NumPy's.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from live4d_ophyd.decode.frame_sums import sum_over_frames
from live4d_ophyd.decode.saturation import Saturation
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo


class Scatter:
    """Numbers of each frame at its scan position: ``count`` images, NaN where no frame came.

    As float32 (``dtype``) they take half the memory; whole numbers are exact up to 2**24 in it.
    """

    #: position that ``values`` begin with: other than 0 in what came from another process
    first = 0

    def __init__(self, scan: ScanGrid, count: int, device: Any = None, dtype: str = "float64") -> None:
        if device is None:
            self.values: Any = np.full((count, scan.size), np.nan, dtype)
        else:
            import torch

            kind = getattr(torch, dtype)
            self.values = torch.full((count, scan.size), torch.nan, dtype=kind, device=device)

    def add(self, positions: Any, values: Any) -> None:
        """``values`` (n, count) at ``positions`` (n,)."""
        self.values[:, positions] = array_namespace(values).astype(values, self.values.dtype).T

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the stretch of positions that frames came for, on the host."""
        values = on_host(self.values)
        came = np.flatnonzero(~np.isnan(values).all(axis=0))
        first, last = (int(came[0]), int(came[-1]) + 1) if len(came) else (0, 0)
        return {"first": self.first + first, "values": values[:, first:last].copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.first, self.values = state["first"], state["values"]

    @staticmethod
    def merged(
        parts: Sequence[Scatter],
        scan: ScanGrid,
        count: int,
        rows: slice = slice(None),
        cols: slice = slice(None),
    ) -> np.ndarray:
        """What is known so far, (count, scan_y, scan_x) of the parts' dtype on the host; a copy.

        ``rows`` and ``cols``: of these positions only; a part of a large scan costs a part of the time.
        """
        if not parts or any(part.values.shape[1] != scan.size for part in parts):
            every = np.full((count, scan.size), np.nan, parts[0].values.dtype if parts else np.float64)
            for part in parts:
                values = on_host(part.values)[:count]
                there = every[:, part.first : part.first + values.shape[1]]
                np.copyto(there, values, where=~np.isnan(values))
            return np.ascontiguousarray(every.reshape(count, *scan.shape)[:, rows, cols])
        first, *others = (part.values[:count].reshape(count, *scan.shape)[:, rows, cols] for part in parts)
        values = first
        for more in others:  # where they are: on a GPU several times as fast, and one copy to the host
            xp = array_namespace(values)
            if not isinstance(more, np.ndarray):
                more = more.to(values.device)
            values = xp.where(xp.isnan(more), values, more)
        if values is first and isinstance(values, np.ndarray):
            values = values.copy()
        return on_host(values)

    @staticmethod
    def came(parts: Sequence[Scatter], scan: ScanGrid) -> np.ndarray:
        """Where every image has a number, (scan_y, scan_x) bool."""
        came = np.zeros(scan.size, bool)
        for part in parts:
            xp = array_namespace(part.values)
            missing = xp.isnan(part.values[0])
            for image in part.values[1:]:  # one at a time: all would be as many bytes as there are numbers
                missing |= xp.isnan(image)
            there = ~on_host(missing)
            came[part.first : part.first + len(there)] |= there
        return came.reshape(scan.shape)


class PatternSums:
    """Sum over frames of each pixel that holds a count, and how many frames had one there, both exact.

    Pixels at or above the series' saturation hold no count, nor does NaN.
    """

    def __init__(self, series: SeriesInfo, device: Any = None) -> None:
        dtype = series.format.dtype
        self._shape, self._device = series.format.shape, device
        self._dtype = "float64" if dtype.kind == "f" else "int64"
        self._saturation = Saturation(nodata=dtype.kind == "f", value=series.saturation)
        self._of_thread: dict[int, tuple[Any, Any]] = {}

    def add(self, positions: Any, patterns: Any) -> None:
        """``patterns`` (n, q_y, q_x)."""
        sum_over_frames(patterns, None, self._saturation, *self._partial())

    def _partial(self) -> tuple[Any, Any]:
        thread = threading.get_ident()
        if thread not in self._of_thread:
            self._of_thread[thread] = self._zeros(self._dtype), self._zeros("int64")
        return self._of_thread[thread]

    def _zeros(self, dtype: str) -> Any:
        if self._device is None:
            return np.zeros(self._shape, dtype)
        import torch

        return torch.zeros(self._shape, dtype=getattr(torch, dtype), device=self._device)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the sums, on the host."""
        merged = PatternSums.merged([self])
        return {**vars(self), "_device": None, "_of_thread": {} if merged is None else {0: merged}}

    @staticmethod
    def merged(parts: Sequence[PatternSums]) -> tuple[np.ndarray, np.ndarray] | None:
        """Sums (q_y, q_x) and frames (q_y, q_x) int64 so far, on the host; None before the first frame."""
        partials = [partial for part in parts for partial in list(part._of_thread.values())]
        if not partials:
            return None
        total, seen = zip(*((on_host(total), on_host(seen)) for total, seen in partials))
        return np.sum(total, axis=0), np.sum(seen, axis=0)


def on_host(array: Any) -> np.ndarray:
    """The array as one of NumPy's; of a torch tensor a copy."""
    if isinstance(array, np.ndarray):
        return array
    host = array.cpu()
    return (host.clone() if host is array else host).numpy()
