"""The LZ4 decoder copies every kind of match right, and is never more lenient than the reference library."""

from __future__ import annotations

import lz4.block
import numpy as np
import pytest
from decode_oracle import guarded, lz4_reference
from numba import int64, njit

from live4d_ophyd.decode.cpu.lz4 import lz4_decode, lz4_verify
from live4d_ophyd.decode.cpu.vectors import SLACK
from live4d_ophyd.frames.memory import NOGIL


@njit(**NOGIL)
def decode_and_verify(source, target, size):
    start, length = int64(source.ctypes.data), source.shape[0]
    return lz4_decode(start, length, int64(target.ctypes.data), size), lz4_verify(start, length, size)


SOURCE, TARGET = guarded(4), guarded(16)


def decode(data: bytes, size: int) -> bytes | int:
    """Decoded bytes or the negative reason, with both buffers against a page without access."""
    source = SOURCE[len(SOURCE) - len(data) :]
    source[:] = np.frombuffer(data, np.uint8)
    target = TARGET[len(TARGET) - size - SLACK :]
    target[:] = 0xA5
    written, verified = decode_and_verify(source, target, size)
    assert (written < 0) == (verified < 0), data.hex()
    assert (target[size + 64 :] == 0xA5).all()
    if written < 0:
        return int(written)
    assert written == verified
    return target[:written].tobytes()


def extended(length: int) -> bytes:
    """Bytes of a length that its nibble of 15 does not hold."""
    return b"\xff" * ((length - 15) // 255) + bytes([(length - 15) % 255]) if length >= 15 else b""


def sequence(literals: bytes, offset: int = 0, match: int = 4) -> bytes:
    """One LZ4 sequence; the last of a block has offset 0, for none."""
    token = min(15, len(literals)) << 4 | (min(15, match - 4) if offset else 0)
    data = bytes([token]) + extended(len(literals)) + literals
    return data + offset.to_bytes(2, "little") + extended(match - 4) if offset else data


@pytest.mark.parametrize("offset", [*range(1, 36), 63, 64, 65, 300])
def test_matches_of_every_length_and_overlap(offset):
    rng = np.random.default_rng(offset)
    start = rng.bytes(300)
    for match in (*range(4, 40), 63, 64, 65, 273, 274, 275, 529, 1000, 3000):
        tail = rng.bytes(12)
        data = sequence(start, offset, match) + sequence(tail[:3], 7, 5) + sequence(tail)
        expected = lz4_reference(data)
        assert decode(data, len(expected)) == expected


@pytest.mark.parametrize("length", [0, 1, 5, 14, 15, 16, 31, 32, 33, 269, 270, 271, 600])
def test_literals_of_every_length(length):
    literals = np.random.default_rng(length).bytes(length)
    assert decode(sequence(literals), length) == literals
    data = sequence(b"x" + literals, 1, 20) + sequence(literals + b"12345678")
    expected = lz4_reference(data)
    assert decode(data, len(expected)) == expected


def test_blocks_of_the_reference_encoder():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        raw = rng.poisson(rng.exponential(2), int(rng.integers(1, 3000))).astype(np.uint8).tobytes()
        mode = ("default", "fast", "high_compression")[rng.integers(3)]
        assert decode(lz4.block.compress(raw, mode=mode, store_size=False), len(raw)) == raw


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x10",
        b"\xf0",
        b"\xf0\xff\xff",
        b"\x10a\x01",
        b"\x10a\x00\x00" + sequence(b"0123456789ab"),
        b"\x10a\x02\x00" + sequence(b"0123456789ab"),
        b"\x1fa\x01\x00\xff\xff\xff",
        b"\x1fa\x01\x00" + b"\xff" * 2000 + b"\x00" + sequence(b"0123456789ab"),
        sequence(b"a" * 70),
    ],
)
def test_broken_blocks(data):
    assert isinstance(decode(data, 64), int)


def test_never_more_lenient_than_the_reference_library():
    """Short blocks of random sequences, many of which break one of LZ4's rules about a block's end."""
    rng = np.random.default_rng(1)
    accepted = refused = 0
    for _ in range(30_000):
        data = b""
        for _ in range(int(rng.integers(1, 4))):
            data += sequence(
                rng.bytes(int(rng.integers(0, 20))), int(rng.integers(0, 9)), int(rng.integers(4, 30))
            )
        data += sequence(rng.bytes(int(rng.integers(0, 14))))
        size = int(rng.integers(1, 90))
        if rng.random() < 0.5:
            try:
                size = max(1, len(lz4_reference(data)) + int(rng.integers(-1, 2)))
            except (ValueError, IndexError):
                refused += 1
        ours = decode(data, size)
        try:
            theirs = lz4.block.decompress(data, uncompressed_size=size)
        except lz4.block.LZ4BlockError:
            assert isinstance(ours, int) or len(ours) != size, data.hex()
            continue
        if isinstance(ours, bytes):
            assert ours == theirs
            accepted += 1
    assert accepted > 1000
    assert refused > 1000
