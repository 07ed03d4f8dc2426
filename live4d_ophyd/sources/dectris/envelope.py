"""The walk over one message at an address: what it is, and where the wanted channel is in it.

In: a message, valid or not, of any key order. Out: a status and the columns of an index row. Numba functions
without the GIL that allocate nothing; :func:`live4d_ophyd.sources.dectris.index.index_message` is the way in.

An image message is accepted only if all of it is understood: what `messages.read_message` must find right is checked
here, so that it accepts the same message.
"""

from __future__ import annotations

import numpy as np
from numba import int64, njit

from live4d_ophyd.frames.batch import (
    ALGORITHM,
    ARRAY_TAG,
    BLOB_LENGTH,
    BLOB_OFFSET,
    COLS,
    ELEM_SIZE,
    IMAGE,
    IMAGE_ID,
    INCOMPLETE,
    MALFORMED,
    NO_CHANNEL,
    ROWS,
    SERIES_ID,
    TRAILING,
    TRUNCATED,
    UNIQUE_ID,
    UNUSUAL,
)
from live4d_ophyd.frames.codecs import BSLZ4, CODECS, RAW
from live4d_ophyd.frames.encoded_array import (
    COMPRESSION_TAG,
    FIRST_TAG,
    MAX_ELEM_SIZE,
    MAX_PIXELS,
    ROW_MAJOR_TAG,
    item_bytes,
)
from live4d_ophyd.frames.memory import NOGIL, load_i64, load_u8
from live4d_ophyd.sources.dectris.cbor import (
    ARRAY,
    BYTES,
    INDEFINITE,
    MAP,
    SIMPLE,
    STACK_SIZE,
    TAG,
    UNSIGNED,
    find_text,
    is_utf8,
    read_head,
    read_text,
    skip_item,
)

#: channels an image message may have on the fast path
MAX_CHANNELS = 8
#: bytes in fields that are skipped: at most two items a byte, so that read_message's MAX_ITEMS is not reached
MAX_SKIPPED = 40_000
#: int64 elements of the scratch array that the walk needs
SCRATCH_SIZE = max(STACK_SIZE, 2 * MAX_CHANNELS)

_SELF_DESCRIBED_TAG = 55799
_DONE = -100  # not a status: the map has no more keys
_ITEM_BYTES = item_bytes()


def _words(*texts: str) -> np.ndarray:
    """(n, 3) int64: length, first and last eight bytes. They tell texts of up to 16 bytes apart exactly."""
    rows = [(len(t), t[:8].encode(), t[-8:].encode() if len(t) > 8 else b"") for t in texts]
    return np.array([[n, *(int.from_bytes(w, "little") for w in words)] for n, *words in rows], np.int64)


_KEYS = _words("type", "series_id", "series_unique_id", "image_id", "data")
_TYPE, _SERIES_ID, _UNIQUE_ID, _IMAGE_ID, _DATA, _OTHER_KEY = range(6)
_REQUIRED = 1 << _SERIES_ID | 1 << _IMAGE_ID | 1 << _DATA

_TYPES = _words("image", "start", "end")  # in the order of IMAGE, START, END
_ALGORITHMS = _words(*(codec.name for codec in CODECS[BSLZ4:]))  # in the order of their numbers


# FNV-1a, 64 bit, as signed numbers (multiplication wraps)
HASH_START = 0xCBF29CE484222325 - (1 << 64)
HASH_PRIME = 0x100000001B3


@njit(**NOGIL)
def hash_text(address, length):
    """64-bit FNV-1a of the bytes as int64, never 0 (which says that there is no text)."""
    value = int64(HASH_START)
    for i in range(length):
        value = (value ^ load_u8(address + i)) * HASH_PRIME
    return value if value != 0 else 1


@njit(**NOGIL)
def _word(address, length):
    if length >= 8:
        return load_i64(address)
    word = 0
    for i in range(length):
        word |= load_u8(address + i) << (8 * i)
    return word


@njit(**NOGIL)
def _find_word(words, address, length):
    """Row of ``words`` that equals the text, the number of rows if none does."""
    if length <= 16:
        first = _word(address, length)
        last = load_i64(address + length - 8) if length > 8 else 0
        for i in range(words.shape[0]):
            if words[i, 0] == length and words[i, 1] == first and words[i, 2] == last:
                return i
    return words.shape[0]


@njit(**NOGIL)
def _same_bytes(a, b, length):
    for i in range(length):  # noqa: SIM110 - numba compiles the loop, not the generator
        if load_u8(a + i) != load_u8(b + i):
            return False
    return True


@njit(**NOGIL)
def _next_key(p, end, left):
    """(row of _KEYS or _OTHER_KEY, address of the value); _DONE at the map's end, or a status < 0."""
    if left == 0:
        return _DONE, p
    if left == INDEFINITE:
        major, value, after = read_head(p, end)
        if major == SIMPLE and value == INDEFINITE:
            return _DONE, after
    length, p = find_text(p, end)
    if length < 0:
        return length, p
    key = _find_word(_KEYS, p, length)
    if key == _OTHER_KEY and not is_utf8(p, p + length):
        return UNUSUAL, p
    return key, p + length


@njit(**NOGIL)
def _read_unsigned(p, end):
    """(number, address after it); a status < 0 if there is no number below 2**63."""
    major, value, p = read_head(p, end)
    if major < 0:
        return major, p
    return (value if major == UNSIGNED else UNUSUAL), p


@njit(**NOGIL)
def _skip_head(p, end, major, value):
    """Address after a head that must be this one, or a status < 0."""
    found, number, p = read_head(p, end)
    if found < 0:
        return found
    return p if found == major and number == value else UNUSUAL


@njit(**NOGIL)
def _read_kind(p, end, left, stack):
    """IMAGE, START, END or OTHER from the value of the key `type`, wherever in the map it is."""
    while True:
        key, p = _next_key(p, end, left)
        if key == _DONE:
            return INCOMPLETE
        if key < 0:
            return key
        if key == _TYPE:
            length, p = read_text(p, end)
            return _find_word(_TYPES, p, length) if length >= 0 else length
        p = skip_item(p, end, stack, False)
        if p < 0:
            return p
        if left > 0:
            left -= 1


@njit(**NOGIL)
def _read_array(p, end, base, row, wanted):
    """Address after a channel's array, or a status < 0; sets the columns of ``row`` if it is ``wanted``."""
    p = _skip_head(p, end, TAG, ROW_MAJOR_TAG)
    if p >= 0:
        p = _skip_head(p, end, ARRAY, 2)
    if p >= 0:
        p = _skip_head(p, end, ARRAY, 2)
    if p < 0:
        return p
    rows, p = _read_unsigned(p, end)
    if rows < 0:
        return rows
    cols, p = _read_unsigned(p, end)
    if cols < 0:
        return cols
    if rows < 1 or cols < 1 or rows > MAX_PIXELS or cols > MAX_PIXELS or rows * cols > MAX_PIXELS:
        return UNUSUAL

    major, tag, p = read_head(p, end)
    if major < 0:
        return major
    kind = tag - FIRST_TAG
    if major != TAG or kind < 0 or kind >= _ITEM_BYTES.shape[0] or _ITEM_BYTES[kind] == 0:
        return UNUSUAL

    algorithm, elem_size = RAW, 0
    major, size, p = read_head(p, end)
    if major == TAG and size == COMPRESSION_TAG:
        p = _skip_head(p, end, ARRAY, 3)
        if p < 0:
            return p
        length, p = read_text(p, end)
        if length < 1:
            return length if length < 0 else UNUSUAL
        algorithm = BSLZ4 + _find_word(_ALGORITHMS, p, length)
        elem_size, p = _read_unsigned(p + length, end)
        if elem_size < 0:
            return elem_size
        if elem_size > MAX_ELEM_SIZE:
            return UNUSUAL
        major, size, p = read_head(p, end)
    if major < 0:
        return major
    if major != BYTES or size < 0:
        return UNUSUAL
    if size > end - p:
        return TRUNCATED
    if algorithm == RAW and size != rows * cols * _ITEM_BYTES[kind]:
        return UNUSUAL
    if wanted:
        row[BLOB_OFFSET], row[BLOB_LENGTH] = p - base, size
        row[ROWS], row[COLS], row[ARRAY_TAG] = rows, cols, tag
        row[ALGORITHM], row[ELEM_SIZE] = algorithm, elem_size
    return p + size


@njit(**NOGIL)
def _read_channels(p, end, base, row, channel, names):
    """(address after the map of channels or a status < 0, whether the wanted channel is there)."""
    major, count, p = read_head(p, end)
    if major < 0:
        return major, False
    if major != MAP or count < 1 or count > MAX_CHANNELS:
        return UNUSUAL, False
    found = False
    for i in range(count):
        length, p = read_text(p, end)
        if length < 1:
            return (length if length < 0 else UNUSUAL), False
        for j in range(i):
            if names[2 * j + 1] == length and _same_bytes(names[2 * j], p, length):
                return UNUSUAL, False
        names[2 * i], names[2 * i + 1] = p, length
        wanted = channel.shape[0] == 0 and i == 0
        if channel.shape[0] > 0 and channel.shape[0] == length:
            wanted = _same_bytes(int64(channel.ctypes.data), p, length)
        p = _read_array(p + length, end, base, row, wanted)
        if p < 0:
            return p, False
        found = found or wanted
    return p, found


@njit(**NOGIL)
def _walk_image(p, end, left, base, row, channel, scratch):
    seen = skipped = 0
    found = False
    while True:
        key, p = _next_key(p, end, left)
        if key == _DONE:
            break
        if key < 0:
            return key
        if key != _OTHER_KEY:
            if seen >> key & 1:
                return UNUSUAL
            seen |= 1 << key
        if key in (_SERIES_ID, _IMAGE_ID):
            number, p = _read_unsigned(p, end)
            if number < 0:
                return number
            row[SERIES_ID if key == _SERIES_ID else IMAGE_ID] = number
        elif key == _DATA:
            p, found = _read_channels(p, end, base, row, channel, scratch)
        else:
            if key == _UNIQUE_ID:
                length, text = read_text(p, end)
                if length >= 0:  # another type counts as no id
                    row[UNIQUE_ID] = hash_text(text, length)
            after = skip_item(p, end, scratch, True)
            skipped += after - p
            p = after if after < 0 or skipped <= MAX_SKIPPED else UNUSUAL
        if p < 0:
            return p
        if left > 0:
            left -= 1
    if p != end:
        return TRAILING
    if seen & _REQUIRED != _REQUIRED:
        return INCOMPLETE
    return IMAGE if found else NO_CHANNEL


@njit(**NOGIL)
def _walk_other(p, end, left, kind, row, stack):
    """Start and end messages: Python reads them, so only the end of the map and the ids matter here."""
    seen = 0
    while True:
        key, p = _next_key(p, end, left)
        if key == _DONE:
            return kind if p == end else TRAILING
        if key < 0:
            return key
        if key != _OTHER_KEY:
            if seen >> key & 1:
                return UNUSUAL
            seen |= 1 << key
        if key == _SERIES_ID:
            number, _ = _read_unsigned(p, end)
            if number >= 0:
                row[SERIES_ID] = number
        elif key == _UNIQUE_ID:
            length, text = read_text(p, end)
            if length >= 0:
                row[UNIQUE_ID] = hash_text(text, length)
        p = skip_item(p, end, stack, False)
        if p < 0:
            return p
        if left > 0:
            left -= 1


@njit(**NOGIL)
def walk_message(address, end, base, row, channel, scratch):
    """The status of the message; the columns SERIES_ID, UNIQUE_ID, IMAGE_ID and the blob's go to ``row``.

    Arguments as of :func:`live4d_ophyd.sources.dectris.index.index_message`.
    """
    major, left, p = read_head(address, end)
    if major == TAG and left == _SELF_DESCRIBED_TAG:
        major, left, p = read_head(p, end)
    if major < 0:
        return major
    if major == TAG:
        return UNUSUAL
    if major != MAP:
        return MALFORMED
    if left > (end - p) // 2:
        return TRUNCATED
    kind = _read_kind(p, end, left, scratch)
    if kind == IMAGE:
        return _walk_image(p, end, left, base, row, channel, scratch)
    if kind > IMAGE:
        return _walk_other(p, end, left, kind, row, scratch)
    return kind
