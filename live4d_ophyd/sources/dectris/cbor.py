"""Walks over CBOR at a raw address without the GIL: item heads, skipping, and the checks cbor2 makes.

In: an address and the address one past the last byte, which is never read. Out: heads, addresses after
items, or a negative status of :mod:`live4d_ophyd.frames.batch`. Nothing allocates; any thread may run it,
with a stack array of its own.

Strict walking accepts a subset of what cbor2 accepts: what is odd but may be legal is UNUSUAL, and Python
decides. Lenient walking only finds where an item ends.
"""

from __future__ import annotations

from numba import njit

from live4d_ophyd.frames.batch import MALFORMED, TRUNCATED, UNUSUAL
from live4d_ophyd.frames.memory import NOGIL, load_i64, load_i64_be, load_u8, load_u16_be, load_u32_be

# Major types of RFC 8949
UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)

#: value of a head of indefinite length, and of the break code (major type SIMPLE) that ends such an item
INDEFINITE = -1

#: containers an item may nest inside the one that is walked
MAX_DEPTH = 32
#: int64 elements a stack array needs
STACK_SIZE = 2 * MAX_DEPTH

_DATE_TIME_TAG = 0
_FALSE, _UNDEFINED, _HALF, _DOUBLE = 20, 23, 25, 27
# Numbers, not ord("-"): numba compiles all its text functions for that.
_PLUS, _DASH, _DOT, _COLON, _T, _Z = b"+-.:TZ"
_HIGH_BITS = -0x7F7F7F7F7F7F7F80  # the top bit of each of eight bytes


@njit(**NOGIL)
def read_head(p, end):
    """(major type, value, address after the head); the major type is a status < 0 when there is no head.

    The value is the number, length, count or tag; of floats and simple values it is the low five bits of the
    head, so that no float can be taken for the break code.
    """
    if p >= end:
        return TRUNCATED, 0, p
    first = load_u8(p)
    p += 1
    major, detail = first >> 5, first & 31
    if detail < 24:
        return major, detail, p
    if detail > 27:
        if detail == 31 and major >= BYTES and major != TAG:
            return major, INDEFINITE, p
        return MALFORMED, 0, p
    size = 1 << (detail - 24)
    if end - p < size:
        return TRUNCATED, 0, p
    if major == SIMPLE:
        return major, detail, p + size
    if size == 1:
        value = load_u8(p)
    elif size == 2:
        value = load_u16_be(p)
    elif size == 4:
        value = load_u32_be(p)
    else:
        value = load_i64_be(p)
        if value < 0:
            # A number or tag of 2**63 and more is for Python; a length like that cannot be there.
            return (TRUNCATED if BYTES <= major <= MAP else UNUSUAL), 0, p
    return major, value, p + size


@njit(**NOGIL)
def find_text(p, end):
    """(length in bytes, address) of a text of definite length, any bytes; else the length is a status < 0."""
    major, length, p = read_head(p, end)
    if major < 0:
        return major, p
    if major != TEXT or length < 0:
        return UNUSUAL, p
    if length > end - p:
        return TRUNCATED, p
    return length, p


@njit(**NOGIL)
def read_text(p, end):
    """As :func:`find_text`, and the text is valid UTF-8."""
    length, p = find_text(p, end)
    if length >= 0 and not is_utf8(p, p + length):
        return UNUSUAL, p
    return length, p


@njit(**NOGIL)
def is_utf8(p, end):
    """Whether the bytes are UTF-8 as Python's strict decoder sees it (no surrogates, no overlong forms)."""
    while p < end:
        if end - p >= 8 and load_i64(p) & _HIGH_BITS == 0:
            p += 8
            continue
        first = load_u8(p)
        p += 1
        if first < 0x80:
            continue
        low, high = 0x80, 0xBF  # of the byte after the first
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        elif 0xF0 <= first <= 0xF4:
            more = 3
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        else:
            return False
        if end - p < more:
            return False
        for _ in range(more):
            byte = load_u8(p)
            if byte < low or byte > high:
                return False
            low, high = 0x80, 0xBF
            p += 1
    return True


@njit(**NOGIL)
def read_digits(p, count):
    """Number in ``count`` decimal digits, -1 if one is no digit."""
    number = 0
    for i in range(count):
        digit = load_u8(p + i) - 48
        if digit < 0 or digit > 9:
            return -1
        number = 10 * number + digit
    return number


@njit(**NOGIL)
def days_in_month(year, month):
    """28 to 31."""
    if month == 2:
        leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
        return 29 if leap else 28
    return 30 if month in (4, 6, 9, 11) else 31


@njit(**NOGIL)
def is_date_time(p, length):
    """Whether the text is ``YYYY-MM-DDTHH:MM:SS[.digits](Z|+HH:MM|-HH:MM)`` and names a moment."""
    if length < 20 or length > 40:
        return False
    end = p + length
    year, month, day = read_digits(p, 4), read_digits(p + 5, 2), read_digits(p + 8, 2)
    hour, minute, second = read_digits(p + 11, 2), read_digits(p + 14, 2), read_digits(p + 17, 2)
    if load_u8(p + 4) != _DASH or load_u8(p + 7) != _DASH or load_u8(p + 10) != _T:
        return False
    if load_u8(p + 13) != _COLON or load_u8(p + 16) != _COLON:
        return False
    if year < 1 or month < 1 or month > 12 or day < 1 or day > days_in_month(year, month):
        return False
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return False
    p += 19
    if load_u8(p) == _DOT:
        p += 1
        digits = p
        while p < end and read_digits(p, 1) >= 0:
            p += 1
        if p == digits:
            return False
    if end - p == 1:
        return load_u8(p) == _Z
    if end - p != 6 or load_u8(p + 3) != _COLON:
        return False
    if load_u8(p) != _PLUS and load_u8(p) != _DASH:
        return False
    hours, minutes = read_digits(p + 1, 2), read_digits(p + 4, 2)
    return 0 <= hours <= 23 and 0 <= minutes <= 59


@njit(**NOGIL)
def skip_date_time(p, end):
    """Address after a date-time string whose tag has been read, or a status < 0."""
    length, p = read_text(p, end)
    if length < 0:
        return length
    return p + length if is_date_time(p, length) else UNUSUAL


@njit(**NOGIL)
def skip_item(p, end, stack, strict):
    """Address after one item and all it contains, or a status < 0.

    ``stack``: ``(STACK_SIZE,) int64``, two elements a container: items left (INDEFINITE: until the break
    code), and whether it is a map.
    """
    depth = 0
    stack[0], stack[1] = 1, 0
    while True:
        while depth >= 0 and stack[2 * depth] == 0:
            depth -= 1
        if depth < 0:
            return p
        left = stack[2 * depth]
        is_key = stack[2 * depth + 1] == 1 and left & 1 == 0
        major, value, p = read_head(p, end)
        if major < 0:
            return major
        if major == SIMPLE and value == INDEFINITE:
            if left != INDEFINITE:
                return MALFORMED
            stack[2 * depth] = 0
            continue
        if left > 0:
            stack[2 * depth] = left - 1
        if strict and (value == INDEFINITE or (is_key and major > NEGATIVE and major != TEXT)):
            return UNUSUAL

        if major in (BYTES, TEXT):
            if value >= 0:
                if value > end - p:
                    return TRUNCATED
                if strict and major == TEXT and not is_utf8(p, p + value):
                    return UNUSUAL
                p += value
                continue
            inside = INDEFINITE
        elif major in (ARRAY, MAP):
            if value > (end - p) // (major - 3):  # an item is a byte at least, a pair two
                return TRUNCATED
            inside = value * (major - 3) if value >= 0 else INDEFINITE
        elif major == TAG:
            if strict:
                if value != _DATE_TIME_TAG:
                    return UNUSUAL
                p = skip_date_time(p, end)
                if p < 0:
                    return p
                continue
            inside = 1
        else:
            plain = _FALSE <= value <= _UNDEFINED or _HALF <= value <= _DOUBLE
            if strict and major == SIMPLE and not plain:
                return UNUSUAL
            continue
        depth += 1
        if 2 * depth + 1 >= stack.shape[0]:
            return UNUSUAL
        stack[2 * depth], stack[2 * depth + 1] = inside, (1 if major == MAP else 0)
