"""Documents as bytes, and back: CBOR with the array tags of RFC 8746. Nothing that is read can run code.

In and out: the documents of a RunEngine, with NumPy arrays as they are. `dumps` and `loads` are what Bluesky's 0MQ
classes take as ``serializer`` and ``deserializer``; their own, pickle, runs what a sender put into a message. Any
thread.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from io import BytesIO
from math import prod
from typing import Any, NoReturn
from uuid import UUID

import cbor2
import numpy as np

from live4d_ophyd.frames.encoded_array import (
    DTYPES,
    FIRST_TAG,
    ROW_MAJOR_TAG,
    array_tag,
    dtype_of_tag,
)

#: of a message, bytes: 8 images of 2048 x 2048
MOST_BYTES = 1 << 28
#: of nested lists and dicts
_DEPTH = 64
_ARRAY_TAGS = range(FIRST_TAG, FIRST_TAG + len(DTYPES))
#: tags of integers beyond 64 bits
_INTEGERS = (2, 3)
#: tags that cbor2 makes objects of: dates, patterns, references, ...
_OTHERS = (
    *(tag for tag in range(64) if tag not in (*_INTEGERS, ROW_MAJOR_TAG)),
    100,
    256,
    258,
    260,
    261,
    1004,
    43000,
)
#: kinds of elements that have a tag: integers and floats
_NUMBERS = "iuf"


class NotADocument(ValueError):
    """Bytes that are none of ours: the text says why."""


def dumps(document: Any) -> bytes:
    """The bytes of a document. What CBOR has no form for becomes its text: publishing fails for no metadata."""
    file = BytesIO()  # cbor2.dumps takes ten times as long for large arrays
    cbor2.dump(document, file, default=_encode, encoders=_AS_TEXT)
    return file.getvalue()


def loads(message: bytes) -> dict[str, Any]:
    """The document of `dumps`. Raises `NotADocument`."""
    try:
        document = cbor2.loads(
            message,
            tag_hook=_decode_array,
            semantic_decoders=dict.fromkeys(_OTHERS, _refuse),
            max_depth=_DEPTH,
            strict_hashable_types=True,
        )
    except Exception as error:  # cbor2 raises many kinds
        raise NotADocument(f"not a document in CBOR: {type(error).__name__}: {error}"[:300]) from error
    if type(document) is not dict:
        raise NotADocument(
            f"not a document in CBOR: it begins with {message[:8]!r}; a publisher that pickles?"
        )
    return document


def _encode(encoder: Any, value: Any) -> None:
    if isinstance(value, np.generic):
        encoder.encode(value.item())
    elif not isinstance(value, np.ndarray):
        encoder.encode(str(value))
    elif value.dtype.kind in _NUMBERS and value.dtype.itemsize <= 8:
        elements = cbor2.CBORTag(array_tag(value.dtype), np.ascontiguousarray(value).tobytes())
        encoder.encode(cbor2.CBORTag(ROW_MAJOR_TAG, [list(value.shape), elements]))
    else:
        encoder.encode(value.tolist())


def _decode_array(*arguments: Any) -> Any:
    # Which of the arguments it is differs from what cbor2 6 says.
    tag = next(argument for argument in arguments if isinstance(argument, cbor2.CBORTag))
    if tag.tag in _ARRAY_TAGS and isinstance(tag.value, bytes):
        return np.frombuffer(tag.value, dtype_of_tag(tag.tag))
    if tag.tag == ROW_MAJOR_TAG:
        shape, elements = tag.value
        if isinstance(elements, np.ndarray) and prod(shape) == elements.size and min(shape, default=0) >= 0:
            return elements.reshape(shape)
    return _refuse()


def _encode_text(encoder: Any, value: Any) -> None:
    encoder.encode(str(value))


def _encode_list(encoder: Any, value: Any) -> None:
    encoder.encode(list(value))


#: what cbor2 has tags for, or raises at: a date without a zone
_AS_TEXT = {
    **dict.fromkeys((datetime, date, Decimal, Fraction, UUID, complex, re.Pattern), _encode_text),
    set: _encode_list,
    frozenset: _encode_list,
}


def _refuse(*_: Any) -> NoReturn:
    raise ValueError("a tag that no document has")
