"""The chunk index of a dataset, written in place: where in the file each chunk lies.

In: the file as libhdf5 made and closed it. Out: the same file, naming other chunks. What is written is what the HDF5
File Format Specification 3.0 says of a Fixed Array (header ``FAHD``, data block ``FADB``, its pages). Nothing here
calls libhdf5, which would take ten times as long for a chunk, and leaves a file that does not open when it is killed.

The entries are held twice in the file. One copy is named by the header and is never written to; changes go to the
other, and then 28 bytes of the header name that one. So the file is valid at any moment, whatever becomes of the
process.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

import numpy as np
from numcodecs.jenkins import jenkins_lookup3

#: what HDF5 calls an undefined address: there is no such chunk, and readers get the fill value
UNDEFINED = 0xFFFFFFFFFFFFFFFF

_HEADER = struct.Struct(
    "<4sBBBBQQ"
)  # signature, version, client, bytes of an entry, page bits, entries, data block
_CHECKSUM = struct.Struct("<I")
_FILTERED_CHUNKS = 1  #: client: entries have address, size and filter mask
_ADDRESS_BYTES, _MASK_BYTES = 8, 4


class NotAsExpected(ValueError):
    """libhdf5 made the file otherwise than these modules know."""


def checksum(data: bytes) -> bytes:
    """The checksum of HDF5's metadata, Bob Jenkins' lookup3 (specification, "Checksum")."""
    return _CHECKSUM.pack(jenkins_lookup3(np.frombuffer(data, np.uint8), 0))


@dataclass
class Chunks:
    """Where the chunks of a dataset lie: ``(n,)`` each; `UNDEFINED` where there is none.

    ``skipped``: filters that did not make it, bit 0 for the first (HDF5's filter mask).
    """

    address: np.ndarray
    size: np.ndarray
    skipped: np.ndarray

    @classmethod
    def none(cls, n: int) -> Chunks:
        return cls(np.full(n, UNDEFINED, np.uint64), np.zeros(n, np.uint64), np.zeros(n, np.uint32))

    def part(self, first: int, end: int) -> Chunks:
        """Some of them; a view."""
        return Chunks(self.address[first:end], self.size[first:end], self.skipped[first:end])


class ChunkIndex:
    """The fixed array of the dataset whose first chunk lies at ``first_chunk``; ``content`` is all of the file.

    Raises NotAsExpected.
    """

    def __init__(self, fd: int, content: bytes, first_chunk: int, count: int) -> None:
        self._fd = fd
        self._at, entry_bytes, page_bits, block = _find(content, first_chunk, count)
        self.count = count
        self._size_bytes = entry_bytes - _ADDRESS_BYTES - _MASK_BYTES
        self._entry_bytes = entry_bytes
        self._head = content[self._at : self._at + _HEADER.size - 8]
        self.per_page = 1 << page_bits if count > 1 << page_bits else count  #: entries that share a checksum
        self.pages = -(-count // self.per_page)
        self._paged = self.pages > 1
        prefix = struct.pack("<4sBBQ", b"FADB", 0, _FILTERED_CHUNKS, self._at)
        if content[block : block + len(prefix)] != prefix:
            raise NotAsExpected("the fixed array has no data block where its header says")
        if self._paged:  # every page is said to be there
            bits = np.zeros(-(-self.pages // 8) * 8, np.uint8)
            bits[: self.pages] = 1
            prefix += np.packbits(bits).tobytes()
        self._prefix = prefix
        self._blocks = [block, 0]
        self._named = 0  # of the blocks, that which the header names
        self._dirty = [np.ones(self.pages, bool), np.ones(self.pages, bool)]

    @property
    def nbytes(self) -> int:
        """Of one copy."""
        checks = self.pages + 1 if self._paged else 1
        return len(self._prefix) + self.count * self._entry_bytes + checks * _CHECKSUM.size

    def begin(self, spare: int, chunks: Chunks) -> None:
        """Take ``nbytes`` from ``spare`` on for the second copy, and name it: from now on the file says ``chunks``."""
        self._blocks[1] = spare
        if self._paged:
            for block in self._blocks:
                write_at(self._fd, self._prefix + checksum(self._prefix), block)
        self.write(chunks)
        self.name_written()

    def touch(self, numbers: np.ndarray) -> None:
        """The entries ``numbers`` are others than before."""
        if not len(numbers):
            return
        pages = np.unique(numbers // self.per_page)
        for dirty in self._dirty:
            dirty[pages] = True

    def write(self, chunks: Chunks) -> None:
        """Bring the copy that nobody reads up to date."""
        other = 1 - self._named
        for page in np.flatnonzero(self._dirty[other]).tolist():
            rows = slice(page * self.per_page, min((page + 1) * self.per_page, self.count))
            body = self._entries(chunks, rows)
            at = self._blocks[other] + len(self._prefix)
            if self._paged:
                stride = self.per_page * self._entry_bytes + _CHECKSUM.size
                write_at(self._fd, body + checksum(body), at + _CHECKSUM.size + page * stride)
            else:
                write_at(self._fd, self._prefix + body + checksum(self._prefix + body), self._blocks[other])
        self._dirty[other][:] = False

    def name_written(self) -> None:
        """Let the header name the copy that `write` wrote."""
        self._named = 1 - self._named
        head = self._head + struct.pack("<Q", self._blocks[self._named])
        write_at(self._fd, head + checksum(head), self._at)

    def _entries(self, chunks: Chunks, rows: slice) -> bytes:
        n = rows.stop - rows.start
        out = np.zeros((n, self._entry_bytes), np.uint8)
        out[:, :_ADDRESS_BYTES] = _bytes_of(chunks.address[rows], "<u8")
        out[:, _ADDRESS_BYTES:-_MASK_BYTES] = _bytes_of(chunks.size[rows], "<u8")[:, : self._size_bytes]
        out[:, -_MASK_BYTES:] = _bytes_of(chunks.skipped[rows], "<u4")
        return out.tobytes()


def _bytes_of(values: np.ndarray, dtype: str) -> np.ndarray:
    """(n, bytes of dtype)"""
    return np.ascontiguousarray(values, dtype).view(np.uint8).reshape(len(values), -1)


def _find(content: bytes, first_chunk: int, count: int) -> tuple[int, int, int, int]:
    """(place of the header, bytes of an entry, page bits, place of the data block)"""
    at = content.find(b"FAHD")
    while at >= 0:
        head = content[at : at + _HEADER.size]
        if checksum(head) == content[at + _HEADER.size : at + _HEADER.size + _CHECKSUM.size]:
            _, version, client, entry_bytes, page_bits, entries, block = _HEADER.unpack(head)
            pages = -(-count // (1 << page_bits)) if count > 1 << page_bits else 0
            first = block + 14 + (-(-pages // 8) + _CHECKSUM.size if pages else 0)
            if (version, client, entries) == (0, _FILTERED_CHUNKS, count) and content[
                first : first + 8
            ] == struct.pack("<Q", first_chunk):
                return at, entry_bytes, page_bits, block
        at = content.find(b"FAHD", at + 4)
    raise NotAsExpected("the file has no fixed array of filtered chunks for the dataset")


def write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of it. Raises OSError."""
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], at + written)
