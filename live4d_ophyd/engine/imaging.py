"""Imaging: the methods of one series at work: what they take in from receive threads, and what they give.

In: parts of decoded batches, with the scan positions of their frames. Out: outputs of one raster, so far and at the
end. Each raster has one accumulator a method, made by the thread that first needs it; on a GPU one a thread, as each
thread works in a CUDA stream of its own, and nothing orders one's work behind the other's. A method that fails
takes nothing more in and fails the acquisition at the raster's end; others, and the count of frames, go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from live4d_ophyd.decode.decoder import Part
from live4d_ophyd.engine.errors import MethodFailed
from live4d_ophyd.engine.preparation import Prepared
from live4d_ophyd.imaging.method import Images, Method
from live4d_ophyd.scan import ScanGrid

log = logging.getLogger(__name__)


class Imaging:
    """The methods as ``prepared`` for the series.

    With ``saturated_is_nan``, sums with pixels that hold no count are NaN.
    """

    def __init__(self, prepared: Prepared, scan: ScanGrid, *, saturated_is_nan: bool = False) -> None:
        self.prepared = prepared
        self._scan = scan
        self._nan = saturated_is_nan
        #: by raster, device, and on a GPU thread
        self._accumulators: dict[tuple[int, Any, int], list[Any]] = {}
        self._lock = threading.Lock()  # of the dictionary
        self._failed: dict[str, Exception] = {}
        self._shown = _shown(prepared)

    def add(self, positions: np.ndarray, part: Part) -> None:
        """Take in the good frames of a part; ``positions`` (n,) int64 of its entries in the series, all on the grid.

        Runs in a receive thread, where the decoder's work is done.
        """
        values = part.patterns if part.sums is None else part.sums
        good = part.status == 0
        if values is None or not good.any():
            return
        sums, where = part.sums, None if isinstance(values, np.ndarray) else device(values)
        if self._nan and sums is not None and part.flagged.any():
            xp = array_namespace(sums)
            sums = xp.where(part.saturated, xp.nan, xp.astype(sums, xp.float64))
        rasters = positions // self._scan.size
        for raster in np.unique(rasters[good]).tolist():
            here = np.flatnonzero(good & (rasters == raster))
            within = _on_device(positions[here] - raster * self._scan.size, where)
            if len(here) == len(good):
                self._feed(raster, where, within, sums, part.patterns)
            else:
                taken = _on_device(here, where)
                self._feed(raster, where, within, _rows(sums, taken), _rows(part.patterns, taken))

    def _feed(self, raster: int, where: Any, positions: Any, sums: Any, patterns: Any) -> None:
        prepared = self.prepared
        for method, accumulator in zip(prepared.methods, self._of_raster(raster, where)):
            if accumulator is None or method.name in self._failed:
                continue
            columns = prepared.columns.get(method.name)
            try:
                accumulator.add(positions, patterns if columns is None else sums[:, columns])
            except Exception as error:
                self._fail(method, error)

    def _of_raster(self, raster: int, where: Any) -> list[Any]:
        key = (raster, where, 0 if where is None else threading.get_ident())
        found = self._accumulators.get(key)
        if found is None:
            with self._lock:
                found = self._accumulators.get(key)
                if found is None:
                    found = self._accumulators[key] = [self._new(m, where) for m in self.prepared.methods]
        return found

    def _new(self, method: Method, where: Any) -> Any:
        if method.name in self.prepared.derived:
            return None
        try:
            return method.accumulator(self.prepared.series, self._scan, where)
        except Exception as error:
            self._fail(method, error)
            return None

    def _fail(self, method: Method, error: Exception) -> None:
        if self._failed.setdefault(method.name, error) is error:
            log.error("the method %s failed", method.name, exc_info=error)

    def release(self, raster: int) -> None:
        """Free what is held for a raster that is over."""
        with self._lock:
            for key in [key for key in self._accumulators if key[0] == raster]:
                del self._accumulators[key]

    def outputs(self, raster: int, *, preview: bool = False) -> dict[str, np.ndarray]:
        """All outputs of the raster so far, float64, NaN where nothing came; with ``preview`` those that are shown.

        Raises MethodFailed, naming the method, if one failed; with ``preview`` what it gives is left out instead.
        """
        with self._lock:
            found = [(key[1], made) for key, made in self._accumulators.items() if key[0] == raster]
        for where in {where for where, _ in found}:
            _wait_for(where)
        parts = [made for _, made in found]
        wanted = self._shown if preview else {method.name for method in self.prepared.methods}
        outputs: dict[str, np.ndarray] = {}
        for index, method in enumerate(self.prepared.methods):
            if method.name not in wanted:
                continue
            accumulators = [part[index] for part in parts if part[index] is not None]
            demand = self.prepared.derived.get(method.name)
            if method.name not in self._failed:
                self._evaluate(method, accumulators, demand, outputs)
            if method.name in self._failed and not preview:
                error = self._failed[method.name]
                raise MethodFailed.of(method, error) from error
        shown = self.prepared.outputs
        return {name: array for name, array in outputs.items() if not preview or shown[name].preview}

    def _evaluate(
        self, method: Method, accumulators: list[Any], demand: Images | None, outputs: dict[str, np.ndarray]
    ) -> None:
        """Add a method's outputs, checked to be what it says that it gives."""
        parts: Any = accumulators
        if demand is not None:
            if any(name not in outputs for name in demand.names):
                return  # of a method that failed
            parts = {name: outputs[name] for name in demand.names}
        try:
            given = method.results(self.prepared.series, self._scan, parts)
            outputs.update(_checked(given, self.prepared.outputs_of[method.name]))
        except Exception as error:
            self._fail(method, error)


def _shown(prepared: Prepared) -> set[str]:
    """Methods with outputs that are shown while a raster runs, and those that these are made of."""
    shown = {
        name
        for name, outputs in prepared.outputs_of.items()
        if any(output.preview for output in outputs.values())
    }
    for method in reversed(prepared.methods):
        if method.name in shown and method.name in prepared.derived:
            made_of = prepared.derived[method.name].names
            shown |= {
                name
                for name, outputs in prepared.outputs_of.items()
                if not outputs.keys().isdisjoint(made_of)
            }
    return shown


def _checked(given: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if set(given) != set(said):
        raise ValueError(f"its results are {sorted(given)}, its outputs {sorted(said)}")
    arrays = {name: np.ascontiguousarray(array, np.float64) for name, array in given.items()}
    for name, array in arrays.items():
        if array.shape != tuple(said[name].shape):
            raise ValueError(f"{name} has the shape {array.shape}, its output {tuple(said[name].shape)}")
    return arrays


def _wait_for(where: Any) -> None:
    """Wait until what receive threads began on the device is done."""
    if where is not None and where.type == "cuda":
        import torch

        torch.cuda.synchronize(where)


def _on_device(numbers: np.ndarray, where: Any) -> Any:
    """Indices where the values are."""
    if where is None:
        return numbers
    import torch

    tensor = torch.from_numpy(numbers)
    if (
        where.type == "cuda"
    ):  # a copy from memory that is not pinned would wait for all that the stream has to do
        tensor = tensor.pin_memory()
    return tensor.to(where, non_blocking=True)


def _rows(values: Any, rows: Any) -> Any:
    """Some frames' values."""
    if values is None or isinstance(values, np.ndarray):
        return values if values is None else values[rows]
    import torch

    # torch has no indexing of unsigned integers on a GPU: the same bits as signed ones.
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
    kind = signed.get(values.dtype)
    return values[rows] if kind is None else values.view(kind)[rows].view(values.dtype)
