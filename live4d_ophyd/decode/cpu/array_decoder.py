"""Any array of the stream to pixels: all algorithms, element sizes and dtypes, one array at a time.

For flat fields, recorded messages and the frames that the batch kernels leave. Any thread; allocates.
"""

from __future__ import annotations

import re

import numpy as np

from live4d_ophyd.decode.cpu.frame_kernels import lz4_frame, unshuffle_frame
from live4d_ophyd.decode.cpu.vectors import SLACK
from live4d_ophyd.frames.codecs import BY_NAME, ELEM_SIZES
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.frames.status import (
    BAD_ELEM_SIZE,
    BLOB_TOO_SHORT,
    NEEDS_VENDOR,
    UNKNOWN_ALGORITHM,
    VENDOR_REFUSED,
    WRONG_LENGTH,
    WRONG_TOTAL,
    DecodeError,
)

#: the header of TERSE data, and its attributes
_TERSE = re.compile(rb"<Terse ([^<>]{0,400})/>")
_ATTRIBUTE = re.compile(rb'(\w{1,30})="(\d{1,18})"')
_MOST_IN_A_TERSE_BLOCK = 1 << 12


def _address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def decode_bytes(algorithm: str, elem_size: int, data: np.ndarray, total: int) -> np.ndarray:
    """Decompress ``data`` ((n,) uint8) to the ``total`` bytes it must hold, ``(total,) uint8``.

    ``algorithm`` is "" for uncompressed data. Raises DecodeError.
    """
    if algorithm == "":
        if len(data) != total:
            raise DecodeError(WRONG_LENGTH, f"{len(data)} bytes, expected {total}")
        return data.copy()
    codec = BY_NAME.get(algorithm)
    if codec is not None and codec.framed:
        header = _header_total(data)
        if header != total:
            raise DecodeError(WRONG_TOTAL, f"{header} bytes, expected {total}")
    if codec is None or not codec.own:
        return _vendor_decode(algorithm, elem_size, data, total)
    target = np.empty(total + SLACK, np.uint8)
    if not codec.shuffled:
        status = lz4_frame(_address(data), len(data), total, _address(target))
    elif elem_size not in ELEM_SIZES:
        raise DecodeError(BAD_ELEM_SIZE, f"element size {elem_size}, expected one of {ELEM_SIZES}")
    else:
        scratch = np.empty(total + SLACK, np.uint8)
        status = unshuffle_frame(
            _address(data), len(data), total, elem_size, _address(target), _address(scratch)
        )
    if status < 0:
        raise DecodeError(status)
    return target[:total]


def decode_array(encoded: EncodedArray) -> np.ndarray:
    """Decoded array with the shape and dtype its message names (byte order included).

    A table of unknown length (shape ``(-1,)``) takes its length from the compression's header. Raises
    DecodeError, a ValueError, that names algorithm, shape and sizes.
    """
    data = np.frombuffer(encoded.data, np.uint8)
    try:
        total = encoded.nbytes
        if total < 0:
            total = _table_bytes(data, encoded)
        raw = decode_bytes(encoded.algorithm, encoded.elem_size, data, total)
    except DecodeError as error:
        name = encoded.algorithm or "uncompressed"
        error.args = (
            f"cannot decode {name} array of shape {encoded.shape}, {encoded.dtype} from {len(data)} bytes: "
            f"{error}",
        )
        raise
    return raw.view(encoded.dtype).reshape(encoded.shape, order=encoded.order)


def _header_total(data: np.ndarray) -> int:
    if len(data) < 12:
        raise DecodeError(BLOB_TOO_SHORT, f"{len(data)} bytes")
    return int.from_bytes(data[:8].tobytes(), "big")


def _table_bytes(data: np.ndarray, encoded: EncodedArray) -> int:
    total = _header_total(data)
    # LZ4 gives at most 255 bytes for one: a header that claims more would only cost memory.
    codec = BY_NAME.get(encoded.algorithm)
    if codec is None or not codec.framed or total % encoded.dtype.itemsize or total > 256 * len(data):
        raise DecodeError(WRONG_TOTAL, f"{total} bytes for a table of {encoded.dtype} from {len(data)} bytes")
    return total


def _check_terse(data: bytes, total: int, elem_size: int) -> None:
    """Raise DecodeError unless the header of TERSE data says what must be in them: the vendor's decoder believes it,
    and writes outside its memory where it lies.
    """
    head = _TERSE.match(data)
    if head is None or elem_size <= 0:
        raise DecodeError(VENDOR_REFUSED, "trpx: it does not begin with <Terse .../>")
    said = {name.decode(): int(value) for name, value in _ATTRIBUTE.findall(head[1])}
    values, size = total // elem_size, len(data) - head.end()
    for name, low, high in (
        ("number_of_values", values, values),
        ("memory_size", size, size),
        ("number_of_frames", 1, 1),
        ("block", 1, _MOST_IN_A_TERSE_BLOCK),
        ("prolix_bits", 1, 64),
    ):
        value = said.get(name, 1 if name == "number_of_frames" else -1)
        if not low <= value <= high:
            raise DecodeError(VENDOR_REFUSED, f"trpx: {name} is {value}, expected {low} to {high}")


def _vendor_decode(algorithm: str, elem_size: int, data: np.ndarray, total: int) -> np.ndarray:
    try:
        from dectris.compression import decompress
    except ImportError:
        raise DecodeError(NEEDS_VENDOR if algorithm in BY_NAME else UNKNOWN_ALGORITHM, algorithm) from None
    content = data.tobytes()
    if algorithm == "trpx":
        _check_terse(content, total, elem_size)
    try:
        raw = decompress(content, algorithm, elem_size=elem_size)
    except ValueError as error:
        if str(error).startswith("unknown algorithm"):
            raise DecodeError(UNKNOWN_ALGORITHM, algorithm) from error
        raise DecodeError(VENDOR_REFUSED, f"{algorithm}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        raise DecodeError(VENDOR_REFUSED, f"{algorithm}: {error}") from error
    if len(raw) != total:
        raise DecodeError(WRONG_LENGTH, f"{algorithm}: {len(raw)} bytes, expected {total}")
    return np.frombuffer(bytearray(raw), np.uint8)
