"""GpuDecoder: frames of a batch to sums and patterns on an NVIDIA GPU, decoded there by nvCOMP.

A batch goes over as it came from the socket, compressed; all the rest happens in one CUDA stream, and what comes of it
stays on the device: only statuses and flags come back. Nothing waits for the device but `Decoded.parts`, and Zstandard.
A decoder belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from live4d_ophyd.decode.decoder import Demand, Part
from live4d_ophyd.decode.entries import OTHER_LAYOUT, entries_to_decode
from live4d_ophyd.decode.gpu.device_pass import DevicePass, OnDevice, Outcome
from live4d_ophyd.decode.gpu.kernels import PIXELS, Kernels
from live4d_ophyd.decode.gpu.layout import Layout, find_layout
from live4d_ophyd.decode.gpu.named_errors import named_errors
from live4d_ophyd.decode.gpu.nvcomp import Nvcomp
from live4d_ophyd.decode.gpu.plan import Plan, make_plan
from live4d_ophyd.decode.gpu.workspace import Workspace
from live4d_ophyd.decode.saturation import NODATA, Saturation
from live4d_ophyd.frames.batch import LENGTH, OFFSET, FrameBatch
from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.frames.status import (
    BAD_LZ4,
    BAD_ZSTD,
    MANY_LAYOUTS,
    OK,
)

#: of the GPU's free memory, what one submission may take: several are under way on each of several connections
_SHARE = 16
#: frames of a part: the most blocks that a grid has in its second dimension
_MOST_FRAMES = 65535
#: ways to cut and compress frames that one batch may have, and plans that are kept
_LAYOUTS = 8


@dataclass(frozen=True)
class _Enqueued:
    """Entries on their way through the device, or refused before it."""

    at: np.ndarray  #: (n,) which of the submitted entries
    outcome: Outcome
    layout: Layout | None  #: None: refused, nothing is waited for


class GpuDecoded:
    """Entries under way on the device: the first part is enqueued when this is made, others when it was taken."""

    def __init__(self, decoder: GpuDecoder, batch: FrameBatch, entries: np.ndarray, demand: Demand) -> None:
        self._decoder, self._batch, self._entries, self._demand = decoder, batch, entries, demand
        self._workspace = decoder._workspaces.pop() if decoder._workspaces else decoder._new_workspace()
        self._others: list[np.ndarray] = []  # entries cut in another way than those they were decoded with
        self._passes = self._enqueue()
        with decoder.working():
            self._first = next(self._passes, None)

    @property
    def ready(self) -> bool:
        """Whether `parts` need not wait for the first of them."""
        with named_errors():
            return self._first is None or self._first.layout is None or self._workspace.done.query()

    def parts(self) -> Iterator[Part]:
        """All entries, each in one part. Waits for the device; once."""
        enqueued, self._first = self._first, None
        while enqueued is not None:
            part = self._finish(enqueued)
            if len(part.at):
                yield part
            with self._decoder.working():
                enqueued = next(self._passes, None)
        # What is still enqueued in the stream comes before what takes this memory next.
        self._decoder._workspaces.append(self._workspace)

    def _enqueue(self) -> Iterator[_Enqueued]:
        """Passes over the entries, one layout after the other; those that are found to have another come again.

        Goes on where the decoder works.
        """
        decoder, batch, entries = self._decoder, self._batch, self._entries
        on_device = None
        left = np.arange(len(entries))
        for _ in range(_LAYOUTS):
            refused: list[int] = []
            layout: Layout | int = OK
            while len(refused) < len(left):
                layout = find_layout(batch, int(entries[left[len(refused)]]), decoder.format.nbytes)
                if isinstance(layout, Layout):
                    break
                refused.append(layout)
            if refused:
                yield self._refuse(left[: len(refused)], np.array(refused, np.int32))
                left = left[len(refused) :]
            if not isinstance(layout, Layout):
                return
            if on_device is None:
                on_device = decoder._copy(batch, entries, self._workspace)
            plan = decoder._plan(layout, self._demand)
            decoder.decodes += 1
            step = decoder._step(plan)
            for first in range(0, len(left), step):
                yield from self._pass(plan, on_device, left[first : first + step])
            left = np.concatenate(self._others) if self._others else left[:0]
            self._others = []
        if len(left):
            yield self._refuse(left, np.full(len(left), MANY_LAYOUTS, np.int32))

    def _pass(self, plan: Plan, on_device: OnDevice, at: np.ndarray) -> Iterator[_Enqueued]:
        decoder, workspace = self._decoder, self._workspace
        entries = self._entries[at]
        if plan.layout.name == "bszstd":
            # nvCOMP 6.0 reads anywhere for a Zstandard frame that is none: it sees good ones only.
            status = decoder._device_pass.check(plan.layout, on_device, entries, workspace)
            good, others = status == OK, status == OTHER_LAYOUT
            self._others.append(at[others])
            bad = ~good & ~others
            if bad.any():
                yield self._refuse(at[bad], np.where(status == BAD_LZ4, BAD_ZSTD, status)[bad])
            at, entries = at[good], entries[good]
        if len(at):
            outcome = decoder._device_pass.enqueue(plan, on_device, entries, workspace)
            yield _Enqueued(at, outcome, plan.layout)

    def _refuse(self, at: np.ndarray, status: np.ndarray) -> _Enqueued:
        """Entries without numbers: zeros, as many as are wanted."""
        decoder, n, maps = self._decoder, len(at), self._demand.maps
        shape, kind = (n, *decoder.format.shape), getattr(torch, decoder.format.dtype.name)
        sums = saturated = patterns = None
        if maps is not None:
            result = getattr(torch, maps.sums_of(decoder.format).name)
            sums = torch.zeros((n, len(maps)), dtype=result, device=decoder.device)
            saturated = torch.zeros((n, len(maps)), dtype=torch.bool, device=decoder.device)
        if self._demand.patterns:
            patterns = torch.zeros(shape, dtype=kind, device=decoder.device)
        return _Enqueued(at, Outcome(status, np.zeros(n, bool), sums, saturated, patterns), None)

    def _finish(self, enqueued: _Enqueued) -> Part:
        """Wait for a pass. Entries of another layout are put aside."""
        at, outcome = enqueued.at, enqueued.outcome
        if enqueued.layout is not None:
            with named_errors():
                self._workspace.done.synchronize()
        status, flagged = outcome.status.astype(np.int64), outcome.flagged.copy()
        if enqueued.layout is not None and enqueued.layout.name == "bszstd":
            status[status == BAD_LZ4] = BAD_ZSTD
        arrays = [outcome.sums, outcome.saturated, outcome.patterns]
        others = status == OTHER_LAYOUT
        if others.any():
            self._others.append(at[others])
            with self._decoder.working():
                kept = torch.from_numpy(np.flatnonzero(~others)).to(self._decoder.device)
                # torch has no other indexing of unsigned integers on a GPU.
                arrays = [None if array is None else array.index_select(0, kept) for array in arrays]
            at, status, flagged = at[~others], status[~others], flagged[~others]
        return Part(at, status, flagged, *arrays)


class GpuDecoder:
    """Decoder of the frames of one series, which all have ``frame_format``, on GPU number ``device``.

    ``saturation`` says which pixels hold no count. ``memory``: device memory for decoding of one submission, bytes; a
    batch that needs more is decoded in parts. By default a share of what is free. Blocks that nothing needs are
    checked, not decoded. Raises GpuError; ValueError for a dtype that has no kernel.
    """

    backend = "gpu"

    def __init__(
        self,
        frame_format: FrameFormat,
        nvcomp: Nvcomp,
        kernels: Kernels,
        *,
        device: int = 0,
        saturation: Saturation = NODATA,
        stream: torch.cuda.Stream | None = None,
        memory: int | None = None,
    ) -> None:
        if frame_format.dtype.name not in PIXELS or not frame_format.dtype.isnative:
            raise ValueError(
                f"frames of dtype {frame_format.dtype.str} have no GPU kernel ({', '.join(PIXELS)} have): "
                "use backend='cpu'"
            )
        self.format = frame_format
        self.saturation = saturation
        self.copies = self.decodes = 0
        self._plans: dict[tuple[Layout, int, bool], Plan] = {}
        self._workspaces: list[Workspace] = []  # those that no submission has
        with named_errors(device), torch.cuda.device(device):
            self.device = torch.device("cuda", device)
            self.stream = stream or torch.cuda.Stream(self.device)
            self.memory = _free(self.device) // _SHARE if memory is None else memory
            self._device_pass = DevicePass(
                frame_format, saturation, nvcomp, kernels, self.stream, self.device
            )
            torch.cuda.synchronize(self.device)

    def submit(self, batch: FrameBatch, entries: np.ndarray | None, demand: Demand) -> GpuDecoded:
        """As `CpuDecoder.submit`, for integer weights equal to it bit for bit; arrays of parts are on the device.

        Only batches in pinned memory are copied while other work goes on. Work on a part that is enqueued in the
        decoder's stream (`working`) before the next part is asked for is in time.
        """
        if demand.maps is not None:
            demand.maps.sums_of(self.format)  # refuses what does not fit
        return GpuDecoded(self, batch, entries_to_decode(batch, entries), demand)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Where work on a part's arrays is done: in the decoder's stream, errors of it as GpuError."""
        with named_errors(self.device), torch.cuda.stream(self.stream):
            yield

    def _new_workspace(self) -> Workspace:
        with self.working():
            return Workspace(self.device)

    def _copy(self, batch: FrameBatch, entries: np.ndarray, workspace: Workspace) -> OnDevice:
        """Enqueue the copy of what these entries need of a batch."""
        # Messages lie in the order of their entries.
        low, high = int(entries.min()), int(entries.max())
        first = int(batch.index[low, OFFSET])
        last = int(batch.index[high, OFFSET] + batch.index[high, LENGTH])
        table = batch.index[: high + 1].reshape(-1).view(np.uint8)
        memory, (_, index) = workspace.batch.carve(last, len(table))
        memory[first:last].copy_(torch.from_numpy(batch.buffer[first:last]), non_blocking=True)
        memory[index : index + len(table)].copy_(torch.from_numpy(table), non_blocking=True)
        self.copies += 1
        return OnDevice(memory.data_ptr(), last, memory.data_ptr() + index)

    def _step(self, plan: Plan) -> int:
        """Frames of a part."""
        return min(_MOST_FRAMES, max(1, self.memory // self._device_pass.bytes_a_frame(plan)))

    def _plan(self, layout: Layout, demand: Demand) -> Plan:
        # The plan keeps the maps, so that no others can have their id.
        key = (layout, id(demand.maps), demand.patterns)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) == _LAYOUTS:
                del self._plans[next(iter(self._plans))]
            plan = self._plans[key] = make_plan(self.format, layout, demand, self.device)
        return plan


def _free(device: torch.device) -> int:
    """Bytes of device memory that this process could take, those that torch keeps for later included."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
