"""Stream v2 messages as a DCU writes them: start, image and end, byte for byte in the order of real captures.

In: what a series is (:class:`Series`, :class:`Header`). Out: message bytes; of image messages the parts that repeat
(:class:`ImageTemplate`), which a sender puts before the pixels (payloads.py). Plain Python, any thread.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import cbor2
import numpy as np

SELF_DESCRIBED = 55799
MULTI_DIM_ARRAY, DECTRIS_COMPRESSION = 40, 56500
TYPED_ARRAY_TAGS = {"uint8": 64, "uint16": 69, "uint32": 70, "float32": 85}

#: times of frames are rationals ``[n, TICKS_PER_S]``
TICKS_PER_S = 50_000_000

HEADER_DETAILS = ("none", "basic", "all")

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_unique_id() -> str:
    """ULID: 26 characters, 48 bits of milliseconds and 80 random bits."""
    number = int(time.time() * 1000) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def timestamp() -> str:
    """Now, as the stream's dates are written: milliseconds and the offset of the local time zone."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Series:
    """What every message of one series repeats."""

    series_id: int
    unique_id: str = field(default_factory=new_unique_id)
    #: ISO 8601, of arming
    date: str = field(default_factory=timestamp)


@dataclass(frozen=True)
class Header:
    """Content of a start message. Energies in eV, lengths in m, times in s as SIMPLON has them."""

    rows: int
    cols: int
    dtype: str
    channels: tuple[str, ...] = ("threshold_1",)
    number_of_images: int = 1
    count_time: float = 1 / 30e3
    frame_time: float = 1 / 30e3
    #: (x, y) px
    beam_center: tuple[float, float] = (0.0, 0.0)
    incident_energy: float = 100e3
    #: angstrom
    incident_wavelength: float = 0.037014
    description: str = "live4d simulated detector"
    serial_number: str = "S-00-0001"
    pixel_size: float = 100e-6
    sensor_material: str = "Si"
    sensor_thickness: float = 450e-6
    saturation_value: int = 65534
    threshold_energy: tuple[tuple[str, float], ...] = (("threshold_1", 50e3),)
    countrate_correction_enabled: bool = False
    flatfield_enabled: bool = False
    pixel_mask_enabled: bool = True
    virtual_pixel_interpolation_enabled: bool = False
    #: header_appendix
    user_data: Any = None
    #: the bits of SIMPLON's pixel mask, ``(rows, cols) uint32``
    pixel_mask: np.ndarray | None = None


def tagged_array(array: np.ndarray) -> cbor2.CBORTag:
    """An uncompressed array as tag 40 with a typed array inside."""
    typed = cbor2.CBORTag(TYPED_ARRAY_TAGS[str(array.dtype)], np.ascontiguousarray(array).tobytes())
    return cbor2.CBORTag(MULTI_DIM_ARRAY, [list(array.shape), typed])


def _message(content: dict[str, Any]) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, content))


def start_message(series: Series, header: Header, detail: str = "basic") -> bytes:
    """Start message. ``detail``: ``none`` names the series, ``basic`` has no tables, flat fields, masks."""
    if detail not in HEADER_DETAILS:
        raise ValueError(f"header_detail is {detail!r}; expected one of {', '.join(HEADER_DETAILS)}")
    content: dict[str, Any] = {
        "type": "start",
        "series_id": series.series_id,
        "series_unique_id": series.unique_id,
    }
    if detail == "none":
        return _message(content | {"user_data": header.user_data})
    h = header
    axis = {"increment": 0.0, "start": 0.0}
    content |= {
        "arm_date": cbor2.CBORTag(0, series.date),
        "beam_center_x": float(h.beam_center[0]),
        "beam_center_y": float(h.beam_center[1]),
        "channels": list(h.channels),
        "count_time": float(h.count_time),
        "countrate_correction_enabled": h.countrate_correction_enabled,
        "countrate_correction_lookup_table": cbor2.CBORTag(70, np.arange(2, dtype="<u4").tobytes()),
        "detector_description": h.description,
        "detector_serial_number": h.serial_number,
        "detector_translation": [0.0, 0.0, 0.0],
        "flatfield": {c: tagged_array(np.ones((h.rows, h.cols), "<f4")) for c in h.channels},
        "flatfield_enabled": h.flatfield_enabled,
        "frame_time": float(h.frame_time),
        "goniometer": {name: dict(axis) for name in ("chi", "omega", "phi")},
        "image_dtype": h.dtype,
        "image_size_x": h.cols,
        "image_size_y": h.rows,
        "incident_energy": float(h.incident_energy),
        "incident_wavelength": float(h.incident_wavelength),
        "number_of_images": h.number_of_images,
        "pixel_mask": {c: tagged_array(_mask(h)) for c in h.channels},
        "pixel_mask_enabled": h.pixel_mask_enabled,
        "pixel_size_x": float(h.pixel_size),
        "pixel_size_y": float(h.pixel_size),
        "saturation_value": h.saturation_value,
        "sensor_material": h.sensor_material,
        "sensor_thickness": float(h.sensor_thickness),
        "threshold_energy": dict(h.threshold_energy),
        "user_data": h.user_data,
        "virtual_pixel_interpolation_enabled": h.virtual_pixel_interpolation_enabled,
    }
    if detail == "basic":
        for name in ("countrate_correction_lookup_table", "flatfield", "pixel_mask"):
            del content[name]
    return _message(content)


def _mask(header: Header) -> np.ndarray:
    if header.pixel_mask is None:
        return np.zeros((header.rows, header.cols), "<u4")
    return header.pixel_mask.astype("<u4")


def end_message(series: Series) -> bytes:
    """End message."""
    content = {"type": "end", "series_id": series.series_id, "series_unique_id": series.unique_id}
    return _message(content)


class ImageTemplate:
    """What the image messages of a series share: four constant parts around three integers, then the pixels.

    ``parts[0] image_id parts[1] start_time parts[2] stop_time parts[3] payload``. ``user_data``
    (image_appendix) is left out when None, as real detectors do.
    """

    def __init__(self, series: Series, frame_time: float, count_time: float, user_data: Any = None) -> None:
        self.frame_ticks = frame_time * TICKS_PER_S
        self.count_ticks = round(count_time * TICKS_PER_S)
        pairs = 9 + (user_data is not None)
        dumps = cbor2.dumps
        rational = dumps(TICKS_PER_S)
        appendix = b"" if user_data is None else dumps("user_data") + dumps(user_data)
        self.parts = (
            b"\xd9\xd9\xf7"
            + bytes([0xA0 + pairs])
            + b"".join(map(dumps, ("type", "image", "series_id", series.series_id)))
            + b"".join(map(dumps, ("series_unique_id", series.unique_id, "image_id"))),
            dumps("real_time")
            + dumps([self.count_ticks, TICKS_PER_S])
            + dumps("series_date")
            + dumps(cbor2.CBORTag(0, series.date))
            + dumps("start_time")
            + b"\x82",
            rational + dumps("stop_time") + b"\x82",
            rational + appendix + dumps("data"),
        )

    def times(self, image_id: int) -> tuple[int, int]:
        """Start and stop of an exposure after the start of the series, ticks."""
        start = int(image_id * self.frame_ticks + 0.5)
        return start, start + self.count_ticks

    def message(self, image_id: int, payload: bytes) -> bytes:
        """One image message; ``payload`` is the CBOR map of the channels' arrays."""
        first, second, third, last = self.parts
        start, stop = self.times(image_id)
        dumps = cbor2.dumps
        return first + dumps(image_id) + second + dumps(start) + third + dumps(stop) + last + payload
