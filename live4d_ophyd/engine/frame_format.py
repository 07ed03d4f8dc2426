"""What the frames of a series look like, by its start message and by the frames themselves.

Every frame names its own shape and dtype, and is compressed accordingly: where all frames agree with each other, they
are right, whatever `start` says. Where they do not agree, those that `start` announces are right.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from live4d_ophyd.decode import FrameFormat
from live4d_ophyd.frames.batch import ALGORITHM, ARRAY_TAG, BLOB_LENGTH, COLS, ROWS, FrameBatch
from live4d_ophyd.frames.codecs import MOST
from live4d_ophyd.frames.encoded_array import FIRST_TAG, dtype_of_tag, item_bytes
from live4d_ophyd.sources.source import SeriesHeader

#: frames up to this size are believed, and prepared for, before one of them came, px
BELIEVED_PIXELS = 1 << 23
_MOST = np.array(MOST, np.int64)
_ITEM_BYTES = item_bytes()


def plausible(batch: FrameBatch, entries: np.ndarray) -> np.ndarray:
    """(n,) bool: which of these frames have as much content as the size that they claim needs, at the least.

    28 bytes may claim to be 2^26 pixels, and what is made for frames of that size takes gigabytes.
    """
    index = batch.index[entries]
    size = index[:, ROWS] * index[:, COLS] * _ITEM_BYTES[index[:, ARRAY_TAG] - FIRST_TAG]
    return size <= _MOST[index[:, ALGORITHM]] * index[:, BLOB_LENGTH]


def formats_of(batch: FrameBatch, entries: np.ndarray) -> Counter[FrameFormat]:
    """The formats that these frames name, and how many name each; in the order in which they come first."""
    named = batch.index[entries][:, [ROWS, COLS, ARRAY_TAG]]
    _, first, counts = np.unique(named, axis=0, return_index=True, return_counts=True)
    found: Counter[FrameFormat] = Counter()
    for n in np.argsort(first):
        height, width, tag = named[first[n]].tolist()
        found[FrameFormat(height, width, dtype_of_tag(tag))] += int(counts[n])
    return found


def agrees(header: SeriesHeader | None, frame: FrameFormat) -> bool:
    """Whether `start` says nothing else of the frames; it does not name a byte order."""
    if header is None:
        return True
    shape = (header.rows or frame.rows, header.cols or frame.cols)
    dtype = frame.dtype.newbyteorder("=") if header.dtype is None else header.dtype
    return frame.shape == shape and frame.dtype.newbyteorder("=") == dtype


def choose_format(
    header: SeriesHeader | None, found: Counter[FrameFormat], all_there: bool
) -> FrameFormat | None:
    """The format of the series, ``found`` counting those of its first frames; None: one frame more must tell.

    A single frame that contradicts `start` may be the odd one; with ``all_there`` no other comes.
    """
    announced = Counter({frame: count for frame, count in found.items() if agrees(header, frame)})
    frame, count = (announced or found).most_common(1)[0]
    return frame if announced or count > 1 or all_there else None


def in_words(frame: FrameFormat) -> str:
    order = "big-endian " if frame.dtype.byteorder == ">" else ""
    return f"{frame.rows} x {frame.cols} px of {order}{frame.dtype.name}"


def announced_in_words(header: SeriesHeader | None) -> str:
    """What `start` says of the frames; "" if it says nothing."""
    parts = []
    if header is not None and header.rows and header.cols:
        parts.append(f"{header.rows} x {header.cols} px")
    if header is not None and header.dtype is not None:
        parts.append(header.dtype.name)
    return " of ".join(parts)
