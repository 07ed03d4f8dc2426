"""UDF: a LiberTEM user-defined function as a method: what runs offline on recorded frames runs on the stream.

Each batch of frames is to LiberTEM a partition of the scan: the UDF processes it (process_frame, process_tile or
process_partition), and what comes of it is merged with what came before. Needs the extra ``libertem``. Frames are NumPy
arrays to the UDF: those that a GPU decoded are copied to the host.

The class is found as ``live4d_ophyd.imaging.libertem:UDF``: an engine that takes no methods by module does not take it,
because it calls what ``make`` names.
"""

from __future__ import annotations

import importlib
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.imaging.accumulators import on_host
from live4d_ophyd.imaging.method import PATTERN, SCAN, Output, Patterns, checked_name
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

#: of the frames that a UDF gets at once
_AT_ONCE_BYTES = 32 << 20
#: numbers a position that are images of their own; more stay one array
_MOST_IMAGES = 32
#: of frames that are not known yet, px: what is asked of a UDF before a series
_ANY_FRAME = (64, 64)


@dataclass(frozen=True)
class UDF:
    """Outputs are ``<name>_<buffer>``, for each result buffer of the UDF that is not private.

    Of kind ``nav`` they are images, one for each number that a position has (``com_raw_com_0``, ``com_raw_com_1``), NaN
    where no frame came; of kind ``sig`` patterns; of kind ``single`` numbers or arrays. Values become float64. Pixels
    that hold no count, and masked ones, are 0 for the UDF. Frames that were lost are not there for it. Which threads
    merge when is not determined: sums of floats may differ in the last digits.

    Examples
    --------
    >>> UDF("std", "libertem.udf.stddev:StdDevUDF").make
    'libertem.udf.stddev:StdDevUDF'
    """

    name: str
    #: what makes the UDF: its class, or a function that returns one; by name, "module:name", as the engine imports it
    make: str = field(metadata={"fixed": True})
    #: keyword arguments of ``make``: plain values. Masks and functions are made in a function of a module of yours
    parameters: Mapping[str, Any] = field(default_factory=dict)
    #: False: nothing is made
    enabled: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        checked_name(self.name)
        set_ = object.__setattr__
        set_(self, "make", _name_of(self.name, self.make))
        try:
            set_(self, "parameters", json.loads(json.dumps(dict(self.parameters))))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parameters of {self.name} are no plain values ({error}): give a function of a module of yours that "
                "makes the UDF with them"
            ) from None
        set_(self, "enabled", checks.switch(f"{self.name}.enabled", self.enabled))

    def demand(self, series: SeriesInfo, scan: ScanGrid) -> Patterns:
        self._images(series, scan)
        return Patterns()

    def outputs(self, series: SeriesInfo | None, scan: ScanGrid) -> Mapping[str, Output]:
        if not self.enabled:
            return {}
        return {image.key: image.output for images in self._images(series, scan).values() for image in images}

    def accumulator(self, series: SeriesInfo, scan: ScanGrid, device: Any) -> Partitions:
        return Partitions(self._new, series, scan)

    def results(self, series: SeriesInfo, scan: ScanGrid, parts: Sequence[Any]) -> Mapping[str, np.ndarray]:
        images = self._images(series, scan)
        buffers, seen = Partitions.merged(parts)
        results = {}
        for buffer, of in images.items():
            for image in of:
                results[image.key] = image.taken(buffers.get(buffer), seen, scan)
        return results

    def _new(self) -> Any:
        return _made(self.make, json.dumps(self.parameters))

    def _images(self, series: SeriesInfo | None, scan: ScanGrid) -> dict[str, list[_Image]]:
        frame = None if series is None else (series.format.shape, series.format.dtype.str)
        return _images(self.name, self.make, json.dumps(self.parameters), frame, scan)


@dataclass(frozen=True)
class _Image:
    """One output: a buffer of the UDF, or one of the numbers that it has for each position."""

    key: str
    output: Output
    of_positions: bool
    column: int | None = None

    def taken(self, buffer: np.ndarray | None, seen: np.ndarray, scan: ScanGrid) -> np.ndarray:
        """The output, of the buffer as the UDF gave it; None before the first frame."""
        values = np.full(self.output.shape, np.nan)
        if buffer is None:
            return values
        if not self.of_positions:
            values[...] = np.asarray(buffer, np.float64).reshape(values.shape)
            return values
        flat = np.asarray(buffer, np.float64).reshape(scan.size, -1)
        if self.column is not None:
            flat = flat[:, self.column]
            return np.where(seen, flat, np.nan).reshape(values.shape)
        return np.where(seen[:, np.newaxis], flat, np.nan).reshape(values.shape)


class Partitions:
    """Merges what a UDF makes of batches of frames; threads process their batches at the same time."""

    def __init__(self, new: Callable[[], Any], series: SeriesInfo, scan: ScanGrid) -> None:
        self._new, self._series, self._scan = new, series, scan
        self._lock = threading.Lock()  # of what follows
        self._whole: Any = None  #: the UDF of the whole scan, made with the first frame
        self._seen = np.zeros(scan.size, bool)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: how the UDF is made, and its buffers."""
        with self._lock:
            filled = {} if self._whole is None else _filled(self._whole)
            buffers = {name: buffer.raw_data.copy() for name, buffer in filled.items()}
            state = {name: value for name, value in vars(self).items() if name not in ("_lock", "_whole")}
            return {**state, "_seen": self._seen.copy(), "buffers": buffers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        buffers = state.pop("buffers")
        vars(self).update(state, _lock=threading.Lock(), _whole=None)
        if buffers:
            self._whole = _whole(self._new(), self._series, self._scan)
            for name, buffer in _filled(self._whole).items():
                buffer.raw_data[...] = buffers[name]

    def add(self, positions: Any, patterns: Any) -> None:
        """``patterns`` (n, q_y, q_x) at ``positions`` (n,)."""
        at, frames = on_host(positions), on_host(patterns)
        order = np.argsort(at)
        rows, cols = self._series.format.shape
        lot = max(1, _AT_ONCE_BYTES // (rows * cols * 4))
        for first in range(0, len(order), lot):
            chosen = order[first : first + lot]
            self._add_partition(at[chosen], self._counts(frames[chosen]))

    def _counts(self, frames: np.ndarray) -> np.ndarray:
        """``frames``, changed to 0 where a pixel holds no count."""
        if self._series.saturation is not None:
            frames[frames >= self._series.saturation] = 0
        if frames.dtype.kind == "f":
            frames[np.isnan(frames)] = 0
        if self._series.pixel_mask is not None:
            frames[:, self._series.pixel_mask] = 0
        return frames

    def _add_partition(self, positions: np.ndarray, frames: np.ndarray) -> None:
        from libertem.common.executor import Environment
        from libertem.udf.base import UDFParams, UDFPartRunner

        roi = np.zeros(self._scan.size, bool)
        roi[positions] = True
        partition, scheme = _partition(self._series, self._scan, frames)
        udf = self._new()
        params = UDFParams.from_udfs([udf], roi=roi, corrections=None, tiling_scheme=scheme)
        environment = Environment(threads_per_worker=None, threaded_executor=False)
        (results,) = UDFPartRunner([udf]).run_for_partition(
            partition, params, environment, udf.get_backends()
        )
        with self._lock:
            if self._whole is None:
                self._whole = _whole(self._new(), self._series, self._scan)
            _merge(self._whole, positions, results)
            self._seen[positions] = True

    @staticmethod
    def merged(parts: Sequence[Partitions]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The UDF's results by buffer, none before the first frame, and which positions have one, (positions,) bool."""
        found = [part for part in parts if part._whole is not None]
        if not found:
            return {}, np.zeros(0, bool)
        first = found[0]
        whole = _whole(first._new(), first._series, first._scan)
        seen = np.zeros(first._scan.size, bool)
        for part in found:
            with part._lock:
                here = np.flatnonzero(part._seen)
                _merge(whole, here, part._whole.results, here)
            seen[here] = True
        whole.meta.set_valid_nav_mask(seen)
        whole.clear_views()
        with np.errstate(all="ignore"):  # positions without a frame are 0 / 0
            return _results(whole), seen


def _filled(udf: Any) -> dict[str, Any]:
    """The buffers that hold something before the results are asked for."""
    return {name: buffer for name, buffer in udf.results.items() if buffer.use != "result_only"}


def _merge(whole: Any, positions: np.ndarray, results: Any, taken: Any = slice(None)) -> None:
    """Merge results of frames at ``positions`` into the UDF of the whole scan; ``taken``: of results of a whole one."""
    from libertem.udf.base import MergeAttrMapping

    dest, src = {}, {}
    filled = _filled(whole)
    for name, buffer in filled.items():
        of_positions = buffer.kind == "nav"
        dest[name] = buffer.raw_data[positions] if of_positions else buffer.raw_data
        theirs = results.get_buffer(name).raw_data
        src[name] = theirs[taken] if of_positions else theirs
    whole.merge(dest=MergeAttrMapping(dest), src=MergeAttrMapping(src))
    for name, buffer in filled.items():
        if buffer.kind == "nav":
            buffer.raw_data[positions] = dest[name]


def _results(udf: Any) -> dict[str, np.ndarray]:
    """What it gives, and the buffers that it gives as they are."""
    given = dict(udf.get_results())
    for name, buffer in udf.get_result_buffers().items():
        if name not in given and buffer.use is None:
            given[name] = udf.results.get_buffer(name).raw_data
    return {name: np.asarray(getattr(values, "arr", values)) for name, values in given.items()}


def _whole(udf: Any, series: SeriesInfo, scan: ScanGrid) -> Any:
    """The UDF with buffers for the whole scan."""
    from libertem.udf.base import UDFPreprocessMixin

    partition, _ = _partition(series, scan, np.zeros((0, *series.format.shape), series.format.dtype))
    _set_meta(udf, scan, series.format.shape, series.format.dtype)
    udf.init_result_buffers()
    # All that a UDF's buffers ask of a data set.
    dataset = SimpleNamespace(shape=partition.meta.shape, get_partitions=lambda: iter([partition]))
    udf.allocate_for_full(dataset, None)
    if isinstance(udf, UDFPreprocessMixin):
        udf.set_views_for_dataset(dataset)
        udf.preprocess()
        udf.clear_views()
    return udf


def _set_meta(udf: Any, scan: ScanGrid, frame: tuple[int, int], dtype: Any) -> None:
    """Tell a UDF of which scan and frames it will have, as LiberTEM does before it runs one."""
    from libertem.common import Shape
    from libertem.udf.base import UDFMeta, _get_dtype

    shape = Shape((*scan.shape, *frame), sig_dims=2)
    used = _get_dtype([udf], np.dtype(dtype), None, ("numpy",))
    udf.set_meta(
        UDFMeta(
            partition_slice=None, dataset_shape=shape, roi=None, dataset_dtype=np.dtype(dtype), input_dtype=used,
            corrections=None,
        )
    )  # fmt: skip


def _partition(series: SeriesInfo, scan: ScanGrid, frames: np.ndarray) -> tuple[Any, Any]:
    """The whole scan as a partition that has these frames, and the tiling that gives all of them at once."""
    from libertem.common import Shape, Slice
    from libertem.io.dataset.base import DataSetMeta, DataTile, Partition, TilingScheme

    whole = Shape((scan.size, *series.format.shape), sig_dims=2)

    class Batch(Partition):
        def set_corrections(self, corrections: Any) -> None:
            """None is applied: frames are as the method has them."""

        def get_tiles(
            self, tiling_scheme: Any, dest_dtype: Any = "float32", roi: Any = None, array_backend: Any = None
        ) -> Any:
            shape = Shape(frames.shape, sig_dims=2)
            yield DataTile(frames.astype(dest_dtype), Slice((0, 0, 0), shape), 0)

    meta = DataSetMeta(
        shape=Shape((*scan.shape, *series.format.shape), sig_dims=2), array_backends=("numpy",), image_count=scan.size,
        raw_dtype=frames.dtype,
    )  # fmt: skip
    tile = Shape((max(1, len(frames)), *series.format.shape), sig_dims=2)
    scheme = TilingScheme.make_for_shape(tile, meta.shape)
    return Batch(meta, Slice((0, 0, 0), whole), None, None), scheme


@lru_cache(maxsize=64)
def _images(
    name: str, make: str, parameters: str, frame: tuple[tuple[int, int], str] | None, scan: ScanGrid
) -> dict[str, list[_Image]]:
    """What a UDF declares that it gives, by buffer. Lengths of frames that are not known yet are 0."""
    shape, dtype = frame or (_ANY_FRAME, "<u2")
    udf = _made(make, parameters)
    _set_meta(udf, scan, shape, dtype)
    found = {}
    for buffer, declared in udf.get_result_buffers().items():
        if declared.use == "private":
            continue
        if np.dtype(declared.dtype).kind not in "biuf":
            raise ValueError(
                f"{name}: the buffer {buffer} has the dtype {declared.dtype}; expected real numbers"
            )
        key, extra = f"{name}_{buffer}", tuple(declared.extra_shape)
        more = tuple(f"{key}_{axis}" for axis in range(len(extra)))
        count = math.prod(extra)
        if declared.kind == "sig":
            known = shape if frame else (0, 0)
            found[buffer] = [_Image(key, Output((*PATTERN, *more), (*known, *extra), preview=False), False)]
        elif declared.kind == "single":
            number = extra in ((), (1,))
            output = Output((), ()) if number else Output(more, extra, preview=False)
            found[buffer] = [_Image(key, output, False)]
        elif extra and count <= _MOST_IMAGES:
            found[buffer] = [
                _Image(f"{key}_{column}", Output(SCAN, scan.shape), True, column) for column in range(count)
            ]
        elif extra:
            output = Output((*SCAN, *more), (*scan.shape, *extra), preview=False)
            found[buffer] = [_Image(key, output, True)]
        else:
            found[buffer] = [_Image(key, Output(SCAN, scan.shape), True, 0)]
    if not found:
        raise ValueError(f"{name}: {make} gives nothing: all of its buffers are private")
    return found


def _name_of(name: str, make: Any) -> str:
    """What makes the UDF as ``module:name``."""
    if not isinstance(make, str):
        module, qualname = getattr(make, "__module__", None), getattr(make, "__qualname__", None)
        if not callable(make) or not module or not qualname:
            raise ValueError(
                f"make of {name} is {checks.shown(make)}; expected the class of a UDF, or a function that returns one"
            )
        make = f"{module}:{qualname}"
    module, _, inner = make.partition(":")
    if not inner or module == "__main__" or "<" in make:
        raise ValueError(
            f"make of {name} is {make!r}, which the engine, a process of its own, cannot import; expected "
            "module:name, in a file that can be imported"
        )
    return make


def _made(make: str, parameters: str) -> Any:
    """A new UDF. Raises ValueError where LiberTEM is missing, or what ``make`` names makes none."""
    try:
        from libertem.udf import UDF as LiberTEMs
    except ImportError as error:
        raise ValueError(
            f"LiberTEM is not installed ({error}), which {make} needs: pip install 'live4d-ophyd[libertem]', where the "
            "engine runs, too"
        ) from error
    module, _, name = make.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{make} cannot be imported: {type(error).__name__}: {error}") from error
    udf = found(**json.loads(parameters))
    if not isinstance(udf, LiberTEMs):
        raise ValueError(f"{make} gives {checks.shown(udf)}; expected a UDF of LiberTEM")
    return udf
