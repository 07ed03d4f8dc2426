"""Status: the names for everything that can be wrong with a frame, or why it has no numbers.

Codes are negative and none of those of `batch`, so that one column can hold both.
"""

from __future__ import annotations

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
    BAD_ZSTD: "a block is no valid Zstandard",
    NOT_ON_GPU: "the algorithm (trpx) has no GPU decoder: use backend='cpu' with dectris-compression",
    MANY_LAYOUTS: "the frames that came with it are compressed in too many ways for a GPU: use backend='cpu'",
}  # fmt: skip


class DecodeError(ValueError):
    """An array cannot be decoded; ``status`` is the code."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(describe_status(status) + (f" ({detail})" if detail else ""))
        self.status = status


def describe_status(code: int) -> str:
    """Why a frame gave no number, for a person."""
    return _REASONS.get(int(code), f"unknown status {int(code)}")
