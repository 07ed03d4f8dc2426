"""Why a frame is bad, with the values it is bad for."""

from __future__ import annotations

import numpy as np

from live4d_ophyd.decode import FrameFormat, describe_status
from live4d_ophyd.engine.frame_format import announced_in_words, formats_of, in_words
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.frames.status import (
    NEEDS_VENDOR,
    NOT_ON_GPU,
    UNKNOWN_ALGORITHM,
    VENDOR_REFUSED,
    WRONG_DTYPE,
    WRONG_SHAPE,
)
from live4d_ophyd.sources.source import SeriesSource


def why_bad(status: int, batch: FrameBatch, row: int, frame: FrameFormat, source: SeriesSource) -> str:
    """The decoder's ``status`` of one frame in words; ``frame`` is the format of the series."""
    if status in (WRONG_SHAPE, WRONG_DTYPE):
        (found,) = formats_of(batch, np.array([row]))
        announced = announced_in_words(source.header)
        says = f", the start message announces {announced}" if announced else ""
        return f"the frame is {in_words(found)}, the others are {in_words(frame)}{says}"
    if status in (UNKNOWN_ALGORITHM, NEEDS_VENDOR, VENDOR_REFUSED, NOT_ON_GPU):
        return (
            f"{describe_status(status)}: {source.algorithm_of(batch, row) or 'its name cannot be read again'}"
        )
    return describe_status(status)
