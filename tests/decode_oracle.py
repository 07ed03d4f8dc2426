"""The plain reference: bslz4 and lz4 arrays written and read by NumPy and byte loops, and batches of them."""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import NamedTuple

import lz4.block
import numpy as np

from live4d_ophyd.decode import Demand
from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    ELEM_SIZE,
    IMAGE,
    ROWS,
    STATUS,
    FrameBatch,
)
from live4d_ophyd.frames.codecs import BSLZ4
from live4d_ophyd.frames.encoded_array import array_tag


def shuffle(elements: np.ndarray) -> bytes:
    """Bit planes of a multiple of 8 elements."""
    bits = np.unpackbits(elements.view(np.uint8).reshape(len(elements), -1), axis=1, bitorder="little")
    return np.packbits(bits.T, axis=1, bitorder="little").tobytes()


def unshuffle(planes: bytes, elem_size: int) -> bytes:
    bits = np.unpackbits(np.frombuffer(planes, np.uint8), bitorder="little").reshape(8 * elem_size, -1)
    return np.packbits(bits.T, bitorder="little").tobytes()


def bslz4(pixels: np.ndarray, block: int = 8192, elem_size: int | None = None) -> bytes:
    raw = np.ascontiguousarray(pixels).tobytes()
    elem_size = elem_size or pixels.dtype.itemsize
    granule = 8 * elem_size
    out = [struct.pack(">QI", len(raw), block)]
    at = 0
    while len(raw) - at >= granule:
        size = min(len(raw) - at, block)
        size -= size % granule
        elements = np.frombuffer(raw[at : at + size], np.uint8).reshape(-1, elem_size)
        data = lz4.block.compress(shuffle(elements), store_size=False)
        out.append(struct.pack(">I", len(data)) + data)
        at += size
    return b"".join(out) + raw[at:]


def lz4_blocks(pixels: np.ndarray, block: int = 8192) -> bytes:
    raw = np.ascontiguousarray(pixels).tobytes()
    out = [struct.pack(">QI", len(raw), block)]
    for at in range(0, len(raw), block):
        part = raw[at : at + block]
        data = lz4.block.compress(part, store_size=False)
        data = data if len(data) < len(part) else part
        out.append(struct.pack(">I", len(data)) + data)
    return b"".join(out)


def lz4_reference(data: bytes) -> bytes:
    """One LZ4 block, a byte at a time; ValueError or IndexError where it is broken."""
    out = bytearray()
    at = 0
    while True:
        token = data[at]
        at += 1
        literals, match = token >> 4, (token & 15) + 4
        if literals == 15:
            while data[at] == 255:
                literals += 255
                at += 1
            literals += data[at]
            at += 1
        if at + literals > len(data):
            raise ValueError("literals")
        out += data[at : at + literals]
        at += literals
        if at == len(data):
            return bytes(out)
        offset = data[at] + 256 * data[at + 1]
        at += 2
        if not 0 < offset <= len(out):
            raise ValueError("offset")
        if match == 19:
            while data[at] == 255:
                match += 255
                at += 1
            match += data[at]
            at += 1
        for _ in range(match):
            out.append(out[-offset])


def decode_bslz4(blob: bytes, elem_size: int) -> bytes:
    total, block = struct.unpack(">QI", blob[:12])
    at, out = 12, b""
    while total - len(out) >= 8 * elem_size:
        size = min(total - len(out), block) // (8 * elem_size) * 8 * elem_size
        (length,) = struct.unpack(">I", blob[at : at + 4])
        planes = lz4_reference(blob[at + 4 : at + 4 + length])
        assert len(planes) == size
        out += unshuffle(planes, elem_size)
        at += 4 + length
    return out + blob[at:]


def batch_of(
    blobs: list[bytes], shape: tuple[int, int], dtype, algorithm: int = BSLZ4, elem_size=None
) -> FrameBatch:
    """Batch whose messages are nothing but array contents, indexed as the envelope parser would."""
    dtype = np.dtype(dtype)
    batch = FrameBatch.from_messages(blobs)
    index = batch.index[: batch.count]
    index[:, STATUS] = IMAGE
    index[:, BLOB_OFFSET], index[:, BLOB_LENGTH] = index[:, 0], index[:, 1]
    index[:, ROWS], index[:, COLS] = shape
    index[:, ARRAY_TAG] = array_tag(dtype)
    index[:, ALGORITHM] = algorithm
    index[:, ELEM_SIZE] = dtype.itemsize if elem_size is None else elem_size
    return batch


def masked_sums(frames: np.ndarray, maps: np.ndarray, nodata: bool = True) -> np.ndarray:
    """What `project` must give, with Python's own integers for integer weights."""
    good = frames != np.iinfo(frames.dtype).max if nodata else np.ones(frames.shape, bool)
    kind = np.int64 if maps.dtype.kind in "iu" else np.float64
    counts = np.where(good, frames, 0).astype(kind).reshape(len(frames), -1)
    return np.stack([(counts * m.reshape(-1).astype(kind)).sum(axis=1) for m in maps], axis=1)


def guarded(pages: int) -> np.ndarray:
    """``pages * 4096`` bytes that a page without access follows."""
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = start + pages * mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return np.frombuffer(memory, np.uint8)[: pages * mmap.PAGESIZE]


class Projected(NamedTuple):
    sums: np.ndarray  #: (n, maps)
    status: np.ndarray  #: (n,)
    saturated: np.ndarray  #: (n, maps)


def project_all(decoder, batch, weights, entries=None):
    """What becomes of a batch's frames under weight maps, on the host."""
    return all_parts(decoder, batch, weights, entries, decoder.submit(batch, entries, Demand(weights)))


def all_parts(decoder, batch, weights, entries, decoded):
    """All parts of what was submitted, as one."""
    n = int((batch.status == IMAGE).sum()) if entries is None else len(entries)
    sums = np.zeros((n, len(weights)), weights.sums_of(decoder.format))
    status, saturated = np.full(n, 99), np.zeros(sums.shape, bool)
    for part in decoded.parts():
        status[part.at] = part.status
        sums[part.at], saturated[part.at] = on_host(part.sums), on_host(part.saturated)
        np.testing.assert_array_equal(part.flagged, saturated[part.at].any(axis=1))
    return Projected(sums, status, saturated)


def project(decoder, batch, weights, entries=None):
    """Sums and statuses."""
    return project_all(decoder, batch, weights, entries)[:2]


def patterns_of(decoder, batch, entries=None):
    """Patterns (n, rows, cols) and statuses of a batch's frames, on the host."""
    decoded = decoder.submit(batch, entries, Demand(None, patterns=True))
    n = int((batch.status == IMAGE).sum()) if entries is None else len(entries)
    patterns, status = np.zeros((n, *decoder.format.shape), decoder.format.dtype), np.full(n, 99)
    for part in decoded.parts():
        patterns[part.at], status[part.at] = on_host(part.patterns), part.status
    return patterns, status


def on_host(array):
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()
