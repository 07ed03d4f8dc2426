"""What a frame must look like, and the names for everything that can be wrong with one.

:class:`FrameFormat` is taken from the stream's own messages. Status codes are negative and none of those
of ``stream.batch``, so that one column can hold both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

from live4d_ophyd.frames.encoded_array import array_tag
from live4d_ophyd.frames.memory import NOGIL, load_i64_be, load_u32_be


@dataclass(frozen=True)
class FrameFormat:
    """Shape and dtype of every frame of a series, as its messages say."""

    rows: int
    cols: int
    dtype: np.dtype
    tag: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"frame of {self.rows} x {self.cols} px: expected at least one pixel")
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        object.__setattr__(self, "tag", array_tag(self.dtype))

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.cols

    @property
    def pixels(self) -> int:
        return self.rows * self.cols

    @property
    def nbytes(self) -> int:
        return self.pixels * self.dtype.itemsize


OK = 0
NOT_AN_IMAGE = -101
WRONG_SHAPE = -102
WRONG_DTYPE = -103
OUTSIDE_BUFFER = -104
BLOB_TOO_SHORT = -105
WRONG_TOTAL = -106
BAD_BLOCK_SIZE = -107
BLOCK_TRUNCATED = -108
BAD_LZ4 = -109
SHORT_BLOCK = -110
LEFT_OVER = -111
WRONG_LENGTH = -112
BAD_ELEM_SIZE = -113
UNKNOWN_ALGORITHM = -114
NEEDS_VENDOR = -115
VENDOR_REFUSED = -116
UNREADABLE = -117
BAD_ZSTD = -118
NOT_ON_GPU = -119
MANY_LAYOUTS = -120

_REASONS = {
    OK: "decoded",
    NOT_AN_IMAGE: "the message is no image",
    WRONG_SHAPE: "the frame's shape differs from the series' first frame",
    WRONG_DTYPE: "the frame's dtype differs from the series' first frame",
    OUTSIDE_BUFFER: "the index places the frame outside the message buffer",
    BLOB_TOO_SHORT: "compressed data shorter than its 12-byte header",
    WRONG_TOTAL: "the header's size is not rows x cols x itemsize",
    BAD_BLOCK_SIZE: "the block size is zero, above 2 GiB or no multiple of 8 elements",
    BLOCK_TRUNCATED: "the data ends inside a block",
    BAD_LZ4: "a block is no valid LZ4",
    SHORT_BLOCK: "a block decodes to fewer bytes than it must hold",
    LEFT_OVER: "the bytes after the last block are not the leftover pixels",
    WRONG_LENGTH: "uncompressed data is not rows x cols x itemsize bytes",
    BAD_ELEM_SIZE: "the element size of the compression is zero or does not divide the frame",
    UNKNOWN_ALGORITHM: "unknown compression algorithm",
    NEEDS_VENDOR: "needs the package dectris-compression: pip install live4d-ophyd[vendor]",
    VENDOR_REFUSED: "dectris-compression refuses the data",
    UNREADABLE: "the message cannot be read again",
    BAD_ZSTD: "a block is no valid Zstandard",
    NOT_ON_GPU: "the algorithm (trpx) has no GPU decoder: use engine='cpu' with dectris-compression",
    MANY_LAYOUTS: "the frames that came with it are compressed in too many ways for a GPU: use engine='cpu'",
}  # fmt: skip


class DecodeError(ValueError):
    """An array cannot be decoded; ``status`` is the code."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(describe_status(status) + (f" ({detail})" if detail else ""))
        self.status = status


def describe_status(code: int) -> str:
    """Why a frame gave no number, for a person."""
    return _REASONS.get(int(code), f"unknown status {int(code)}")


@njit(**NOGIL)
def block_bytes(blob, length, total, granule):
    """Block size of a compressed array from its header, or a negative status.

    ``total`` is what the format says the array holds; ``granule`` what a block must be a multiple of:
    8 elements for bslz4, 1 byte for lz4. Bounds are the reference decoder's: positive and below 2^31.
    """
    if length < 12:
        return BLOB_TOO_SHORT
    if load_i64_be(blob) != total:
        return WRONG_TOTAL
    size = load_u32_be(blob + 8)
    if size == 0 or size >= 1 << 31 or size % granule != 0:
        return BAD_BLOCK_SIZE
    return size
