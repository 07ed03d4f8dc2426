"""Imaging: the methods of one series at work: what they take in from receive threads, and what they give.

In: parts of decoded batches, with the scan positions of their frames. Out: outputs of one raster, so far and at the
end. Each raster has one accumulator a method, made by the thread that first needs it; on a GPU one a thread, as each
thread works in a CUDA stream of its own, and nothing orders one's work behind the other's. A method that fails
takes nothing more in and fails the acquisition at the raster's end; others, and the count of frames, go on.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device

from live4d_ophyd.decode.decoder import Part
from live4d_ophyd.engine.errors import RAISED_BY_METHODS, MethodFailed
from live4d_ophyd.engine.preparation import Prepared
from live4d_ophyd.imaging.method import SCAN, Images, Method, Refitting, carries, refits
from live4d_ophyd.imaging.of_channel import channel_of
from live4d_ophyd.scan import ScanGrid

log = logging.getLogger(__name__)

#: how often patterns, and whatever else is not over the scan, are made anew for previews, s. An image grows by rows;
#: every frame changes all of a pattern, and each time all of it is computed, and sent
PATTERN_PERIOD_S = 0.5
#: of the time, that a method's results for previews take at most: those of a large scan can take seconds, and frames
#: need the processor
PREVIEW_SHARE = 0.25


@dataclass(frozen=True)
class _Shown:
    """What a method gave for a preview of ``raster``; until the time ``due``, s, it is shown again."""

    raster: int
    due: float
    outputs: Mapping[str, np.ndarray]


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
        self._lock = threading.Lock()  # of the dictionaries
        self._failed: dict[str, BaseException] = {}
        self._divisors: dict[tuple[str, Any], Any] = {  # by channel and device
            (channel, None): of.divisors
            for channel, of in prepared.channels.items()
            if of.divisors is not None
        }
        self._channels = [channel_of(method) for method in prepared.methods]
        self._shown = _shown(prepared)
        self._slow = _slow(prepared, self._shown)
        self._previewed: dict[str, _Shown] = {}  # by method
        #: methods that fit something to the rows so far
        self.refitting: tuple[Refitting, ...] = tuple(filter(refits, prepared.methods))
        self._fits: dict[tuple[int, str], Any] = {}  # the newest, by raster and method

    def add(self, positions: np.ndarray, part: Part, channel: str = "") -> None:
        """Take in the good frames of a part; ``positions`` (n,) int64 of its entries in the series, all on the grid.

        ``channel``: whose frames they are, "" for the one that the source takes: its methods are fed.
        Runs in a receive thread, where the decoder's work is done.
        """
        values = part.patterns if part.sums is None else part.sums
        good = part.status == 0
        if values is None or not good.any():
            return
        sums, where = part.sums, None if isinstance(values, np.ndarray) else device(values)
        if sums is not None:
            sums = self._divided(channel, sums, where)
        if self._nan and sums is not None and part.flagged.any():
            xp = array_namespace(sums)
            sums = xp.where(part.saturated, xp.nan, xp.astype(sums, xp.float64))
        raster = int(positions.min()) // self._scan.size
        if good.all() and int(positions.max()) // self._scan.size == raster:  # nearly always
            within = _on_device(positions - raster * self._scan.size, where)
            self._feed(channel, raster, where, within, sums, part.patterns)
            return
        rasters = positions // self._scan.size
        for raster in np.unique(rasters[good]).tolist():
            here = np.flatnonzero(good & (rasters == raster))
            within = _on_device(positions[here] - raster * self._scan.size, where)
            taken = _on_device(here, where)
            self._feed(channel, raster, where, within, _rows(sums, taken), _rows(part.patterns, taken))

    def _divided(self, channel: str, sums: Any, where: Any) -> Any:
        """Sums under maps that were multiplied, (n, maps) float64: where they are. Others as they are."""
        if (channel, None) not in self._divisors:
            return sums
        divisors = self._divisors.get((channel, where))
        if divisors is None:
            import torch

            divisors = torch.as_tensor(self._divisors[channel, None], device=where)
            self._divisors[channel, where] = divisors
        xp = array_namespace(sums)
        return xp.astype(sums, xp.float64) / divisors

    def _feed(self, channel: str, raster: int, where: Any, positions: Any, sums: Any, patterns: Any) -> None:
        prepared, made = self.prepared, self._of_raster(raster, where)
        for method, of, accumulator in zip(prepared.methods, self._channels, made):
            if of != channel or accumulator is None or method.name in self._failed:
                continue
            columns = prepared.columns.get(method.name)
            try:
                accumulator.add(positions, patterns if columns is None else sums[:, columns])
            except RAISED_BY_METHODS as error:
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
            return method.accumulator(self.prepared.of(method).series, self._scan, where)
        except RAISED_BY_METHODS as error:
            self._fail(method, error)
            return None

    def _fail(self, method: Method | Refitting, error: BaseException) -> None:
        """Note that the method failed. Raises GpuError where the GPU did: that is no fault of the method's."""
        if _is_of_the_gpu(error):
            from live4d_ophyd.decode.gpu.named_errors import as_gpu_error

            raise as_gpu_error(error) from error
        if self._failed.setdefault(method.name, error) is error:
            log.error("the method %s failed", method.name, exc_info=error)

    def parts(self, raster: int) -> list[list[Any]]:
        """The accumulators of a raster: of each device and thread one a method, None for those that have none.

        Raises MethodFailed, naming the method, if one failed.
        """
        for where in self._devices(raster):
            _wait_for(where)
        self._raise_failure()
        with self._lock:
            return [made for key, made in self._accumulators.items() if key[0] == raster]

    def take_over(self, raster: int, parts: Sequence[list[Any]]) -> None:
        """Have `parts` that another made of frames of this raster, for the results; with arrays on the host."""
        with self._lock:
            begin = len(self._accumulators)
            self._accumulators.update({(raster, None, begin + n): made for n, made in enumerate(parts)})

    def _raise_failure(self) -> None:
        for method in self.prepared.methods:
            if error := self._failed.get(method.name):
                raise MethodFailed.of(method, error) from error

    def release(self, raster: int) -> None:
        """Free what is held for a raster that is over."""
        with self._lock:
            self._accumulators = {k: made for k, made in self._accumulators.items() if k[0] != raster}
            self._fits = {k: fit for k, fit in self._fits.items() if k[0] != raster}
        self._previewed = {name: of for name, of in self._previewed.items() if of.raster != raster}

    def preview(self, raster: int) -> dict[str, np.ndarray]:
        """Outputs so far that are shown while the raster runs, with the newest fits; float64, NaN where nothing came.

        What a method that failed gives is left out. What is not over the scan is as of up to `PATTERN_PERIOD_S` ago,
        and what takes long as old as `PREVIEW_SHARE` makes it. One thread at a time.
        """
        now = time.monotonic()
        kept = {
            name: shown
            for name, shown in self._previewed.items()
            if shown.raster == raster and now < shown.due and name not in self._failed
        }
        outputs = {key: array for shown in kept.values() for key, array in shown.outputs.items()}
        took: dict[str, float] = {}
        outputs = self._outputs(raster, self._shown - kept.keys(), outputs, took)
        if self._devices(raster):  # else nothing came yet
            for name, seconds in took.items():
                due = now + max(seconds / PREVIEW_SHARE, PATTERN_PERIOD_S if name in self._slow else 0.0)
                given = {key: outputs[key] for key in self.prepared.outputs_of[name]}
                self._previewed[name] = _Shown(raster, due, given)
        said = self.prepared.outputs
        return {name: outputs[name] for name, output in said.items() if output.preview and name in outputs}

    def result(self, raster: int, stop: Callable[[], bool] = lambda: False) -> dict[str, np.ndarray]:
        """All outputs of a raster that is over, float64, NaN where nothing came.

        Fits are made a last time, over all rows; ``stop`` says that nobody waits for them any more. Raises
        MethodFailed, naming the method, if one failed. Once a raster, in order.
        """
        for refitting in self.refitting:
            self.refit(refitting, raster, stop)
        outputs = self._outputs(raster, {method.name for method in self.prepared.methods})
        self._raise_failure()
        self._carry_on(raster)
        return outputs

    def _carry_on(self, raster: int) -> None:
        """Let the next raster begin with what methods take along from this one."""
        for method in filter(carries, self.refitting):
            fit = self._fits.get((raster, method.name))
            if fit is None:
                continue
            try:
                carried = method.next_raster(fit)
            except RAISED_BY_METHODS as error:
                self._fail(method, error)
            else:
                with self._lock:
                    self._fits[raster + 1, method.name] = carried

    def refit(self, method: Refitting, raster: int, stop: Callable[[], bool]) -> None:
        """Let a method fit to what is there of the raster, from its newest fit on. One fit of a method at a time."""
        demand = self.prepared.derived.get(method.name)
        needed = {name for name in self.prepared.outputs_of if demand and self._gives(name, demand)}
        outputs = self._outputs(raster, needed) if needed else {}
        parts = self._parts(raster, method, outputs)
        if method.name in self._failed or parts is None:
            return
        key, series = (raster, method.name), self.prepared.of(method).series
        try:
            with _own_stream(self._devices(raster)):
                fit = method.refit(series, self._scan, parts, self._fits.get(key), stop)
        except RAISED_BY_METHODS as error:
            self._fail(method, error)
        else:
            if not stop():
                with self._lock:
                    self._fits[key] = fit

    def _gives(self, name: str, demand: Images) -> bool:
        """Whether the method ``name`` gives what is demanded, or what that is made of."""
        if not self.prepared.outputs_of[name].keys().isdisjoint(demand.names):
            return True
        return any(
            self._gives(name, further)
            for other, further in self.prepared.derived.items()
            if not self.prepared.outputs_of[other].keys().isdisjoint(demand.names)
        )

    def _outputs(
        self,
        raster: int,
        wanted: Set[str],
        known: Mapping[str, np.ndarray] = MappingProxyType({}),
        took: dict[str, float] | None = None,
    ) -> dict[str, np.ndarray]:
        """Outputs of the ``wanted`` methods so far, but for those that failed, beside those that are ``known``.

        ``took`` gets the seconds of each.
        """
        for where in self._devices(raster):
            _wait_for(where)
        outputs = dict(known)
        for method in self.prepared.methods:
            began = time.monotonic()
            parts = self._parts(raster, method, outputs) if method.name in wanted else None
            if parts is None or method.name in self._failed:
                continue
            series = self.prepared.of(method).series
            try:
                if refits(method):
                    fit = self._fits.get((raster, method.name))
                    given = method.results(series, self._scan, parts, fit)
                else:
                    given = method.results(series, self._scan, parts)
                outputs.update(_checked(given, self.prepared.outputs_of[method.name]))
            except RAISED_BY_METHODS as error:
                self._fail(method, error)
            else:
                if took is not None:
                    took[method.name] = time.monotonic() - began
        return outputs

    def _devices(self, raster: int) -> set[Any]:
        with self._lock:
            return {key[1] for key in self._accumulators if key[0] == raster}

    def _parts(self, raster: int, method: Any, outputs: Mapping[str, np.ndarray]) -> Any:
        """What the method's results are made of; None where a method failed that would give it."""
        demand = self.prepared.derived.get(method.name)
        if demand is not None:
            there = all(name in outputs for name in demand.names)
            return {name: outputs[name] for name in demand.names} if there else None
        index = self.prepared.methods.index(method)
        with self._lock:
            found = [made[index] for key, made in self._accumulators.items() if key[0] == raster]
        return [part for part in found if part is not None]


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


def _slow(prepared: Prepared, shown: Set[str]) -> set[str]:
    """Of the methods that are shown, those of whose outputs none that is shown is over the scan, nor made of them."""
    made_of = {name for method in shown & prepared.derived.keys() for name in prepared.derived[method].names}
    return {
        name
        for name in shown
        if prepared.outputs_of[name].keys().isdisjoint(made_of)
        and not any(o.preview and o.dims[:2] == SCAN for o in prepared.outputs_of[name].values())
    }


def _checked(given: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if set(given) != set(said):
        raise ValueError(f"its results are {sorted(given)}, its outputs {sorted(said)}")
    arrays = {name: np.asarray(array, np.float64, order="C") for name, array in given.items()}
    for name, array in arrays.items():
        if array.shape != tuple(said[name].shape):
            raise ValueError(f"{name} has the shape {array.shape}, its output {tuple(said[name].shape)}")
    return arrays


@contextmanager
def _own_stream(devices: set[Any]) -> Iterator[None]:
    """Work that is begun in here does not wait for what receive threads have to do on the device, nor they for it."""
    on_gpu = [where for where in devices if where is not None and where.type == "cuda"]
    if not on_gpu:
        yield
        return
    import torch

    for where in on_gpu:
        _wait_for(where)
    streams = [torch.cuda.Stream(where) for where in on_gpu]
    with ExitStack() as stack:
        for stream in streams:  # each is the current one of its device; the first device is the current one
            stack.enter_context(torch.cuda.stream(stream))
        stack.enter_context(torch.cuda.device(on_gpu[0]))
        try:
            yield
        finally:  # what is still under way must not outlive the accumulators
            for stream in streams:
                with suppress(Exception):  # the error that led here says more
                    stream.synchronize()


def _is_of_the_gpu(error: BaseException) -> bool:
    """Whether the GPU failed, or is full, while a method worked on it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    kinds = (torch.cuda.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.cuda.OutOfMemoryError))
    return isinstance(error, kinds) or type(error).__module__.startswith("cuda.")


def _wait_for(where: Any) -> None:
    """Wait until what receive threads began on the device is done."""
    if where is not None and where.type == "cuda":
        import torch

        from live4d_ophyd.decode.gpu.named_errors import named_errors

        with named_errors(where):
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
