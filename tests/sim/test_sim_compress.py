"""Compressed arrays against the packages that real pipelines decode with."""

import struct

import lz4.block
import numpy as np
import pytest
from hdf5_filter import read_bslz4, write_bslz4
from hypothesis import given, settings
from hypothesis import strategies as st

from live4d_ophyd.decode import decode_array
from live4d_ophyd.sim.compress import check_compression, compress
from live4d_ophyd.sources.dectris.messages import EncodedArray

SHAPES = [(1, 1), (3, 5), (7, 9), (64, 64), (96, 96), (192, 192), (257, 129)]
DTYPES = ["uint8", "uint16", "uint32"]


def arrays(shape, dtype):
    """Typical and awkward frames."""
    rng = np.random.default_rng(0)
    frame = rng.poisson(4.0, shape).astype(dtype)
    frame.flat[:: max(1, frame.size // 7)] = np.iinfo(dtype).max
    yield frame
    yield np.zeros(shape, dtype)
    yield rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    yield (np.arange(frame.size) // 3).astype(dtype).reshape(shape)


@pytest.mark.parametrize("algorithm", ["bslz4", "lz4"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_vendors_decoder_reads_it(shape, dtype, algorithm):
    vendor = pytest.importorskip("dectris.compression", reason="dectris-compression is not installed")
    for frame in arrays(shape, dtype):
        content = vendor.decompress(compress(frame, algorithm), algorithm, elem_size=frame.itemsize)
        assert np.array_equal(np.frombuffer(content, dtype).reshape(shape), frame)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_lz4_blocks_are_read_by_the_lz4_package(shape, dtype):
    for frame in arrays(shape, dtype):
        data = compress(frame, "lz4")
        total, block_bytes = struct.unpack_from(">QI", data)
        assert (total, block_bytes) == (frame.nbytes, 8192)
        position, content = 12, b""
        while position < len(data):
            (size,) = struct.unpack_from(">I", data, position)
            expected = min(block_bytes, total - len(content))
            block = data[position + 4 : position + 4 + size]
            content += block if size == expected else lz4.block.decompress(block, uncompressed_size=expected)
            position += 4 + size
        assert content == frame.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_bslz4_is_what_hdf5_writes_up_to_the_choice_of_matches(dtype):
    for frame in arrays((514, 103), dtype):
        data, reference = compress(frame, "bslz4"), write_bslz4(frame)
        assert data[:12] == reference[:12]
        assert np.array_equal(read_bslz4(data, frame.shape, frame.dtype), frame)
        assert len(data) < 1.1 * len(reference) + 64


def test_incompressible_lz4_blocks_are_stored():
    frame = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    assert len(compress(frame, "lz4")) == 12 + 2 * 4 + frame.nbytes


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([b"\0" * 40, b"abcd", b"xyz" * 9, bytes(range(50))]), max_size=120),
    st.sampled_from(["bslz4", "lz4", "none"]),
    st.sampled_from([64, 512, 8192, 32768]),
)
def test_any_bytes_come_back(pieces, algorithm, block_bytes):
    frame = np.frombuffer(b"".join(pieces) + b"!", np.uint8)[None, :]
    data = compress(frame, algorithm, block_bytes)
    encoded = EncodedArray(frame.shape, frame.dtype, algorithm, 1, data, "C")
    if algorithm == "none":
        assert data == frame.tobytes()
    else:
        assert np.array_equal(decode_array(encoded), frame)


@pytest.mark.parametrize(
    ("algorithm", "block"), [("zip", 8192), ("bslz4", 8190), ("lz4", 0), ("bslz4", 65536)]
)
def test_impossible_settings_are_refused(algorithm, block):
    with pytest.raises(ValueError, match=r"compression is|block size"):
        check_compression(algorithm, block, 2)
