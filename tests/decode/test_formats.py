"""Every algorithm, dtype and element size of the stream decodes, or is refused by name."""

from __future__ import annotations

import builtins
import struct

import cbor2
import numpy as np
import pytest
import zstandard
from decode_oracle import batch_of, bslz4, lz4_blocks, masked_sums, patterns_of, project, shuffle

from live4d_ophyd.decode import CpuDecoder, DecodeError, FrameFormat, Weights, decode_array, describe_status
from live4d_ophyd.frames import status as f
from live4d_ophyd.frames.batch import ALGORITHM, BLOB_LENGTH, BLOB_OFFSET, ELEM_SIZE
from live4d_ophyd.frames.codecs import LZ4, RAW, number_of
from live4d_ophyd.frames.encoded_array import EncodedArray, array_tag

SHAPE = (33, 21)
ALL_DTYPES = ("u1", "<u2", "<u4", "<u8", ">u2", ">u4", "i1", "<i2", "<i4", "<i8", "<f4", ">f4", "<f8", "<f2")


def frames_in(dtype, count=3):
    dtype = np.dtype(dtype)
    counts = np.random.default_rng(9).poisson(4, (count, *SHAPE)).astype(dtype)
    if dtype.kind == "f":
        counts[1, 3, 4] = np.nan
    else:
        counts[1, 3, 4] = np.iinfo(dtype).max
    return counts


def summed(frames, maps):
    """No-data pixels left out, in float64."""
    if frames.dtype.kind == "f":
        return np.einsum("nij,mij->nm", np.nan_to_num(frames.astype(np.float64)), maps)
    return masked_sums(frames, maps)


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("algorithm", ["bslz4", "lz4", "raw"])
def test_pixels_and_sums_of_every_dtype(dtype, algorithm):
    frames = frames_in(dtype)
    encode, code = {
        "bslz4": (lambda a: bslz4(a, 512), None),
        "lz4": (lambda a: lz4_blocks(a, 500), LZ4),
        "raw": (np.ndarray.tobytes, RAW),
    }[algorithm]
    batch = batch_of([encode(frame) for frame in frames], SHAPE, dtype)
    if code is not None:
        batch.index[:, ALGORITHM] = code
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype(dtype)))
    pixels, status = patterns_of(decoder, batch)
    assert not status.any()
    assert pixels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(pixels, frames)
    maps = np.random.default_rng(1).normal(size=(2, *SHAPE))
    sums, status = project(decoder, batch, Weights(maps))
    assert not status.any()
    np.testing.assert_allclose(sums, summed(frames, maps), rtol=1e-12, atol=1e-9)
    ones = Weights(np.ones((1, *SHAPE), int))
    if np.dtype(dtype).str[1:] in ("u8", "i8"):
        with pytest.raises(ValueError, match="float weights"):
            project(decoder, batch, ones)
    else:
        sums, status = project(decoder, batch, ones)
        np.testing.assert_array_equal(sums, summed(frames, ones.maps))


@pytest.mark.parametrize("elem_size", [1, 2, 4, 8])
def test_an_element_size_that_is_not_the_dtype(elem_size):
    frames = frames_in("<u4")
    batch = batch_of([bslz4(frame, 512, elem_size) for frame in frames], SHAPE, "<u4", elem_size=elem_size)
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u4")))
    np.testing.assert_array_equal(patterns_of(decoder, batch)[0], frames)
    maps = np.ones((1, *SHAPE), int)
    np.testing.assert_array_equal(project(decoder, batch, Weights(maps))[0], masked_sums(frames, maps))


@pytest.mark.parametrize("elem_size", [0, 3, 255])
def test_an_impossible_element_size_is_refused(elem_size):
    batch = batch_of([bslz4(frames_in("<u4")[0])], SHAPE, "<u4", elem_size=elem_size)
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u4")))
    assert patterns_of(decoder, batch)[1].tolist() == [f.BAD_ELEM_SIZE]


FRAME = np.random.default_rng(3).poisson(4, SHAPE).astype("<u2")
BLOB = bslz4(FRAME, 512)
HEADER = struct.pack(">QI", FRAME.nbytes, 512)


def block(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@pytest.mark.parametrize(
    ("blob", "status"),
    [
        (BLOB, f.OK),
        (b"", f.BLOB_TOO_SHORT),
        (BLOB[:11], f.BLOB_TOO_SHORT),
        (struct.pack(">QI", FRAME.nbytes + 2, 512) + BLOB[12:], f.WRONG_TOTAL),
        (struct.pack(">QI", 2**63, 512) + BLOB[12:], f.WRONG_TOTAL),
        (struct.pack(">QI", FRAME.nbytes, 0) + BLOB[12:], f.BAD_BLOCK_SIZE),
        (struct.pack(">QI", FRAME.nbytes, 513) + BLOB[12:], f.BAD_BLOCK_SIZE),
        (struct.pack(">QI", FRAME.nbytes, 2**31) + BLOB[12:], f.BAD_BLOCK_SIZE),
        (BLOB[:14], f.BLOCK_TRUNCATED),
        (BLOB[:40], f.BLOCK_TRUNCATED),
        (HEADER + struct.pack(">I", 2**32 - 1) + BLOB[16:], f.BLOCK_TRUNCATED),
        (HEADER + block(b"\x10\x00\x00\x00"), f.BAD_LZ4),  # offset 0
        (HEADER + block(b"\x10\x00"), f.SHORT_BLOCK),
        (HEADER + block(b""), f.BAD_LZ4),
        (BLOB + b"\x00", f.LEFT_OVER),
        (BLOB[:-1], f.LEFT_OVER),
    ],
)
def test_broken_framing_is_named(blob, status):
    batch = batch_of([blob, BLOB], SHAPE, "<u2")
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2")))
    sums, found = project(decoder, batch, Weights(np.ones((1, *SHAPE), int)))
    assert found.tolist() == [status, 0]
    assert sums[:, 0].tolist() == [FRAME.sum() if status == 0 else 0, FRAME.sum()]
    assert patterns_of(decoder, batch)[1].tolist() == [status, 0]
    assert not describe_status(status).startswith("unknown status")


def test_a_broken_block_that_no_detector_touches_makes_a_bad_frame():
    frame = np.random.default_rng(0).poisson(3, (64, 64)).astype("<u2")
    blob = bytearray(bslz4(frame, 512))
    blob[16:20] = (
        b"\xff\xff\xff\xff"  # the first block's first token now asks for more literals than there are
    )
    corner = np.zeros((1, 64, 64), int)
    corner[0, -1, -1] = 1
    batch = batch_of([bytes(blob)], (64, 64), "<u2")
    form = FrameFormat(64, 64, np.dtype("<u2"))
    assert project(CpuDecoder(form), batch, Weights(corner))[1].tolist() == [f.BAD_LZ4]
    sums, status = project(CpuDecoder(form, verify=False), batch, Weights(corner))
    assert status.tolist() == [0]
    assert sums.item() == frame[-1, -1]


def test_a_blob_outside_the_buffer_is_not_read():
    batch = batch_of([BLOB] * 4, SHAPE, "<u2")
    batch.index[0, BLOB_OFFSET] = -1
    batch.index[1, BLOB_LENGTH] = 2**62
    batch.index[2, BLOB_OFFSET] = 2**62
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2")))
    assert patterns_of(decoder, batch)[1].tolist() == [f.OUTSIDE_BUFFER] * 3 + [0]


def test_lz4_blocks_that_are_stored_and_broken():
    noise = np.random.default_rng(5).integers(0, 2**16, SHAPE).astype("<u2")
    blob = lz4_blocks(noise, 512)
    assert struct.unpack(">I", blob[12:16])[0] == 512  # incompressible: stored
    cases = [blob, blob[:-1], blob + b"\x00", blob[:12], struct.pack(">QI", noise.nbytes, 0) + blob[12:]]
    batch = batch_of(cases, SHAPE, "<u2", algorithm=LZ4)
    pixels, status = patterns_of(CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2"))), batch)
    np.testing.assert_array_equal(pixels[0], noise)
    assert status.tolist() == [0, f.BLOCK_TRUNCATED, f.LEFT_OVER, f.BLOCK_TRUNCATED, f.BAD_BLOCK_SIZE]


def message_with(algorithm: str, data: bytes) -> bytes:
    compressed = cbor2.CBORTag(56500, [algorithm, 2, data])
    array = cbor2.CBORTag(40, [list(SHAPE), cbor2.CBORTag(array_tag(np.dtype("<u2")), compressed)])
    image = {
        "type": "image",
        "series_id": 1,
        "series_unique_id": "01",
        "image_id": 0,
        "data": {"threshold_1": array},
    }
    return cbor2.dumps(image)


def batch_with(algorithm: str, data: bytes):
    message = message_with(algorithm, data)
    batch = batch_of([message], SHAPE, "<u2", algorithm=number_of(algorithm))
    batch.index[0, BLOB_OFFSET], batch.index[0, BLOB_LENGTH] = message.index(data), len(data)
    batch.index[0, ELEM_SIZE] = 2
    return batch


def test_an_unknown_algorithm_is_named():
    batch = batch_with("zfp", b"twelve bytes and more")
    status = patterns_of(CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2"))), batch)[1]
    assert status.tolist() == [f.UNKNOWN_ALGORITHM]
    assert describe_status(status[0]) == "unknown compression algorithm"


@pytest.mark.parametrize("algorithm", ["bszstd", "trpx"])
def test_vendor_algorithms_without_the_vendor_package(algorithm, monkeypatch):
    really = builtins.__import__

    def without_vendor(name, *args, **kwargs):
        if name.startswith("dectris"):
            raise ImportError(name)
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_vendor)
    data = struct.pack(">QI", FRAME.nbytes, 8192) + b"whatever"
    status = patterns_of(CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2"))), batch_with(algorithm, data))[1]
    assert status.tolist() == [f.NEEDS_VENDOR]
    assert "dectris-compression" in describe_status(f.NEEDS_VENDOR)


def test_vendor_algorithms_with_broken_data():
    pytest.importorskip("dectris.compression", reason="dectris-compression is not installed")
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2")))
    data = struct.pack(">QI", FRAME.nbytes, 8192) + b"whatever"
    assert patterns_of(decoder, batch_with("bszstd", data))[1].tolist() == [f.VENDOR_REFUSED]
    assert patterns_of(decoder, batch_with("bszstd", b"\x7f" + data))[1].tolist() == [f.WRONG_TOTAL]
    assert patterns_of(decoder, batch_with("trpx", data))[1].tolist() == [f.VENDOR_REFUSED]


def test_bszstd_goes_through_the_vendor():
    pytest.importorskip("dectris.compression", reason="dectris-compression is not installed")
    pixels = np.arange(64, dtype="<u2").reshape(8, 8)
    # the blocks of a bszstd blob are plain zstd frames of bit planes
    planes = zstandard.ZstdCompressor().compress(shuffle(pixels.reshape(-1)))
    data = struct.pack(">QI", pixels.nbytes, 8192) + block(planes)
    array = EncodedArray((8, 8), np.dtype("<u2"), "bszstd", 2, data)
    np.testing.assert_array_equal(decode_array(array), pixels)


def test_decode_array_of_a_float_flat_field_in_both_orders():
    flat = np.random.default_rng(2).normal(1, 0.03, SHAPE).astype("<f4")
    for order in ("C", "F"):
        for algorithm, data, size in (
            ("", flat.tobytes(order), 0),
            ("bslz4", bslz4(flat.ravel(order), 256), 4),
            ("lz4", lz4_blocks(flat.ravel(order), 300), 4),
        ):
            array = EncodedArray(SHAPE, np.dtype("<f4"), algorithm, size, data, order)
            np.testing.assert_array_equal(decode_array(array), flat)


def test_decode_array_takes_a_tables_length_from_its_header():
    table = np.arange(1000, dtype="<f4")
    array = EncodedArray((-1,), np.dtype("<f4"), "bslz4", 4, bslz4(table))
    np.testing.assert_array_equal(decode_array(array), table)
    hostile = struct.pack(">QI", 2**40, 8192) + b"\x00" * 100
    with pytest.raises(DecodeError, match="1099511627776"):
        decode_array(EncodedArray((-1,), np.dtype("<f4"), "bslz4", 4, hostile))


def test_decode_array_says_what_is_wrong():
    array = EncodedArray(SHAPE, np.dtype("<u2"), "bslz4", 2, BLOB[:-3])
    with pytest.raises(
        ValueError, match=rf"bslz4 array of shape \(33, 21\), uint16 from {len(BLOB) - 3} bytes"
    ) as error:
        decode_array(array)
    assert isinstance(error.value, DecodeError)
    with pytest.raises(DecodeError, match="uncompressed array"):
        decode_array(EncodedArray(SHAPE, np.dtype("<u2"), "", 0, b"1234"))


def test_formats_that_no_frame_can_have():
    with pytest.raises(ValueError, match="0 x 5 px"):
        FrameFormat(0, 5, np.dtype("<u2"))
    with pytest.raises(ValueError, match="complex128"):
        FrameFormat(5, 5, np.dtype(complex))
