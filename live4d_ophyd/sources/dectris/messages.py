"""What the DECTRIS stream v2 says: its start, image and end messages as dataclasses.

In: the bytes of one ZMQ message. Out: a frozen dataclass with checked fields, or a :class:`StreamError` that
names what is wrong. General and slow (cbor2, tens of microseconds): headers and odd messages come here, the
frames go through :mod:`live4d_ophyd.sources.dectris.index`. Any thread.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

import cbor2
import numpy as np

from live4d_ophyd import checks
from live4d_ophyd.frames.encoded_array import EncodedArray, StreamError, kind_of, read_array, read_table
from live4d_ophyd.sources.dectris import fields
from live4d_ophyd.sources.dectris.fields import Fields

__all__ = [
    "EncodedArray",
    "EndMessage",
    "GoniometerAxis",
    "ImageMessage",
    "Message",
    "OtherMessage",
    "StartMessage",
    "StreamError",
    "read_message",
]

#: data items a message may consist of; real ones have a hundred, their tables are byte strings
MAX_ITEMS = 100_000

_IMAGE_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32")


@dataclass(frozen=True)
class GoniometerAxis:
    """Motion of one goniometer axis over the series."""

    #: position at the first frame, deg
    start: float | None = None
    #: step from frame to frame, deg
    increment: float | None = None


@dataclass(frozen=True)
class StartMessage:
    """What the detector says when it is armed. A field is None when the message does not have it."""

    #: number of the series, as `arm` answered it
    series_id: int
    #: ULID of the series
    series_unique_id: str | None = None
    #: when `arm` was issued
    arm_date: datetime | None = None
    #: where the direct beam hits the detector, px
    beam_center_x: float | None = None
    #: where the direct beam hits the detector, px
    beam_center_y: float | None = None
    #: names of the channels in the order of the frames' data
    channels: tuple[str, ...] = ()
    #: exposure time of a frame, s
    count_time: float | None = None
    countrate_correction_enabled: bool | None = None
    #: corrected counts per measured count, 1-D; None with header_detail=basic
    countrate_correction_lookup_table: EncodedArray | None = None
    detector_description: str | None = None
    detector_serial_number: str | None = None
    #: (x, y, z), m
    detector_translation: tuple[float, ...] | None = None
    #: gain correction by channel, (rows, cols); empty with header_detail=basic, None: there, but no array
    flatfield: Mapping[str, EncodedArray | None] | None = None
    flatfield_enabled: bool | None = None
    #: time from the start of one frame to the start of the next, s
    frame_time: float | None = None
    goniometer: Mapping[str, GoniometerAxis] | None = None
    #: element type of the frames; None from older firmware: the arrays' own tags say it
    image_dtype: np.dtype | None = None
    #: columns of a frame, px
    image_size_x: int | None = None
    #: rows of a frame, px
    image_size_y: int | None = None
    #: eV
    incident_energy: float | None = None
    #: angstrom
    incident_wavelength: float | None = None
    #: frames in the series, over all triggers
    number_of_images: int | None = None
    #: bits 0 gap, 1 dead, 2 under-, 3 over-responding, 4 noisy by channel, (rows, cols); as ``flatfield``
    pixel_mask: Mapping[str, EncodedArray | None] | None = None
    pixel_mask_enabled: bool | None = None
    #: width of a pixel, m
    pixel_size_x: float | None = None
    #: height of a pixel, m
    pixel_size_y: float | None = None
    #: counts at which a pixel is saturated: it, and what is larger, holds no count
    saturation_value: int | None = None
    sensor_material: str | None = None
    #: m
    sensor_thickness: float | None = None
    #: by channel, eV
    threshold_energy: Mapping[str, float] | None = None
    #: header_appendix of the stream's configuration: anything
    user_data: Any = None
    virtual_pixel_interpolation_enabled: bool | None = None
    #: what was in the message but could not be used, a sentence each: worth a warning
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageMessage:
    """One exposure, all its channels. Times are exact and count from ``series_date``."""

    series_id: int
    #: 0-based, contiguous over the series
    image_id: int
    #: the frame by channel name, still compressed, in the order of the message; at least one
    channels: Mapping[str, EncodedArray]
    #: ULID of the series
    series_unique_id: str | None = None
    #: exposure time, s
    real_time: Fraction | None = None
    #: start of the series
    series_date: datetime | None = None
    #: start of the exposure, s
    start_time: Fraction | None = None
    #: end of the exposure, s
    stop_time: Fraction | None = None
    #: image_appendix of the stream's configuration: anything
    user_data: Any = None
    #: what was in the message but could not be used, a sentence each
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class EndMessage:
    """No frame of this series comes after it on this connection."""

    series_id: int
    #: ULID of the series
    series_unique_id: str | None = None


@dataclass(frozen=True)
class OtherMessage:
    """A message of a type that this version does not know: to be ignored."""

    type: str


Message = StartMessage | ImageMessage | EndMessage | OtherMessage


def read_message(raw: bytes) -> Message:
    """Read one message; raises StreamError if it is not a message of the DECTRIS stream v2.

    Unknown keys are skipped. Optional values that are missing, or not what belongs there, are None, the latter
    with a note: no scan is refused for them. Only what the sums need must be right: series_id, image_id, data.
    """
    try:
        return _read(raw)
    except StreamError as error:
        named = _TYPE.search(bytes(raw[:64]))
        error.message_type = (named[1] or named[2]).decode() if named else ""
        raise


#: the key `type`, which comes first, and its value
_TYPE = re.compile(rb"\x64type(?:\x65(start|image)|\x63(end))")


def _read(raw: bytes) -> Message:
    values = _decode(raw)
    kind = Fields(values, "message", []).required("type", fields.text)
    if kind not in ("start", "image", "end"):
        return OtherMessage(kind)
    if "series_id" not in values and "series_number" in values:
        raise StreamError(
            f"this {kind} message has the preview schema of stream v2 (2020; series_number, no series_id): "
            "update the detector's firmware to a release of 2022 or later"
        )
    message = Fields(values, f"{kind} message", [])
    if kind == "image":
        return _image(message)
    return _start(message) if kind == "start" else _end(message)


def _decode(raw: bytes) -> Mapping[Any, Any]:
    raw = bytes(raw)
    if raw.lstrip()[:1] == b"{" and b'"htype"' in raw[:4096]:
        raise StreamError(
            "this is a part of the old stream v1 (multipart JSON, port 9999): set the detector's stream to "
            "format=cbor and connect to port 31001"
        )
    if checks.has_too_many_items(raw, MAX_ITEMS):
        raise StreamError(
            f"the message of {len(raw)} bytes has more than {MAX_ITEMS} items: it is not decoded"
        )
    stream = io.BytesIO(raw)
    try:
        value = cbor2.CBORDecoder(stream, semantic_decoders=_TAGS, str_errors="replace").decode()
    except cbor2.CBORDecodeEOF as error:
        raise StreamError(f"the message is cut off: it ends after {len(raw)} bytes inside an item") from error
    except Exception as error:  # cbor2 lets through errors of the types it makes, besides its own
        raise StreamError(f"the message of {len(raw)} bytes is not CBOR: {error}") from error
    if stream.tell() != len(raw):
        raise StreamError(f"the message goes on for {len(raw) - stream.tell()} bytes after its end")
    if not isinstance(value, Mapping):
        raise StreamError(f"the message is {kind_of(value)}; expected a map with the key 'type'")
    return value


def _date_time(value: Any, immutable: bool) -> Any:
    """The date-time of a tag 0; the tag itself where it holds none."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return cbor2.CBORTag(0, value)


def _integer(tag: int) -> Callable[[Any, bool], Any]:
    """Decoder of the large integers of tags 2 and 3."""

    def decode(value: Any, immutable: bool) -> Any:
        if not isinstance(value, bytes):
            return cbor2.CBORTag(tag, value)
        number = int.from_bytes(value, "big")
        return number if tag == 2 else -1 - number

    return decode


def _unread(tag: int) -> Callable[[Any, bool], Any]:
    return lambda value, immutable: cbor2.CBORTag(tag, value)


#: cbor2 gives up a whole message for one tag whose content is not what belongs there, so tags are read here
_TAGS = {0: _date_time, 2: _integer(2), 3: _integer(3)} | {
    tag: _unread(tag)
    for tag in (1, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)
}


def _end(message: Fields) -> EndMessage:
    return EndMessage(
        series_id=message.required("series_id", fields.count),
        series_unique_id=message.optional("series_unique_id", fields.text),
    )


def _image(message: Fields) -> ImageMessage:
    return ImageMessage(
        series_id=message.required("series_id", fields.count),
        image_id=message.required("image_id", fields.count),
        channels=message.required("data", fields.images),
        series_unique_id=message.optional("series_unique_id", fields.text),
        real_time=message.optional("real_time", fields.rational),
        series_date=message.optional("series_date", fields.date),
        start_time=message.optional("start_time", fields.rational),
        stop_time=message.optional("stop_time", fields.rational),
        user_data=message.anything("user_data"),
        notes=tuple(message.notes),  # the last: the fields above add to it
    )


def _start(message: Fields) -> StartMessage:
    optional = message.optional
    size_x, size_y = optional("image_size_x", fields.count), optional("image_size_y", fields.count)
    shape = None if size_x is None or size_y is None else (size_y, size_x)

    def image_sized(value: Any, name: str) -> EncodedArray:
        array = read_array(value, name)
        if shape is not None and array.shape != shape:
            raise StreamError(f"{name} has the shape {array.shape}; expected the frame's, {shape}")
        return array

    def tables(value: Any, name: str) -> dict[str, EncodedArray | None]:
        return fields.named(value, name, message.noted(image_sized))

    def goniometer(value: Any, name: str) -> dict[str, GoniometerAxis]:
        def axis(value: Any, name: str) -> GoniometerAxis:
            values = Fields(fields.named(value, name, lambda item, _: item), name, message.notes)
            return GoniometerAxis(
                values.optional("start", fields.number), values.optional("increment", fields.number)
            )

        return fields.named(value, name, axis)

    return StartMessage(
        series_id=message.required("series_id", fields.count),
        series_unique_id=optional("series_unique_id", fields.text),
        arm_date=optional("arm_date", fields.date),
        beam_center_x=optional("beam_center_x", fields.number),
        beam_center_y=optional("beam_center_y", fields.number),
        channels=optional("channels", fields.names, ()),
        count_time=optional("count_time", fields.amount),
        countrate_correction_enabled=optional("countrate_correction_enabled", fields.flag),
        countrate_correction_lookup_table=optional("countrate_correction_lookup_table", read_table),
        detector_description=optional("detector_description", fields.text),
        detector_serial_number=optional("detector_serial_number", fields.text),
        detector_translation=optional("detector_translation", fields.vector),
        flatfield=optional("flatfield", tables),
        flatfield_enabled=optional("flatfield_enabled", fields.flag),
        frame_time=optional("frame_time", fields.amount),
        goniometer=optional("goniometer", goniometer),
        image_dtype=optional("image_dtype", _image_dtype),
        image_size_x=size_x,
        image_size_y=size_y,
        incident_energy=optional("incident_energy", fields.amount),
        incident_wavelength=optional("incident_wavelength", fields.amount),
        number_of_images=optional("number_of_images", fields.count),
        pixel_mask=optional("pixel_mask", tables),
        pixel_mask_enabled=optional("pixel_mask_enabled", fields.flag),
        pixel_size_x=optional("pixel_size_x", fields.amount),
        pixel_size_y=optional("pixel_size_y", fields.amount),
        saturation_value=optional("saturation_value", fields.count),
        sensor_material=optional("sensor_material", fields.text),
        sensor_thickness=optional("sensor_thickness", fields.amount),
        threshold_energy=optional("threshold_energy", fields.amounts),
        user_data=message.anything("user_data"),
        virtual_pixel_interpolation_enabled=optional("virtual_pixel_interpolation_enabled", fields.flag),
        notes=tuple(message.notes),  # the last: the fields above add to it
    )


def _image_dtype(value: Any, name: str) -> np.dtype:
    if fields.text(value, name) not in _IMAGE_DTYPES:
        raise fields.refuse(name, value, f"one of {', '.join(_IMAGE_DTYPES)}")
    return np.dtype(value)
