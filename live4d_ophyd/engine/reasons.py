"""Why a frame is bad, with the values it is bad for."""

from __future__ import annotations

import numpy as np

from live4d_ophyd.decode import FrameFormat, describe_status
from live4d_ophyd.engine.frame_format import announced_in_words, formats_of, in_words
from live4d_ophyd.frames.batch import ALGORITHM, BLOB_LENGTH, COLS, ROWS, FrameBatch
from live4d_ophyd.frames.codecs import OTHER_ALGORITHM
from live4d_ophyd.frames.status import (
    NEEDS_VENDOR,
    NOT_ON_GPU,
    UNKNOWN_ALGORITHM,
    VENDOR_REFUSED,
    WRONG_DTYPE,
    WRONG_SHAPE,
)
from live4d_ophyd.sources.source import SeriesSource


def why_bad(status: int, batch: FrameBatch, entry: int, frame: FrameFormat, source: SeriesSource) -> str:
    """The decoder's ``status`` of one frame in words; ``frame`` is the format of the series."""
    if status in (WRONG_SHAPE, WRONG_DTYPE):
        (found,) = formats_of(batch, np.array([entry]))
        announced = announced_in_words(source.header)
        says = f", the start message announces {announced}" if announced else ""
        return f"the frame is {in_words(found)}, the others are {in_words(frame)}{says}"
    if status in (UNKNOWN_ALGORITHM, NEEDS_VENDOR, VENDOR_REFUSED, NOT_ON_GPU):
        return _with_algorithm(status, batch, entry, source)
    return describe_status(status)


def why_implausible(batch: FrameBatch, entry: int, source: SeriesSource) -> str:
    """Why a frame cannot be as large as it claims (`plausible`)."""
    if batch.index[entry, ALGORITHM] == OTHER_ALGORITHM:
        return _with_algorithm(UNKNOWN_ALGORITHM, batch, entry, source)
    rows, cols, length = batch.index[entry, [ROWS, COLS, BLOB_LENGTH]].tolist()
    return f"its {length} bytes cannot be {rows} x {cols} px"


def _with_algorithm(status: int, batch: FrameBatch, entry: int, source: SeriesSource) -> str:
    return (
        f"{describe_status(status)}: {source.algorithm_of(batch, entry) or 'its name cannot be read again'}"
    )
