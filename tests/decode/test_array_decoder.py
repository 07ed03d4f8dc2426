"""One array at a time: what cannot be decoded is refused with the code of what is wrong."""

import struct
import sys

import numpy as np
import pytest
from decode_oracle import bslz4

from live4d_ophyd.decode.cpu.array_decoder import decode_array, decode_bytes
from live4d_ophyd.frames import status as f
from live4d_ophyd.frames.encoded_array import EncodedArray
from live4d_ophyd.frames.status import DecodeError

PIXELS = np.arange(24, dtype="<u2").reshape(4, 6)


def encoded(data, algorithm="bslz4", elem_size=2, shape=(4, 6), dtype="<u2"):
    return EncodedArray(shape, np.dtype(dtype), algorithm, elem_size, data)


@pytest.mark.parametrize("elem_size", [1, 2, 4, 8])
def test_bit_planes_of_every_element_size_are_read_back(elem_size):
    values = np.random.default_rng(elem_size).integers(0, 200, 300).astype(f"<u{elem_size}")
    raw = decode_bytes("bslz4", elem_size, np.frombuffer(bslz4(values), np.uint8), values.nbytes)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw.view(values.dtype), values)


def test_uncompressed_data_is_copied():
    data = np.arange(8, dtype=np.uint8)
    raw = decode_bytes("", 0, data, 8)
    np.testing.assert_array_equal(raw, data)
    assert not np.shares_memory(raw, data)


@pytest.mark.parametrize(
    ("array", "status", "words"),
    [
        (encoded(bytes(47), "", 0), f.WRONG_LENGTH, "47 bytes, expected 48"),
        (encoded(bytes(49), "", 0), f.WRONG_LENGTH, "49 bytes, expected 48"),
        (encoded(bytes(11)), f.BLOB_TOO_SHORT, "11 bytes"),
        (encoded(struct.pack(">QI", 47, 8192)), f.WRONG_TOTAL, "47 bytes, expected 48"),
        (encoded(struct.pack(">QI", 49, 8192), "lz4"), f.WRONG_TOTAL, "49 bytes, expected 48"),
        (encoded(struct.pack(">QI", 49, 8192), "bszstd"), f.WRONG_TOTAL, "49 bytes, expected 48"),
        (encoded(struct.pack(">QI", 48, 0)), f.BAD_BLOCK_SIZE, "block size"),
        (encoded(struct.pack(">QI", 48, 8192), elem_size=3), f.BAD_ELEM_SIZE, "element size 3"),
        # Tables whose length is to be taken from the header.
        (
            encoded(struct.pack(">QI", 47, 8192) + bytes(9), shape=(-1,)),
            f.WRONG_TOTAL,
            "47 bytes for a table",
        ),
        (
            encoded(struct.pack(">QI", 256 * 12 + 2, 8192), shape=(-1,)),
            f.WRONG_TOTAL,
            "3074 bytes for a table",
        ),
        (encoded(struct.pack(">QI", 48, 8192), "trpx", shape=(-1,)), f.WRONG_TOTAL, "48 bytes for a table"),
    ],
)
def test_what_cannot_be_decoded_is_refused_with_the_reason(array, status, words):
    with pytest.raises(f.DecodeError, match=words) as caught:
        decode_array(array)
    assert caught.value.status == status
    name = array.algorithm or "uncompressed"
    begin = f"cannot decode {name} array of shape {array.shape}, uint16 from {len(array.data)} bytes: "
    assert str(caught.value).startswith(begin + f.describe_status(status))


def test_a_table_may_be_compressed_to_a_256th():
    """No more: a header that claims more would only cost memory."""
    with pytest.raises(f.DecodeError) as caught:
        decode_array(encoded(struct.pack(">QI", 256 * 12, 8192), shape=(-1,)))
    assert caught.value.status != f.WRONG_TOTAL


def test_an_empty_table_is_empty():
    assert decode_array(encoded(struct.pack(">QI", 0, 8192), shape=(-1,))).shape == (0,)


@pytest.mark.parametrize(
    ("algorithm", "status"),
    [("bszstd", f.NEEDS_VENDOR), ("trpx", f.NEEDS_VENDOR), ("gzip", f.UNKNOWN_ALGORITHM)],
)
def test_without_the_vendors_decoder_its_algorithms_say_what_they_need(monkeypatch, algorithm, status):
    monkeypatch.setitem(sys.modules, "dectris.compression", None)
    with pytest.raises(f.DecodeError, match=rf"\({algorithm}\)") as caught:
        decode_array(encoded(struct.pack(">QI", 48, 8192), algorithm))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("unknown algorithm: gzip"), f.UNKNOWN_ALGORITHM),
        (ValueError("bad block"), f.VENDOR_REFUSED),
        (RuntimeError("bad block"), f.VENDOR_REFUSED),
        (MemoryError("bad block"), f.VENDOR_REFUSED),
    ],
)
def test_what_the_vendors_decoder_refuses_is_refused(vendor, error, status):
    def refuse(data, algorithm, elem_size):
        raise error

    vendor.decompress = refuse
    words = r"\(gzip\)" if status == f.UNKNOWN_ALGORITHM else r"\(gzip: bad block\)"
    with pytest.raises(f.DecodeError, match=words) as caught:
        decode_array(encoded(b"data", "gzip"))
    assert caught.value.status == status


def test_what_the_vendors_decoder_gives_is_taken_if_it_is_the_whole(vendor):
    asked = []

    def decompress(data, algorithm, elem_size):
        asked.append((data, algorithm, elem_size))
        return PIXELS.tobytes()

    vendor.decompress = decompress
    np.testing.assert_array_equal(decode_array(encoded(b"data", "gzip")), PIXELS)
    assert asked == [(b"data", "gzip", 2)]
    with pytest.raises(f.DecodeError, match="gzip: 48 bytes, expected 40") as caught:
        decode_array(encoded(b"data", "gzip", shape=(4, 5)))
    assert caught.value.status == f.WRONG_LENGTH


@pytest.fixture
def vendor(monkeypatch):
    """A stand-in for the vendor's decoder."""
    module = type(sys)("dectris.compression")
    monkeypatch.setitem(sys.modules, "dectris", type(sys)("dectris"))
    monkeypatch.setitem(sys.modules, "dectris.compression", module)
    return module


TERSE = '<Terse prolix_bits="16" signed="0" block="12" memory_size="{}" number_of_values="{}" number_of_frames="{}"/>'


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (TERSE.format(64, 1 << 26, 1), "number_of_values is 67108864, expected 4096 to 4096"),
        (TERSE.format(65, 4096, 1), "memory_size is 65, expected 64 to 64"),
        (TERSE.format(64, 4096, 5), "number_of_frames is 5"),
        (TERSE.format(64, 4096, 1).replace('"12"', '"0"'), "block is 0"),
        (TERSE.format(64, 4096, 1).replace('"12"', '"999999999"'), "block is 999999999"),
        (TERSE.format(64, 4096, 1).replace('"16"', '"70"'), "prolix_bits is 70"),
        ('<Terse prolix_bits="16"/>', "number_of_values is -1"),
        ("nothing of it", "does not begin with <Terse"),
    ],
)
def test_what_the_vendor_s_decoder_would_believe_is_checked_first(header, words):
    """It writes where a header that lies sends it, and ends the process."""
    pytest.importorskip("dectris.compression")
    data = np.frombuffer(header.encode() + bytes(64), np.uint8)
    with pytest.raises(DecodeError, match=words):
        decode_bytes("trpx", 2, data, 8192)


@pytest.mark.parametrize("bounds", [{'"12"': '"1"', '"16"': '"1"'}, {'"12"': '"4096"', '"16"': '"64"'}])
def test_a_header_at_the_bounds_of_what_can_be_is_believed(vendor, bounds):
    header = TERSE.format(64, 4096, 1)
    for usual, bound in bounds.items():
        header = header.replace(usual, bound)
    vendor.decompress = lambda data, algorithm, elem_size: bytes(8192)
    data = np.frombuffer(header.encode() + bytes(64), np.uint8)
    assert not decode_bytes("trpx", 2, data, 8192).any()
