"""How compressed frames are cut into blocks, and which blocks a decoder on a GPU needs: plain values, no GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from live4d_ophyd.frames.batch import (
    ALGORITHM,
    BLOB_LENGTH,
    BLOB_OFFSET,
    ELEM_SIZE,
    FrameBatch,
)
from live4d_ophyd.frames.codecs import BY_NAME, ELEM_SIZES, name_of
from live4d_ophyd.frames.status import (
    BAD_BLOCK_SIZE,
    BAD_ELEM_SIZE,
    BLOB_TOO_SHORT,
    BLOCK_TRUNCATED,
    NOT_ON_GPU,
    OUTSIDE_BUFFER,
    UNKNOWN_ALGORITHM,
)

#: nvCOMP un-shuffles in pieces of this size: larger blocks take a kernel of our own
NVCOMP_SHUFFLED_BLOCK = 8192


@dataclass(frozen=True)
class Layout:
    """How a frame is cut and compressed. Sizes in bytes.

    ``total`` bytes lie in blocks of ``block``, the last one shorter, each a multiple of ``granule``; what is left
    over, less than a granule, is raw.
    """

    algorithm: int  #: as in FrameBatch.index
    name: str  #: "" for uncompressed frames, which are one stored block
    elem_size: int
    total: int
    block: int
    granule: int

    @property
    def in_blocks(self) -> int:
        """Bytes in blocks."""
        return self.total - self.total % self.granule

    @property
    def blocks(self) -> int:
        return -(-self.in_blocks // self.block)

    @property
    def shuffled(self) -> bool:
        return BY_NAME[self.name].shuffled

    @property
    def nvcomp_unshuffles(self) -> bool:
        return self.name == "bslz4" and self.block <= NVCOMP_SHUFFLED_BLOCK and self.elem_size in (1, 2, 4)

    @property
    def may_be_stored(self) -> bool:
        """Whether a block can be stored instead of compressed."""
        return self.name in ("lz4", "")


def find_layout(batch: FrameBatch, entry: int, total: int) -> Layout | int:
    """Layout of one frame of ``total`` bytes, or the status that says why it has none for a GPU."""
    index = batch.index[entry]
    offset, length, elem_size = int(index[BLOB_OFFSET]), int(index[BLOB_LENGTH]), int(index[ELEM_SIZE])
    if offset < 0 or length < 0 or offset + length > len(batch.buffer):
        return OUTSIDE_BUFFER
    algorithm = int(index[ALGORITHM])
    name = name_of(algorithm)
    if name is None:
        return UNKNOWN_ALGORITHM
    if name == "":
        return Layout(algorithm, name, elem_size, total, total, 1)
    codec = BY_NAME[name]
    if not codec.gpu:
        return NOT_ON_GPU
    if length < 12:
        return BLOB_TOO_SHORT
    block = int.from_bytes(batch.buffer[offset + 8 : offset + 12].tobytes(), "big")
    granule = 1
    if codec.shuffled:
        if elem_size not in ELEM_SIZES:
            return BAD_ELEM_SIZE
        granule = 8 * elem_size
    if block == 0 or block >= 1 << 31 or block % granule:
        return BAD_BLOCK_SIZE
    layout = Layout(algorithm, name, elem_size, total, block, granule)
    # A block has four bytes in front and at least one inside: memory is made for no more of them than can be there.
    return BLOCK_TRUNCATED if length - 12 < 5 * layout.blocks else layout


@dataclass(frozen=True)
class Selection:
    """Blocks of a frame that are decoded, back to back, and then its raw bytes if they are wanted."""

    place: np.ndarray  #: (blocks,) int32: which of the wanted blocks each is, -1 for the others
    count: int  #: blocks wanted
    block_bytes: int  #: bytes of the wanted blocks
    leftover_at: int  #: where the raw bytes go, -1: nobody wants them
    nbytes: int  #: bytes of all that is wanted
    pixels: np.ndarray  #: (n,) int64: the pixels that these bytes are

    @property
    def stride(self) -> int:
        """Bytes from frame to frame: a multiple of what kernels read at a time."""
        return max(64, -(-self.nbytes // 64) * 64)


def select_blocks(layout: Layout, itemsize: int, touched: np.ndarray | None) -> Selection:
    """What of a frame must be decoded for the ``touched`` pixels, (pixels,) bool; None: all of it."""
    blocks, leftover = layout.blocks, layout.total - layout.in_blocks
    # A block that does not begin with a pixel would leave the pixels behind it out of line.
    if touched is None or layout.block % itemsize or not layout.name:
        wanted = np.full(blocks, touched is None or bool(touched.any()))
    else:
        starts = np.arange(blocks) * (layout.block // itemsize)
        prefix = np.concatenate([[0], np.cumsum(touched)])
        ends = np.minimum(starts + layout.block // itemsize, layout.in_blocks // itemsize)
        wanted = prefix[ends] > prefix[starts]
    first_raw = layout.in_blocks // itemsize
    wants_leftover = bool(leftover) and (touched is None or bool(touched[first_raw:].any()))
    if wanted.all():
        block_bytes = layout.in_blocks
    else:
        block_bytes = int(wanted.sum()) * layout.block
        if wanted[-1]:
            block_bytes -= blocks * layout.block - layout.in_blocks
    place = np.where(wanted, np.cumsum(wanted) - 1, -1).astype(np.int32)
    where = np.flatnonzero(wanted)
    if wanted.all():
        pixels = np.arange(first_raw)
    else:
        per_block = layout.block // itemsize
        pixels = (where[:, None] * per_block + np.arange(per_block)).reshape(-1)
        pixels = pixels[pixels < first_raw]
    if wants_leftover:
        pixels = np.concatenate([pixels, np.arange(first_raw, layout.total // itemsize)])
    return Selection(
        place=place,
        count=len(where),
        block_bytes=block_bytes,
        leftover_at=block_bytes if wants_leftover else -1,
        nbytes=block_bytes + (leftover if wants_leftover else 0),
        pixels=pixels,
    )
