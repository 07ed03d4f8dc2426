"""SeriesInfo: what a series says of itself, and what was made of its pixels. For the record; plain values."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from live4d_ophyd.engine import checks


@dataclass(frozen=True)
class SeriesInfo:
    """What a series says of itself, and what was made of its pixels. NaN and "": it does not say."""

    unique_id: str = ""
    channel: str = ""  #: whose pixels were summed
    detector: str = ""  #: description and serial number
    energy: float = math.nan  #: of the electrons, eV
    threshold: float = math.nan  #: of the channel, eV
    count_time: float = math.nan  #: exposure of an image, s
    frame_time: float = math.nan  #: from image to image, s
    saturation: float = math.nan  #: pixels at or above hold no count; NaN: every value is a count
    pixels_masked: int = 0  #: that no sum takes in
    pixel_mask: str = ""  #: `digest` of the mask that was applied, the detector's and the user's; "": none
    detector_mask: str = ""  #: `digest` of the mask that came with the series; "": none came

    @classmethod
    def from_dict(cls, values: Any) -> SeriesInfo:
        """From its form on the wire. Raises ValueError that names the field that is missing, unknown or wrong."""
        kinds = {"str": checks.TEXT, "float": checks.NUMBER, "int": checks.COUNT}
        return cls(**checks.checked_fields(values, {f.name: kinds[str(f.type)] for f in fields(cls)}))


def digest(array: np.ndarray) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of an array's dtype, shape and C-ordered bytes.

    Tells masks and gains apart in records that are too small for the arrays. Masks are taken as bool.
    """
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
