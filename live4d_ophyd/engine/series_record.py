"""SeriesRecord: what a series says of itself, and what was made of its pixels. For the record; plain values."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import dataclass

import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.decode import FrameFormat, Saturation, decode_array
from live4d_ophyd.sources.source import SeriesHeader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SeriesRecord:
    """What a series says of itself, and what was made of its pixels. NaN and "": it does not say."""

    unique_id: str = ""
    channel: str = ""  #: whose pixels were summed
    detector: str = ""  #: description and serial number
    energy: float = math.nan  #: of the electrons, eV
    threshold: float = math.nan  #: of the channel, eV
    count_time: float = math.nan  #: exposure of a frame, s
    frame_time: float = math.nan  #: from frame to frame, s
    saturation: float = math.nan  #: pixels at or above hold no count; NaN: every value is a count
    pixels_masked: int = 0  #: that no sum takes in
    pixel_mask: str = ""  #: `digest` of the mask that was applied, the detector's and the user's; "": none
    detector_mask: str = ""  #: `digest` of the mask that came with the series; "": none came
    pixels_spread: int = 0  #: of the masked, pixels whose weight their good neighbours have

    def __post_init__(self) -> None:
        for name in ("pixels_masked", "pixels_spread"):
            checks.count(name, getattr(self, name))


def digest(array: np.ndarray) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of an array's dtype, shape and C-ordered bytes.

    Tells masks and gains apart in records that are too small for the arrays. Masks are taken as bool.
    """
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def describe(
    header: SeriesHeader | None,
    channel: str,
    frame: FrameFormat,
    saturation: Saturation,
    mask: np.ndarray | None,
    detectors_mask: np.ndarray | None,
    pixels_spread: int = 0,
) -> SeriesRecord:
    """What ``header`` says, and what was made of the pixels of ``channel``.

    Masks are (q_y, q_x) bool: the one applied, and the detector's own. ``pixels_spread``: as of `SeriesRecord`.
    """
    said = ("unique_id", "detector", "energy", "threshold", "count_time", "frame_time")
    known = {} if header is None else {name: getattr(header, name) for name in said}
    limit = saturation.limit(frame.dtype)
    return SeriesRecord(
        **{name: value for name, value in known.items() if value is not None},
        channel=channel,
        saturation=math.nan if limit is None else float(limit),
        pixels_masked=0 if mask is None else int(np.count_nonzero(mask)),
        pixels_spread=pixels_spread,
        pixel_mask="" if mask is None else digest(mask),
        detector_mask="" if detectors_mask is None else digest(detectors_mask),
    )


def saturation_value(header: SeriesHeader | None) -> int | None:
    """The count at which the detector calls a pixel saturated; None where it does not say.

    Where it names none, the largest count that its countrate correction gives: the end of the table.
    """
    if header is None or header.saturation:
        return None if header is None else header.saturation
    if header.count_table is None:
        return None
    try:
        counts = decode_array(header.count_table)
    except ValueError as error:
        log.warning("series %d: the countrate correction table is not used: %s", header.key[0], error)
        return None
    # Corrected counts are never below the measured ones; placeholders of two entries, and factors, are no such table.
    table_of_counts = counts.dtype.kind == "u" and len(counts) > 2 and counts[-1] >= len(counts) - 1
    return int(counts[-1]) if table_of_counts and bool((counts[1:] >= counts[:-1]).all()) else None
