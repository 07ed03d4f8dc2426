"""Imaging methods: what accumulates images from decoded numbers.

A method says what it needs of a frame: with ``weights``, one sum per weight map; without, the pixels. The
acquisition calls ``add`` from its receive threads, each image id once, in any order, so results do not depend on
the order of arrival. Positions are those of ScanGrid.positions.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, device

from live4d_ophyd.decode.saturation import NODATA, Saturation
from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.scan import ScanGrid


class Method(Protocol):
    """What the acquisition needs to know of an imaging method."""

    weights: Weights | None  #: maps to project on; None: it needs the pixels

    def add(self, positions: np.ndarray, values: Any) -> None:
        """Take in n frames: positions (n,) int64, values (n, m) sums or (n, rows, cols) pixels.

        Pixels are where they were decoded: a NumPy array, or a torch tensor on the GPU.
        """

    def result(self, raster: int) -> np.ndarray:
        """The raster's result so far, a copy; NaN where nothing is known yet."""

    def release(self, raster: int) -> None:
        """Free what is held for a raster that is over."""


class VirtualImages:
    """One image per weight map, which is a virtual detector: (detectors, rows, cols) float64 counts."""

    def __init__(self, weights: Weights, grid: ScanGrid) -> None:
        self.weights: Weights | None = weights
        self._count = len(weights)
        self._grid = grid
        self._images: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def _image(self, raster: int) -> np.ndarray:
        with self._lock:
            image = self._images.get(raster)
            if image is None:
                image = self._images[raster] = np.full((self._count, self._grid.size), np.nan)
            return image

    def add(self, positions: np.ndarray, values: np.ndarray) -> None:
        rasters, within = np.divmod(positions, self._grid.size)
        for raster in range(int(rasters.min()), int(rasters.max()) + 1) if len(rasters) else ():
            here = rasters == raster
            self._image(raster)[:, within[here]] = values[here].T

    def result(self, raster: int) -> np.ndarray:
        with self._lock:
            image = self._images.get(raster)
        if image is None:
            return np.full((self._count, *self._grid.shape), np.nan)
        return image.reshape(self._count, *self._grid.shape).copy()

    def release(self, raster: int) -> None:
        with self._lock:
            self._images.pop(raster, None)


class MeanPattern:
    """Mean diffraction pattern of each raster, (det rows, det cols) float64 counts per frame.

    Pixels that hold no count are left out of the mean, or counted, as ``saturation`` says; a pixel that never held
    one is NaN.
    """

    weights: Weights | None = None

    def __init__(
        self,
        frame: FrameFormat,
        grid: ScanGrid,
        *,
        pixel_mask: np.ndarray | None = None,
        saturation: Saturation = NODATA,
    ) -> None:
        self._mask = pixel_mask
        self._shape = (frame.rows, frame.cols)
        self._grid = grid
        limit = saturation.limit(frame.dtype)
        self._limit = np.inf if limit is None or saturation.counted else float(limit)
        self._sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()

    def add(self, positions: np.ndarray, values: Any) -> None:
        xp = array_namespace(values)
        rasters = positions // self._grid.size
        for raster in range(int(rasters.min()), int(rasters.max()) + 1) if len(rasters) else ():
            here = xp.asarray(np.flatnonzero(rasters == raster), device=device(values))
            # float64 first: torch has few operations for unsigned integers. Sums of counts are exact below 2**53.
            pixels = xp.astype(xp.take(values, here, axis=0), xp.float64)
            valid = pixels < self._limit  # false for NaN, too
            total = _on_host(xp.sum(xp.where(valid, pixels, 0.0), axis=0))
            seen = _on_host(xp.sum(xp.astype(valid, xp.int64), axis=0))
            if self._mask is not None:
                total, seen = total * ~self._mask.astype(bool), seen * ~self._mask.astype(bool)
            with self._lock:
                sums, counts = self._sums.setdefault(
                    raster, (np.zeros(self._shape), np.zeros(self._shape, np.int64))
                )
                sums += total
                counts += seen

    def result(self, raster: int) -> np.ndarray:
        with self._lock:
            if raster not in self._sums:
                return np.full(self._shape, np.nan)
            sums, counts = self._sums[raster]
            return np.divide(sums, counts, out=np.full(self._shape, np.nan), where=counts > 0)

    def release(self, raster: int) -> None:
        with self._lock:
            self._sums.pop(raster, None)


def _on_host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()
