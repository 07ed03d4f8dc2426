"""GpuDecoder: frames of a batch to sums or pixels on an NVIDIA GPU, decoded there by nvCOMP.

A batch goes over as it came from the socket, compressed; all the rest happens in one CUDA stream: find the blocks,
decode those that a weight map touches, sum, send sums and statuses back. Nothing waits for the device but
`Submitted.result`, and submitting Zstandard. A decoder belongs to one thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from live4d_ophyd.decode.decoder import Demand, Part
from live4d_ophyd.decode.entries import OTHER_LAYOUT, rows_to_take
from live4d_ophyd.decode.errors import EngineUnavailable, GpuError, GpuLost, GpuMemoryError
from live4d_ophyd.decode.gpu.kernels import FRAMES_A_BLOCK, PIXELS, Kernels, weigh_name
from live4d_ophyd.decode.gpu.layout import Layout, Selection, find_layout, select_blocks
from live4d_ophyd.decode.gpu.nvcomp import BlockTable, Nvcomp, NvcompCallError, NvcompError
from live4d_ophyd.decode.saturation import NODATA, Projected, Saturation
from live4d_ophyd.decode.weight_maps import Weights
from live4d_ophyd.frames.batch import LENGTH, OFFSET, FrameBatch
from live4d_ophyd.frames.format import BAD_LZ4, BAD_ZSTD, MANY_LAYOUTS, OK, FrameFormat

#: device memory for decoding, of each decoder; a batch that needs more is decoded in parts
DECODING_BYTES = 512 << 20
#: frames of a part: the most blocks that a grid has in its second dimension
_MOST_FRAMES = 65535
#: of pieces of device memory
_ALIGNMENT = 256
#: bytes that a block takes in tables
_TABLE_BYTES = 60
#: and what nvCOMP's Zstandard takes besides for one (measured: 31.5 kB)
_ZSTD_TEMP_BYTES = 32 << 10
#: ways to cut and compress frames that are kept prepared, and that one batch may have
_LAYOUTS = 8
#: an empty LZ4 block, for entries without data: nvCOMP needs something valid to look at
_NOTHING = bytes([0])


@contextmanager
def named_errors() -> Iterator[None]:
    """Raise what CUDA, torch and nvCOMP raise as GpuError."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        raise GpuMemoryError(
            f"the GPU's memory is full ({free >> 20} of {total >> 20} MiB free): end what else uses it, take fewer "
            "connections, or engine='cpu'"
        ) from error
    except NvcompError as error:
        lost = isinstance(error, NvcompCallError) and error.cuda_failed
        raise (GpuLost if lost else GpuError)(str(error)) from error
    except (EngineUnavailable, MemoryError, OSError, ValueError, TypeError, LookupError, NotImplementedError):
        raise  # named already, or none of the GPU's
    except Exception as error:
        # cuda.core's errors share no base class with torch's.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "out of memory" in reason:
            raise GpuMemoryError(f"no pinned memory left: {reason}; take fewer connections") from error
        raise GpuLost(
            f"the GPU failed: {reason}; nothing works on it any more in this process. `live4d doctor` says what "
            "works, engine='cpu' does without a GPU"
        ) from error


@dataclass(frozen=True)
class _Plan:
    """What one layout and one set of weights need on the device."""

    weights: Weights | None
    selection: Selection
    place: torch.Tensor  #: Selection.place
    maps: _Maps | None = None


@dataclass(frozen=True)
class _Maps:
    """Weight maps as lists of the pixels that have a weight, one behind the other."""

    starts: torch.Tensor  #: (maps + 1,) int64
    places: torch.Tensor  #: (weights,) int32: which of the selected pixels
    weights: torch.Tensor  #: (weights,) float64 or int64, what they are summed in
    result: np.dtype  #: of the sums
    kernel: str
    threads: int

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass
class _Part:
    """One pass through the device: frames of one layout, or one frame that has none."""

    at: np.ndarray  #: (n,) which rows of the submission
    status: np.ndarray | int  #: (n,) int32
    sums: np.ndarray | None = None  #: (n, maps)
    saturated: np.ndarray | None = None  #: (n, maps) bool
    done: torch.cuda.Event | None = None  #: status and sums are there
    zstd: bool = False

    def statuses(self) -> np.ndarray:
        """(n,) int64; waits for the device without the GIL."""
        if isinstance(self.status, int):
            return np.full(len(self.at), self.status, np.int64)
        if self.done is not None:
            with named_errors():
                self.done.synchronize()
        status = self.status.astype(np.int64)
        return np.where(status == BAD_LZ4, BAD_ZSTD, status) if self.zstd else status


class Submitted:
    """Sums under way."""

    def __init__(self, decoder: GpuDecoder, batch: FrameBatch, weights: Weights, rows: np.ndarray) -> None:
        self._decoder, self._batch, self._weights, self._rows = decoder, batch, weights, rows
        self._parts = decoder._begin(batch, rows, np.arange(len(rows)), weights)

    @property
    def ready(self) -> bool:
        """Whether `result` need not wait for the device."""
        with named_errors():
            return all(part.done is None or part.done.query() for part in self._parts)

    def result(self) -> Projected:
        """The sums. The batch is free afterwards."""
        decoder, weights, parts = self._decoder, self._weights, self._parts
        whole = parts[0] if len(parts) == 1 and len(parts[0].at) == len(self._rows) else None
        if whole is not None and whole.sums is not None and whole.saturated is not None:
            status = whole.statuses()
            if not (status == OTHER_LAYOUT).any():
                return Projected(whole.sums, status, whole.saturated)
        sums = np.zeros((len(self._rows), len(weights)), weights.sums_of(decoder.format))
        status = np.zeros(len(self._rows), np.int64)
        saturated = np.zeros(sums.shape, bool)
        for _ in range(_LAYOUTS):
            for part in parts:
                status[part.at] = part.statuses()
                if part.sums is not None:
                    sums[part.at], saturated[part.at] = part.sums, part.saturated
            others = np.flatnonzero(status == OTHER_LAYOUT)
            if not len(others):
                return Projected(sums, status, saturated)
            parts = decoder._begin(self._batch, self._rows, others, weights)
        for part in parts:
            part.statuses()  # waits: the batch must not be free before the device is done with it
        status[status == OTHER_LAYOUT] = MANY_LAYOUTS
        return Projected(sums, status, saturated)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Sums under way, and patterns that are decoded when they are asked for."""

    decoder: GpuDecoder
    batch: FrameBatch
    entries: np.ndarray
    demand: Demand
    sums: Submitted | None

    @property
    def ready(self) -> bool:
        return self.sums is None or self.sums.ready

    def parts(self) -> Iterator[Part]:
        decoder, n = self.decoder, len(self.entries)
        projected = None if self.sums is None else self.sums.result()
        sums, saturated, status, flagged = None, None, np.zeros(n, np.int64), np.zeros(n, bool)
        if projected is not None:
            status, flagged = projected.status, np.asarray(projected.saturated.any(axis=1))
            with decoder.working():
                sums, saturated = decoder._upload(projected.sums), decoder._upload(projected.saturated)
        if not self.demand.patterns:
            yield Part(np.arange(n), status, flagged, sums, saturated, None)
            return
        for at, patterns, found in decoder.frames_in_parts(self.batch, self.entries):
            yield Part(
                np.arange(n)[at],
                np.minimum(status[at], found),
                flagged[at],
                None if sums is None else sums[at],
                None if saturated is None else saturated[at],
                patterns,
            )


def _chosen(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """``rows[at]``, without a copy where ``at`` is all of them."""
    return rows if len(at) == len(rows) else rows[at]


@dataclass(frozen=True)
class _Found:
    """Device addresses of what `find_blocks` writes: blocks and their bytes (n * blocks), statuses (n)."""

    at: int
    nbytes: int
    status: int


class GpuDecoder:
    """Decoder of the frames of one series, which all have ``frame_format``, on torch's current device.

    ``saturation`` says which pixels hold no count. Blocks that no
    weight touches are checked, not decoded. Raises GpuError; ValueError for a dtype that has no kernel.
    """

    engine = "gpu"
    copies = 0
    decodes = 0

    def __init__(
        self,
        frame_format: FrameFormat,
        nvcomp: Nvcomp,
        kernels: Kernels,
        *,
        saturation: Saturation = NODATA,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        if frame_format.dtype.name not in PIXELS or not frame_format.dtype.isnative:
            raise ValueError(
                f"frames of dtype {frame_format.dtype.str} have no GPU kernel ({', '.join(PIXELS)} have): "
                "use engine='cpu'"
            )
        self.format = frame_format
        self.saturation = saturation
        self._nvcomp, self._kernels = nvcomp, kernels
        self._plans: dict[tuple[Layout, int], _Plan] = {}
        with named_errors():
            self._device = torch.device("cuda", torch.cuda.current_device())
            self.stream = stream or torch.cuda.Stream(self._device)
            self._nothing = torch.tensor(list(_NOTHING), dtype=torch.uint8, device=self._device)
            torch.cuda.synchronize(self._device)

    def project(
        self, batch: FrameBatch, weights: Weights, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `CpuDecoder.project`; for integer weights equal to it bit for bit."""
        return self.submit_sums(batch, weights, rows).result()[:2]

    def submit(self, batch: FrameBatch, entries: np.ndarray | None, demand: Demand) -> Decoded:
        """As `CpuDecoder.submit`; arrays of parts are on the device."""
        sums = None if demand.maps is None else self.submit_sums(batch, demand.maps, entries)
        return Decoded(self, batch, rows_to_take(batch, entries), demand, sums)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Where work on a part's arrays is done: in the decoder's stream, errors of it as GpuError."""
        with named_errors(), torch.cuda.stream(self.stream):
            yield

    def submit_sums(self, batch: FrameBatch, weights: Weights, rows: np.ndarray | None = None) -> Submitted:
        """Begin `project`. The batch must stay as it is until the result is taken.

        Only batches in pinned memory are copied while other work goes on.
        """
        weights.sums_of(self.format)  # refuses what does not fit
        return Submitted(self, batch, weights, rows_to_take(batch, rows))

    def frames(self, batch: FrameBatch, rows: np.ndarray | None = None) -> tuple[torch.Tensor, np.ndarray]:
        """Pixels ``(n, rows, cols)`` of the format's dtype on the device, and ``(n,) int64`` status.

        Pixels come as the detector sent them, no-data values included. A frame with a status other than 0 is all
        zero. The device has been waited for.
        """
        rows = rows_to_take(batch, rows)
        status = np.full(len(rows), OTHER_LAYOUT, np.int64)
        with named_errors(), torch.cuda.stream(self.stream):
            pixels = torch.zeros((len(rows), self.format.nbytes), dtype=torch.uint8, device=self._device)
            for _ in range(_LAYOUTS):
                left = np.flatnonzero(status == OTHER_LAYOUT)
                for part in self._begin(batch, rows, left, None, pixels):
                    status[part.at] = part.statuses()
            status[status == OTHER_LAYOUT] = MANY_LAYOUTS
            bad = np.flatnonzero(status != OK)
            if len(bad):
                pixels[self._upload(bad)] = 0
            self.stream.synchronize()
            kind = getattr(torch, self.format.dtype.name)
            return pixels.view(kind).view(len(rows), *self.format.shape), status

    def errors(self) -> AbstractContextManager[None]:
        """Within it, errors of work on the decoder's pixels are GpuErrors."""
        return named_errors()

    def frames_in_parts(
        self, batch: FrameBatch, rows: np.ndarray
    ) -> Iterator[tuple[slice, torch.Tensor, np.ndarray]]:
        """`frames` of ``rows``, as many at a time as memory allows: which of them, pixels, statuses."""
        # Methods take float64 and a few copies of them.
        step = max(1, DECODING_BYTES // (self.format.nbytes + 32 * self.format.pixels))
        for first in range(0, len(rows), step):
            part = slice(first, first + step)
            yield part, *self.frames(batch, rows[part])

    # One layout at a time ------------------------------------------------------------------------

    def _begin(
        self,
        batch: FrameBatch,
        rows: np.ndarray,
        at: np.ndarray,
        weights: Weights | None,
        pixels: torch.Tensor | None = None,
    ) -> list[_Part]:
        """Enqueue ``rows[at]``; those cut in another way than the first come back as OTHER_LAYOUT.

        Sums under ``weights``, or else pixels to ``pixels``.
        """
        parts: list[_Part] = []
        layout: Layout | int = OK
        while len(at):
            layout = find_layout(batch, int(rows[at[0]]), self.format.nbytes)
            if isinstance(layout, Layout):
                break
            parts.append(_Part(at[:1], layout))
            at = at[1:]
        if not isinstance(layout, Layout):
            return parts
        with named_errors(), torch.cuda.stream(self.stream):
            plan = self._plan(layout, weights)
            # Messages lie in the order of their rows.
            taken = _chosen(rows, at)
            head, tail = batch.index[taken.min()], batch.index[taken.max()]
            first, last = int(head[OFFSET]), int(tail[OFFSET] + tail[LENGTH])
            buffer = self._new(last, torch.uint8)
            buffer[first:].copy_(torch.from_numpy(batch.buffer[first:last]), non_blocking=True)
            index = torch.from_numpy(batch.index[: batch.count]).to(self._device, non_blocking=True)
            zstd = layout.name == "bszstd"
            a_frame = plan.selection.stride * (1 if layout.nvcomp_unshuffles else 2)
            a_frame += layout.blocks * (_TABLE_BYTES + (_ZSTD_TEMP_BYTES if zstd else 0))
            step = min(_MOST_FRAMES, max(1, DECODING_BYTES // a_frame))
            for begin in range(0, len(at), step):
                part = at[begin : begin + step]
                if zstd:
                    # nvCOMP 6.0 reads anywhere for a Zstandard frame that is none: it sees good ones only.
                    status = self._check(layout, buffer, index, _chosen(rows, part))
                    parts.append(_Part(part[status != OK], status[status != OK], zstd=True))
                    part = part[status == OK]
                    if not len(part):
                        continue
                parts.append(self._pass(layout, plan, buffer, index, _chosen(rows, part), part, pixels))
        return parts

    def _pass(
        self,
        layout: Layout,
        plan: _Plan,
        buffer: torch.Tensor,
        index: torch.Tensor,
        rows: np.ndarray,
        at: np.ndarray,
        pixels: torch.Tensor | None,
    ) -> _Part:
        n, selection, blocks = len(rows), plan.selection, layout.blocks
        entries, maps = n * selection.count, 0 if plan.maps is None else len(plan.maps)
        # What is un-shuffled here is decoded elsewhere first.
        own_shuffle = layout.shuffled and not layout.nvcomp_unshuffles
        frames = n * selection.stride
        memory, (decoded, planes, found_at, found_bytes, columns, block_status, sums, status, saturated) = (
            self._carve(
                frames, frames * own_shuffle, 8 * n * blocks, 8 * n * blocks, 40 * entries, 4 * entries,
                8 * n * maps, 4 * n, n * maps,
            )
        )  # fmt: skip
        planes = planes if own_shuffle else decoded
        found = _Found(found_at, found_bytes, status)
        self._find(layout, buffer, index, rows, found, decoded, selection)
        if layout.name and selection.count:
            self._decompress(layout, plan, n, found, planes, columns, block_status)
        if layout.may_be_stored and selection.count:
            self._launch(
                "copy_stored", n, 256,
                blocks, layout.block, found.at, found.nbytes, status, plan.place.data_ptr(), planes,
                selection.stride,
            )  # fmt: skip
        if own_shuffle:
            self._unshuffle(layout, selection, planes, decoded, n)
        if pixels is not None:
            whole = memory[:frames].view(n, -1)
            pixels[self._upload(at)] = whole[:, : selection.nbytes]
        else:
            self._weigh(plan, decoded, status, n, sums, saturated)
        # Sums, statuses and what is saturated lie one behind the other: one copy.
        results = self._to_host(memory[sums - memory.data_ptr() :]).numpy()
        done = torch.cuda.Event(blocking=True)
        done.record(self.stream)
        gap, last = status - sums, saturated - sums
        return _Part(
            at,
            results[gap : gap + 4 * n].view(np.int32),
            None if plan.maps is None else results[: 8 * n * maps].view(plan.maps.result).reshape(n, maps),
            None if plan.maps is None else results[last : last + n * maps].view(bool).reshape(n, maps),
            done,
            layout.name == "bszstd",
        )

    def _check(
        self, layout: Layout, buffer: torch.Tensor, index: torch.Tensor, rows: np.ndarray
    ) -> np.ndarray:
        """(n,) int32 statuses as far as headers tell them; waits for the device."""
        n = len(rows)
        memory, found = self._carve(8 * n * layout.blocks, 8 * n * layout.blocks, 4 * n)
        self._find(layout, buffer, index, rows, _Found(*found))
        return memory[found[2] - memory.data_ptr() :][: 4 * n].cpu().numpy().view(np.int32)

    def _find(
        self,
        layout: Layout,
        buffer: torch.Tensor,
        index: torch.Tensor,
        rows: np.ndarray,
        found: _Found,
        target: int = 0,
        selection: Selection | None = None,
    ) -> None:
        """Where each block is, its bytes (negative: stored), and the frames' statuses; raw pixels to ``target``."""
        n, blocks, frame = len(rows), layout.blocks, self.format
        cut = (layout.total, layout.block, layout.granule)
        # Frames that came one behind the other need no list.
        first = int(rows[0]) if (np.diff(rows) == 1).all() else -1
        take = None if first >= 0 else self._upload(rows)
        self._launch(
            "find_blocks", -(-n // 64), 64,
            buffer.data_ptr(), buffer.numel(), index.data_ptr(), 0 if take is None else take.data_ptr(), first, n,
            frame.rows, frame.cols, frame.tag, layout.algorithm, layout.elem_size, *cut, blocks,
            target, selection.stride if selection else 0, selection.leftover_at if selection else -1,
            found.at, found.nbytes, found.status,
        )  # fmt: skip
        if layout.name and blocks:
            zstd = int(layout.name == "bszstd")
            self._launch(
                "check_blocks", -(-n * blocks // 128), 128,
                n, blocks, *cut, found.at, found.nbytes, zstd, found.status,
            )  # fmt: skip

    def _decompress(
        self, layout: Layout, plan: _Plan, n: int, found: _Found, planes: int, columns: int, block_status: int
    ) -> None:
        """Have nvCOMP decode the wanted blocks of good frames.

        ``columns`` and ``block_status``: room for 5 * 8 and 4 bytes a block.
        """
        nvcomp, stream, selection = self._nvcomp, self.stream.cuda_stream, plan.selection
        count, blocks, zstd = n * selection.count, layout.blocks, layout.name == "bszstd"
        source, source_bytes, target, target_bytes, actual = (columns + 8 * count * k for k in range(5))
        self._launch(
            "list_blocks", -(-n * blocks // 128), 128,
            n, blocks, layout.total, layout.block, layout.granule, found.at, found.nbytes, found.status,
            plan.place.data_ptr(), selection.count, planes, selection.stride,
            self._nothing.data_ptr(), self._nothing.numel(), source, source_bytes, target, target_bytes,
        )  # fmt: skip
        table = BlockTable(count, source, source_bytes, target, target_bytes, actual, block_status)
        largest = min(layout.block, layout.total)
        if zstd:
            temp = self._new(nvcomp.zstd_temp_bytes(count, largest), torch.uint8)
            nvcomp.zstd_decompress(table, temp.data_ptr(), temp.numel(), stream)
        else:
            unshuffle = layout.elem_size if layout.nvcomp_unshuffles else 0
            temp = self._new(nvcomp.lz4_temp_bytes(count, largest, unshuffle), torch.uint8)
            nvcomp.lz4_decompress(table, temp.data_ptr(), temp.numel(), stream, unshuffle)
        self._launch(
            "judge", -(-n // 64), 64,
            n, blocks, selection.count, plan.place.data_ptr(), found.nbytes, target_bytes, actual,
            block_status, found.status,
        )  # fmt: skip

    def _unshuffle(self, layout: Layout, selection: Selection, planes: int, decoded: int, n: int) -> None:
        groups = selection.block_bytes // layout.granule
        if groups:
            self._launch(
                "unshuffle", (-(-groups // 256), n), 256,
                planes, decoded, n, groups, selection.stride, layout.block, layout.elem_size,
            )  # fmt: skip

    def _weigh(self, plan: _Plan, decoded: int, status: int, n: int, sums: int, saturated: int) -> None:
        maps = plan.maps
        assert maps is not None
        limit = self.saturation.limit(self.format.dtype)
        nan = self.format.dtype.kind == "f" and self.saturation.nodata
        rule = int(limit is not None) + 2 * int(nan)
        self._launch(
            maps.kernel, (len(maps), -(-n // FRAMES_A_BLOCK)), maps.threads,
            decoded, plan.selection.stride, n, len(maps), maps.starts.data_ptr(),
            maps.places.data_ptr(), maps.weights.data_ptr(), status, rule, limit or 0,
            int(self.saturation.counted), sums, saturated,
        )  # fmt: skip

    def _plan(self, layout: Layout, weights: Weights | None) -> _Plan:
        key = (layout, id(weights))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) == _LAYOUTS:
                del self._plans[next(iter(self._plans))]
            plan = self._plans[key] = self._make_plan(layout, weights)
        return plan

    def _make_plan(self, layout: Layout, weights: Weights | None) -> _Plan:
        dtype = self.format.dtype
        if weights is None:
            selection = select_blocks(layout, dtype.itemsize, None)
            return _Plan(None, selection, self._upload(selection.place))
        touched = np.zeros(self.format.pixels, bool)
        for indices, _ in weights.pixels:
            touched[indices] = True
        selection = select_blocks(layout, dtype.itemsize, touched)
        # Sums of integers in float64 are as exact while they stay below 2^53, and several times as fast.
        result = weights.sums_of(self.format)
        exact = result == np.int64 and not weights.fit_float64(dtype)
        kind = np.dtype(np.int64 if exact else np.float64)
        places = np.concatenate([np.searchsorted(selection.pixels, indices) for indices, _ in weights.pixels])
        values = np.concatenate([of_map for _, of_map in weights.pixels])
        lengths = [len(indices) for indices, _ in weights.pixels]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        longest = max(lengths)
        maps = _Maps(
            self._upload(starts),
            self._upload(places.astype(np.int32)),
            self._upload(values.astype(kind)),
            result,
            weigh_name(dtype.name, kind.name, result.name),
            threads=32 if longest < 2048 else 128 if longest < 65536 else 1024,
        )
        return _Plan(weights, selection, self._upload(selection.place), maps)

    def _launch(self, name: str, grid: int | tuple[int, int], block: int, *args: int) -> None:
        self._kernels.launch(name, self.stream, grid, block, *args)

    def _carve(self, *nbytes: int) -> tuple[torch.Tensor, list[int]]:
        """Device memory made at once, as each allocation costs what a launch does; addresses of its pieces."""
        ends = list(itertools.accumulate(-(-n // _ALIGNMENT) * _ALIGNMENT for n in nbytes))
        memory = self._new(ends[-1], torch.uint8)
        base = memory.data_ptr()
        return memory, [base, *(base + end for end in ends[:-1])]

    def _new(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(max(1, count), dtype=dtype, device=self._device)[:count]

    def _upload(self, array: np.ndarray) -> torch.Tensor:
        # A copy from memory that is not pinned would wait for all that the stream has to do.
        pinned = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=True)
        pinned.numpy()[...] = array
        return pinned.to(self._device, non_blocking=True)

    def _to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)
