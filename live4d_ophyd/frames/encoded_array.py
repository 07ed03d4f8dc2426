"""Arrays as the stream carries them: CBOR array tags, element types, and the still encoded array.

In: values that cbor2 decoded. Out: :class:`EncodedArray`, checked, its bytes not yet decompressed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import cbor2
import numpy as np

from live4d_ophyd.frames.codecs import most_of

ROW_MAJOR_TAG, COLUMN_MAJOR_TAG, COMPRESSION_TAG = 40, 1040, 56500

#: pixels a frame may have at most: 8192 x 8192, over three times the largest detector that DECTRIS makes. What methods
#: need for a frame is several times as large, and a frame of zeros in LZ4 is 255 times as small.
MAX_PIXELS = 1 << 26
#: largest element size a compression tag may name, bytes
MAX_ELEM_SIZE = 255

#: characters of a text that an error shows
_SHOWN = 40

#: the first tag of RFC 8746 typed arrays; the tags are 64 to 87
FIRST_TAG = 64
#: element type of tag 64 + i; None: reserved (76), or a 16-byte float, which NumPy cannot read (83, 87)
DTYPES = tuple(
    np.dtype(code) if code else None
    for code in (
        *("u1", ">u2", ">u4", ">u8", "u1", "<u2", "<u4", "<u8"),  # tag 68 is u8 with clamped arithmetic
        *("i1", ">i2", ">i4", ">i8", None, "<i2", "<i4", "<i8"),
        *(">f2", ">f4", ">f8", None, "<f2", "<f4", "<f8", None),
    )
)


class StreamError(ValueError):
    """A message is not what the DECTRIS stream v2 says; the text names the field and what belongs there.

    ``message_type`` is what the message calls itself, "" where that cannot be read.
    """

    message_type = ""


@dataclass(frozen=True)
class EncodedArray:
    """One array of a message, its content as it came."""

    #: (rows, cols) of a frame; (n,) of a table
    shape: tuple[int, ...]
    #: of the decoded elements, byte order included
    dtype: np.dtype
    #: name of the compression: ``"bslz4"``, ``"lz4"``, or what else the message says; ``""`` if uncompressed
    algorithm: str
    #: element size that the compression tag names, bytes; 0 if uncompressed
    elem_size: int
    #: the content: compressed, or ``nbytes`` of elements
    data: bytes
    #: "C": the last index varies fastest (tag 40); "F": the first does (tag 1040)
    order: Literal["C", "F"] = "C"

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    @property
    def plausible(self) -> bool:
        """Whether its content can be as many elements as it claims: memory is made for nothing else."""
        return self.nbytes <= most_of(self.algorithm) * len(self.data)


def item_bytes() -> np.ndarray:
    """Element size of tag 64 + i in bytes, 0 where there is no type, ``(24,) int64``."""
    return np.array([0 if dtype is None else dtype.itemsize for dtype in DTYPES], np.int64)


def dtype_of_tag(tag: int) -> np.dtype:
    """Element type of a typed-array tag; raises StreamError if NumPy has none."""
    dtype = DTYPES[tag - FIRST_TAG] if 0 <= tag - FIRST_TAG < len(DTYPES) else None
    if dtype is None:
        raise StreamError(f"the typed-array tag {tag} has no element type that NumPy has")
    return dtype


def array_tag(dtype: np.dtype) -> int:
    """The typed-array tag of this element type; raises StreamError if there is none."""
    for i, known in enumerate(DTYPES):
        if known is not None and known == dtype:  # to NumPy, None equals float64
            return FIRST_TAG + i
    raise StreamError(f"{dtype} has no typed-array tag of RFC 8746")


def read_array(value: object, name: str) -> EncodedArray:
    """A multi-dimensional array (tag 40 or 1040) of two dimensions; ``name`` is for the error."""
    if not isinstance(value, cbor2.CBORTag) or value.tag not in (ROW_MAJOR_TAG, COLUMN_MAJOR_TAG):
        raise StreamError(f"{name} is {kind_of(value)}; expected an array with tag 40 or 1040")
    content = value.value
    if not isinstance(content, (list, tuple)) or len(content) != 2:
        raise StreamError(
            f"{name}: tag {value.tag} holds {kind_of(content)}; expected [[rows, cols], elements]"
        )
    shape = content[0]
    if not isinstance(shape, (list, tuple)) or len(shape) != 2 or not all(map(_is_size, shape)):
        found = ", ".join(map(kind_of, shape[:4])) if isinstance(shape, (list, tuple)) else kind_of(shape)
        raise StreamError(
            f"{name} has the dimensions [{found}]; expected two whole numbers from 1 to {MAX_PIXELS}"
        )
    rows, cols = shape
    if rows * cols > MAX_PIXELS:
        raise StreamError(f"{name} has {rows} x {cols} pixels; expected at most {MAX_PIXELS}")
    return _read_elements(content[1], name, (rows, cols), "F" if value.tag == COLUMN_MAJOR_TAG else "C")


def read_table(value: object, name: str) -> EncodedArray:
    """A typed array (tag 64 to 87) of one dimension, as the countrate correction table is.

    A compressed table does not say how many elements it has: its shape is then ``(-1,)``.
    """
    return _read_elements(value, name, None, "C")


def _read_elements(
    value: object, name: str, shape: tuple[int, ...] | None, order: Literal["C", "F"]
) -> EncodedArray:
    if not isinstance(value, cbor2.CBORTag) or not 0 <= value.tag - FIRST_TAG < len(DTYPES):
        raise StreamError(f"{name} holds {kind_of(value)}; expected a typed array, tag 64 to 87 (RFC 8746)")
    try:
        dtype = dtype_of_tag(value.tag)
    except StreamError as error:
        raise StreamError(f"{name}: {error}") from None
    content = value.value
    if isinstance(content, bytes):
        if shape is None:
            shape = (len(content) // dtype.itemsize,)
        expected = int(np.prod(shape)) * dtype.itemsize
        if len(content) != expected:
            raise StreamError(
                f"{name} holds {len(content)} uncompressed bytes; "
                f"expected {expected} for the shape {shape} of {dtype.name}"
            )
        return EncodedArray(shape, dtype, "", 0, content, order)
    algorithm, elem_size, data = _read_compression(content, name)
    return EncodedArray(shape or (-1,), dtype, algorithm, elem_size, data, order)


def _read_compression(value: object, name: str) -> tuple[str, int, bytes]:
    if not isinstance(value, cbor2.CBORTag) or value.tag != COMPRESSION_TAG:
        raise StreamError(
            f"{name} has {kind_of(value)} as content; expected a byte string, or tag {COMPRESSION_TAG}"
        )
    content = value.value
    if not isinstance(content, (list, tuple)) or len(content) != 3:
        raise StreamError(
            f"{name}: tag {COMPRESSION_TAG} holds {kind_of(content)}; expected [name, size, bytes]"
        )
    algorithm, elem_size, data = content
    if not isinstance(algorithm, str) or not algorithm:
        raise StreamError(f"{name}: the compression is {kind_of(algorithm)}; expected its name")
    if type(elem_size) is not int or not 0 <= elem_size <= MAX_ELEM_SIZE:
        raise StreamError(
            f"{name}: the compression has the element size {kind_of(elem_size)}; "
            f"expected 0 to {MAX_ELEM_SIZE} bytes"
        )
    if not isinstance(data, bytes):
        raise StreamError(f"{name}: the compressed content is {kind_of(data)}; expected a byte string")
    return algorithm, elem_size, data


def kind_of(value: object) -> str:
    """What a decoded value is, for an error: in the words of CBOR, short whatever the message holds."""
    if isinstance(value, cbor2.CBORTag):
        nested = isinstance(value.value, cbor2.CBORTag)
        return f"tag {value.tag}" if nested else f"tag {value.tag} ({kind_of(value.value)})"
    if isinstance(value, str):
        return f"text {value!r}" if len(value) <= _SHOWN else f"text {value[:_SHOWN]!r}..."
    if isinstance(value, bytes):
        return f"a byte string of length {len(value)}"
    if isinstance(value, (list, tuple)):
        return f"an array of length {len(value)}"
    if isinstance(value, Mapping):
        return f"a map of length {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", False: "false", True: "true"}[value]
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "an integer beyond 64 bits"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, datetime):
        return f"the date-time {value.isoformat()}"
    if isinstance(value, cbor2.CBORSimpleValue):
        return f"simple value {value.value}"
    return "undefined"


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_PIXELS
