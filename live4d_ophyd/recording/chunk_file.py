"""ChunkFile: chunks of datasets, as bytes, appended to a file that is valid HDF5 at any moment.

In: a file that libhdf5 made and closed (`template`), and chunks, many a call. Out: the file with them. Until `close`
nothing here calls libhdf5. Chunks are in the file when `append` returns, and readers find them from the next
`checkpoint` on. A process that is killed loses what came behind the last checkpoint; a machine that loses its power,
too, as each is written to the disk before it counts (``fdatasync``). Belongs to one thread.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from live4d_ophyd.recording.chunk_index import (
    UNDEFINED,
    ChunkIndex,
    Chunks,
    NotAsExpected,
    checksum,
    write_at,
)

#: of files that these modules can write to: what HDF5 1.10 and all after it read and write alike. Not "latest": HDF5 2
#: would write layouts that 1.14 refuses
LIBVER = ("v110", "v110")
#: memory, and lengths, of what is written past the page cache are multiples of it, bytes
ALIGNMENT = 4096

#: how much longer than needed the file is made at a time while it is written, bytes; nothing lies there
_AHEAD_BYTES = 256 << 20

_SUPERBLOCK_BYTES, _END_AT = 48, 28  # of superblock version 3; in it, the end of the file
_SIGNATURE = b"\x89HDF\r\n\x1a\n\x03"


class ChunkFile:
    """The file ``path``, for the chunks of ``datasets``: of each one dimension of them, two at least, with a filter.

    They are numbered through, those of the second dataset behind those of the first.
    ``in_place``: datasets of one dimension that `put` writes to, contiguous and allocated. ``direct``: past the page
    cache, where the file system can.
    """

    def __init__(
        self, path: Path, datasets: Sequence[str], in_place: Sequence[str] = (), *, direct: bool = True
    ) -> None:
        indexes, self._places = _locate(path, datasets, in_place)
        self._fd = os.open(path, os.O_RDWR)
        self._data_fd = self._fd
        if direct:
            with suppress(OSError):  # a file system without it (tmpfs)
                self._data_fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        try:
            content = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
            if not content.startswith(_SIGNATURE):
                raise NotAsExpected(f"{path} has no superblock of version 3")
            self._superblock = content[:_SUPERBLOCK_BYTES]
            self._indexes = [ChunkIndex(self._fd, content, *found) for found in indexes]
            counts = [index.count for index in self._indexes]
            self._edges = np.cumsum([0, *counts])  # numbers at which a dataset begins, or the last one ends
            count = sum(counts)
            self.chunks = Chunks.none(count)
            self._parts = [self.chunks.part(*edges) for edges in pairwise(self._edges.tolist())]
            spare = len(content)
            nbytes = sum(index.nbytes for index in self._indexes)
            self.end = _aligned(spare + nbytes)  #: the next chunk's place
            self._lengthen(_aligned(self.end + _AHEAD_BYTES))
            for index, chunks in zip(self._indexes, self._parts):
                index.begin(spare, chunks)
                spare += index.nbytes
            #: of `put`, until the chunks that it tells of count
            self._waiting: list[tuple[int, bytes]] = []
            #: which chunks the file names since the last checkpoint, (n,) bool
            self.named = np.zeros(count, bool)
            self.checkpoint()
        except BaseException:
            self._close_files()
            raise

    @property
    def direct(self) -> bool:
        """Whether what is appended must be aligned (`ALIGNMENT`)."""
        return self._data_fd != self._fd

    def append(
        self, buffer: memoryview, starts: np.ndarray, sizes: np.ndarray, numbers: np.ndarray,
        skipped: np.ndarray,
    ) -> int:  # fmt: skip
        """Write all of ``buffer``; chunk ``numbers[i]`` is ``sizes[i]`` bytes of it from ``starts[i]`` on.

        Chunks of which the number is -1 are in the file and in no dataset. Returns where in the file it lies.
        The memory and its length must be aligned where the file is ``direct``. After an OSError the file has none of
        these bytes.
        """
        at = self.end
        try:
            write_at(self._data_fd, buffer, at)
        except OSError as error:
            if error.errno != errno.EINVAL or not self.direct:
                raise
            # The file system takes O_DIRECT, and does not do it.
            os.close(self._data_fd)
            self._data_fd = self._fd
            write_at(self._fd, buffer, at)
        named = numbers >= 0
        numbers = numbers[named]
        self.chunks.address[numbers] = starts[named] + at
        self.chunks.size[numbers] = sizes[named]
        self.chunks.skipped[numbers] = skipped[named]
        for index, first in zip(self._indexes, self._edges[:-1].tolist()):
            local = numbers - first
            index.touch(local[(local >= 0) & (local < index.count)])
        self.end = _aligned(at + len(buffer))
        return at

    def put(self, dataset: str, first: int, values: np.ndarray) -> None:
        """Write elements of a dataset in place, behind the next checkpoint: they may tell of chunks before it."""
        dtype, place = self._places[dataset]
        data = np.ascontiguousarray(values, dtype).tobytes()
        self._waiting.append((place + first * dtype.itemsize, data))

    def checkpoint(self) -> None:
        """What was appended and put so far is in the file from now on, whatever becomes of process or machine."""
        if self.end > self._stored_end:
            self._lengthen(_aligned(self.end + _AHEAD_BYTES))
        for index, chunks in zip(self._indexes, self._parts):
            index.write(chunks)
        os.fdatasync(self._fd)  # of a file, whichever descriptor wrote
        for index in self._indexes:
            index.name_written()
        os.fdatasync(self._fd)
        self.named = self.chunks.address != UNDEFINED
        for at, data in self._waiting:
            write_at(self._fd, data, at)
        self._waiting = []

    def close(self) -> None:
        """The last checkpoint, and the file has the length that it needs. Raises OSError."""
        try:
            self.checkpoint()
            self._write_superblock(self.end)
            os.fsync(self._fd)
            os.ftruncate(self._fd, self.end)
            os.fsync(self._fd)
        finally:
            self._close_files()

    def abandon(self) -> None:
        """Leave the file as of the last checkpoint; idempotent."""
        if self._fd >= 0:
            self._close_files()

    def _lengthen(self, end: int) -> None:
        """Make the file as long, on the disk, and then store that: libhdf5 opens no file that is shorter than it says.

        In large steps ahead of what is in it: a reader that opens the file just then finds it cut off.
        """
        if os.fstat(self._fd).st_size < end:
            os.ftruncate(self._fd, end)
        os.fdatasync(self._fd)
        self._write_superblock(end)
        os.fdatasync(self._fd)
        self._stored_end = end

    def _write_superblock(self, end: int) -> None:
        head = self._superblock[:_END_AT] + struct.pack("<Q", end) + self._superblock[_END_AT + 8 : -4]
        write_at(self._fd, head + checksum(head), 0)

    def _close_files(self) -> None:
        for fd in {self._fd, self._data_fd}:
            os.close(fd)
        self._fd = self._data_fd = -1


def make_index(dataset: h5py.Dataset) -> None:
    """Let libhdf5 make the index of a dataset of a template: by a first chunk, which is none."""
    dataset.id.write_direct_chunk((0,) * dataset.ndim, b"\0")


def _locate(
    path: Path, datasets: Sequence[str], in_place: Sequence[str]
) -> tuple[list[tuple[int, int]], dict[str, tuple[np.dtype, int]]]:
    """(place of the first chunk, number of chunks) of each dataset; dtype and place of those without chunks."""
    indexes = []
    with h5py.File(path, "r") as file:
        for dataset in datasets:
            frames = file[dataset]
            if frames.chunks is None or frames.chunks[1:] != frames.shape[1:] or frames.chunks[0] != 1:
                raise NotAsExpected(
                    f"{dataset} has chunks of {frames.chunks}; expected one along its first axis"
                )
            indexes.append((frames.id.get_chunk_info(0).byte_offset, frames.shape[0]))
        places = {name: (file[name].dtype, file[name].id.get_offset()) for name in in_place}
        if without := [name for name, (_, at) in places.items() if at is None]:
            raise NotAsExpected(f"{without[0]} is not contiguous")
        return indexes, places


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
