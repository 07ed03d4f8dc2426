"""Messages of the stream as bytes, in every encoding that CBOR has for the same content."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG = range(7)
SELF_DESCRIBED = b"\xd9\xd9\xf7"
INDEFINITE_MAP, BREAK = b"\xbf", b"\xff"

DATE = "2026-03-01T12:30:45.250+01:00"
UNIQUE_ID = "01GRXWT80JSDY2FNW8SGCCDZD9"


def head(major: int, value: int, width: int = 0) -> bytes:
    """Head of an item; ``width`` 1, 2, 4 or 8 bytes asks for more than the value needs."""
    if width == 0 and value < 24:
        return bytes([major << 5 | value])
    needed = max(width, next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size))
    code = {1: 24, 2: 25, 4: 26, 8: 27}[needed]
    return bytes([major << 5 | code]) + value.to_bytes(needed, "big")


def number(value: int, width: int = 0) -> bytes:
    return head(UNSIGNED, value, width)


def text(value: str, width: int = 0) -> bytes:
    return head(TEXT, len(value.encode()), width) + value.encode()


def data(value: bytes, width: int = 0) -> bytes:
    return head(BYTES, len(value), width) + value


def array(*items: bytes, width: int = 0) -> bytes:
    return head(ARRAY, len(items), width) + b"".join(items)


def tag(value: int, item: bytes, width: int = 0) -> bytes:
    return head(TAG, value, width) + item


def mapping(
    pairs: dict[str, bytes] | list[tuple[str, bytes]], *, indefinite: bool = False, width: int = 0
) -> bytes:
    """Map with text keys; a list of pairs may have a key twice."""
    items = pairs.items() if isinstance(pairs, dict) else pairs
    content = b"".join(text(key) + value for key, value in items)
    return INDEFINITE_MAP + content + BREAK if indefinite else head(MAP, len(pairs), width) + content


def rational(numerator: int, denominator: int = 50_000_000) -> bytes:
    return array(number(numerator), number(denominator))


def image_array(
    shape: tuple[int, ...] = (4, 6),
    array_tag: int = 69,
    content: bytes | None = None,
    *,
    order_tag: int = 40,
    width: int = 0,
) -> bytes:
    """Two-dimensional array; ``content`` is an encoded item, by default compressed bytes like no others."""
    if content is None:
        content = compressed(b"bslz4", 2, b"blob %d" % sum(shape) + bytes(13), width)
    sizes = array(*(number(n, width) for n in shape))
    return tag(order_tag, array(sizes, tag(array_tag, content, width)), width)


def compressed(algorithm: bytes, elem_size: int, blob: bytes, width: int = 0) -> bytes:
    name = head(TEXT, len(algorithm), width) + algorithm
    return tag(56500, array(name, number(elem_size, width), data(blob, width)), width)


def raw_image(pixels: np.ndarray, array_tag: int) -> bytes:
    return image_array(pixels.shape, array_tag, data(pixels.tobytes()))


@dataclass
class Image:
    """An image message with all fields of a real one; change ``fields``, then ask for the bytes."""

    series_id: int = 7
    image_id: int = 0
    width: int = 0
    channels: dict[str, bytes] = field(default_factory=lambda: {"threshold_1": image_array()})

    def fields(self) -> dict[str, bytes]:
        return {
            "type": text("image"),
            "series_id": number(self.series_id, self.width),
            "series_unique_id": text(UNIQUE_ID, self.width),
            "image_id": number(self.image_id, self.width),
            "real_time": rational(1_000_000),
            "series_date": tag(0, text(DATE)),
            "start_time": rational(0),
            "stop_time": rational(1_000_000),
            "user_data": array(number(1), text("💙"), b"\xfb" + struct.pack(">d", -1.5), b"\xf6", b"\xf5"),
            "data": mapping(self.channels, width=self.width),
        }

    def message(self, **changes: bytes | None) -> bytes:
        """The bytes; ``changes`` replace fields, add them, or leave them out (None)."""
        fields = {**self.fields(), **changes}
        return SELF_DESCRIBED + mapping({key: value for key, value in fields.items() if value is not None})


def image(**changes: bytes | None) -> bytes:
    """A good image message with changed fields."""
    return Image().message(**changes)


def end(series_id: int = 7) -> bytes:
    return SELF_DESCRIBED + mapping(
        {"type": text("end"), "series_id": number(series_id), "series_unique_id": text(UNIQUE_ID)}
    )
