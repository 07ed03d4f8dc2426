"""DevicePass: frames of one layout to sums and patterns, in one CUDA stream.

Find the blocks of the frames, check them, have nvCOMP decode those that are needed, un-shuffle what it does not, sum,
send statuses back. Everything is enqueued; nothing waits for the device but `check`. One thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from live4d_ophyd.decode.gpu.kernels import FRAMES_A_BLOCK, Kernels
from live4d_ophyd.decode.gpu.layout import Layout, Selection
from live4d_ophyd.decode.gpu.nvcomp import BlockTable, Nvcomp
from live4d_ophyd.decode.gpu.plan import Plan
from live4d_ophyd.decode.gpu.workspace import Workspace
from live4d_ophyd.decode.saturation import Saturation
from live4d_ophyd.frames.format import FrameFormat

#: bytes that a block takes in tables
_TABLE_BYTES = 60
#: an empty LZ4 block, for entries without data: nvCOMP needs something valid to look at
_NOTHING = bytes([0])


@dataclass(frozen=True)
class OnDevice:
    """A batch on the device: addresses of its bytes, how many they are, and of its table."""

    buffer: int
    capacity: int
    index: int


@dataclass(frozen=True)
class Outcome:
    """What a pass makes, as far as it is known before the device has done it."""

    status: np.ndarray  #: (n,) int32 on the host, once the workspace is done
    flagged: np.ndarray  #: (n,) bool, the same
    sums: torch.Tensor | None  #: (n, maps)
    saturated: torch.Tensor | None  #: (n, maps) bool
    patterns: torch.Tensor | None  #: (n, rows, cols)


@dataclass(frozen=True)
class _Found:
    """Device addresses of what `find_blocks` writes: blocks and their bytes (n * blocks), statuses and flags (n)."""

    at: int
    nbytes: int
    status: int
    flagged: int


def _shuffled_here(layout: Layout) -> bool:
    """Whether frames are un-shuffled by a kernel of ours: they are decoded elsewhere first."""
    return layout.shuffled and not layout.nvcomp_unshuffles


class DevicePass:
    """``saturation`` says which pixels hold no count."""

    def __init__(
        self,
        frame_format: FrameFormat,
        saturation: Saturation,
        nvcomp: Nvcomp,
        kernels: Kernels,
        stream: torch.cuda.Stream,
        device: torch.device,
    ) -> None:
        self._format, self._saturation = frame_format, saturation
        self._nvcomp, self._kernels, self._stream = nvcomp, kernels, stream
        self._nothing = torch.tensor(list(_NOTHING), dtype=torch.uint8, device=device)

    def bytes_a_frame(self, plan: Plan) -> int:
        """Device memory that a pass takes for each frame, besides its compressed bytes."""
        layout, maps = plan.layout, 0 if plan.maps is None else plan.maps.count
        pixels = plan.selection.stride * (1 + _shuffled_here(layout))
        temp = self._temp_bytes(layout, 64 * plan.selection.count) // 64
        return pixels + temp + layout.blocks * _TABLE_BYTES + 9 * maps + 16

    def enqueue(self, plan: Plan, batch: OnDevice, entries: np.ndarray, workspace: Workspace) -> Outcome:
        """Decode the frames of ``entries``. What the workspace's last pass made is over."""
        layout, selection, frame = plan.layout, plan.selection, self._format
        n, blocks, wanted = len(entries), layout.blocks, len(entries) * selection.count
        maps = 0 if plan.maps is None else plan.maps.count
        frames = n * selection.stride
        temp_bytes = self._temp_bytes(layout, wanted)
        memory, begins = workspace.frames.carve(
            frames, frames * _shuffled_here(layout), 8 * n * blocks, 8 * n * blocks, 40 * wanted, 4 * wanted,
            temp_bytes, 8 * n * maps, n * maps, 5 * n,
        )  # fmt: skip
        base = memory.data_ptr()
        decoded, elsewhere, found_at, found_bytes, columns, block_status, temp, sums, saturated, status = (
            base + begin for begin in begins
        )
        planes = elsewhere if _shuffled_here(layout) else decoded
        found = _Found(found_at, found_bytes, status, status + 4 * n)
        self._find(layout, batch, entries, workspace, found, decoded, selection)
        if layout.name and selection.count:
            self._decompress(plan, n, found, planes, columns, block_status, temp, temp_bytes)
        if layout.may_be_stored and selection.count:
            self._launch(
                "copy_stored", n, 256,
                blocks, layout.block, found.at, found.nbytes, status, plan.place.data_ptr(), planes,
                selection.stride,
            )  # fmt: skip
        if _shuffled_here(layout):
            self._unshuffle(layout, selection, planes, decoded, n)
        if plan.maps is not None:
            self._weigh(plan, decoded, n, found, sums, saturated)
        if plan.demand.patterns:
            self._launch("blank_bad", n, 256, frame.nbytes, selection.stride, status, decoded)

        def piece(address: int, nbytes: int) -> torch.Tensor:
            return memory[address - base : address - base + nbytes]

        on_host = workspace.download(piece(status, 5 * n))
        workspace.done.record(self._stream)
        return Outcome(
            on_host[: 4 * n].view(np.int32),
            on_host[4 * n :].view(bool),
            None if plan.maps is None else piece(sums, 8 * n * maps).view(plan.maps.result).view(n, maps),
            None if plan.maps is None else piece(saturated, n * maps).view(torch.bool).view(n, maps),
            self._patterns(memory[:frames], n, selection.stride) if plan.demand.patterns else None,
        )

    def check(self, layout: Layout, batch: OnDevice, entries: np.ndarray, workspace: Workspace) -> np.ndarray:
        """(n,) int32 statuses as far as headers tell them; waits for the device."""
        n = len(entries)
        memory, begins = workspace.frames.carve(8 * n * layout.blocks, 8 * n * layout.blocks, 5 * n)
        at, nbytes, status = (memory.data_ptr() + begin for begin in begins)
        self._find(layout, batch, entries, workspace, _Found(at, nbytes, status, status + 4 * n))
        return memory[begins[2] : begins[2] + 4 * n].cpu().numpy().view(np.int32)

    def _patterns(self, decoded: torch.Tensor, n: int, stride: int) -> torch.Tensor:
        frame = self._format
        pixels = decoded.view(getattr(torch, frame.dtype.name))
        return pixels.as_strided((n, *frame.shape), (stride // frame.dtype.itemsize, frame.cols, 1))

    def _find(
        self,
        layout: Layout,
        batch: OnDevice,
        entries: np.ndarray,
        workspace: Workspace,
        found: _Found,
        target: int = 0,
        selection: Selection | None = None,
    ) -> None:
        """Where each block is, its bytes (negative: stored), and the frames' statuses; raw pixels to ``target``."""
        n, blocks, frame = len(entries), layout.blocks, self._format
        cut = (layout.total, layout.block, layout.granule)
        # Frames that came one behind the other need no list.
        first = int(entries[0]) if entries[-1] - entries[0] == n - 1 and (np.diff(entries) == 1).all() else -1
        listed = 0 if first >= 0 else workspace.upload(entries).data_ptr()
        self._launch(
            "find_blocks", -(-n // 64), 64,
            batch.buffer, batch.capacity, batch.index, listed, first, n,
            frame.rows, frame.cols, frame.tag, layout.algorithm, layout.elem_size, *cut, blocks,
            target, selection.stride if selection else 0, selection.leftover_at if selection else -1,
            found.at, found.nbytes, found.status, found.flagged,
        )  # fmt: skip
        if layout.name and blocks:
            zstd = int(layout.name == "bszstd")
            self._launch(
                "check_blocks", -(-n * blocks // 128), 128,
                n, blocks, *cut, found.at, found.nbytes, zstd, found.status,
            )  # fmt: skip

    def _temp_bytes(self, layout: Layout, count: int) -> int:
        """What nvCOMP takes besides to decode ``count`` blocks."""
        if not layout.name or not count:
            return 0
        largest = min(layout.block, layout.total)
        if layout.name == "bszstd":
            return self._nvcomp.zstd_temp_bytes(count, largest)
        return self._nvcomp.lz4_temp_bytes(count, largest, _nvcomp_elements(layout))

    def _decompress(
        self,
        plan: Plan,
        n: int,
        found: _Found,
        planes: int,
        columns: int,
        block_status: int,
        temp: int,
        temp_bytes: int,
    ) -> None:
        """Have nvCOMP decode the wanted blocks of good frames.

        ``columns`` and ``block_status``: room for 5 * 8 and 4 bytes a block.
        """
        layout, selection, stream = plan.layout, plan.selection, self._stream.cuda_stream
        count, blocks = n * selection.count, layout.blocks
        source, source_bytes, target, target_bytes, actual = (columns + 8 * count * k for k in range(5))
        self._launch(
            "list_blocks", -(-n * blocks // 128), 128,
            n, blocks, layout.total, layout.block, layout.granule, found.at, found.nbytes, found.status,
            plan.place.data_ptr(), selection.count, planes, selection.stride,
            self._nothing.data_ptr(), self._nothing.numel(), source, source_bytes, target, target_bytes,
        )  # fmt: skip
        table = BlockTable(count, source, source_bytes, target, target_bytes, actual, block_status)
        if layout.name == "bszstd":
            self._nvcomp.zstd_decompress(table, temp, temp_bytes, stream)
        else:
            self._nvcomp.lz4_decompress(table, temp, temp_bytes, stream, _nvcomp_elements(layout))
        self._launch(
            "judge", -(-n // 64), 64,
            n, blocks, selection.count, plan.place.data_ptr(), found.nbytes, target_bytes, actual, block_status,
            found.status,
        )  # fmt: skip

    def _unshuffle(self, layout: Layout, selection: Selection, planes: int, decoded: int, n: int) -> None:
        groups = selection.block_bytes // layout.granule
        if groups:
            self._launch(
                "unshuffle", (-(-groups // 256), n), 256,
                planes, decoded, n, groups, selection.stride, layout.block, layout.elem_size,
            )  # fmt: skip

    def _weigh(self, plan: Plan, decoded: int, n: int, found: _Found, sums: int, saturated: int) -> None:
        maps = plan.maps
        assert maps is not None
        limit = self._saturation.limit(self._format.dtype)
        nan = self._format.dtype.kind == "f" and self._saturation.nodata
        rule = int(limit is not None) + 2 * int(nan)
        self._launch(
            maps.kernel, (maps.count, -(-n // FRAMES_A_BLOCK)), maps.threads,
            decoded, plan.selection.stride, n, maps.count, maps.starts.data_ptr(),
            maps.places.data_ptr(), maps.weights.data_ptr(), found.status, rule, limit or 0,
            int(self._saturation.counted), sums, saturated, found.flagged,
        )  # fmt: skip

    def _launch(self, name: str, grid: int | tuple[int, int], block: int, *args: int) -> None:
        self._kernels.launch(name, self._stream, grid, block, *args)


def _nvcomp_elements(layout: Layout) -> int:
    """Size of the elements that nvCOMP un-shuffles, 0: none."""
    return layout.elem_size if layout.nvcomp_unshuffles else 0
