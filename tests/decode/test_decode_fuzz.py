"""Mutated and truncated frames neither crash the decoder nor give a number that the vendor's would not.

Every blob ends where a page without access begins: one byte read too far would end the test run.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
from decode_oracle import batch_of, bslz4, decode_bslz4, guarded, lz4_blocks, patterns_of, project
from how_many import examples

from live4d_ophyd.decode import CpuDecoder, FrameFormat, Weights
from live4d_ophyd.frames.batch import BLOB_LENGTH, BLOB_OFFSET
from live4d_ophyd.frames.codecs import LZ4

try:
    from dectris.compression import decompress
except ImportError:
    decompress = None

SHAPE = (40, 37)
#: mutations per dtype and kind of detector; of all 8 of them 120,000
ROUNDS = examples(15_000)


def mutate(blob: bytes, rng: np.random.Generator) -> bytes:
    """One of the ways data go wrong on a wire or at the hands of somebody who means it."""
    data = bytearray(blob)
    kind = rng.integers(8)
    at = int(rng.integers(12, len(data)))
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        del data[at : at + int(rng.integers(1, 20))]
    elif kind == 2:
        data[at:at] = rng.bytes(int(rng.integers(1, 20)))
    elif kind == 3:
        other = int(rng.integers(12, len(data)))
        size = int(rng.integers(1, 40))
        data[at : at + size] = data[other : other + size]
    elif kind == 4:
        size = (0, 1, 7, 8, 16, 64, 2**20, 2**31 - 32, 2**32 - 1)[rng.integers(9)]
        place, form = ((0, ">Q"), (8, ">I"), (12, ">I"))[rng.integers(3)]
        data[place : place + struct.calcsize(form)] = struct.pack(form, size)
    elif kind == 5:
        data[at] = (0, 1, 15, 0xF0, 0xFF)[rng.integers(5)]
    else:
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(12, len(data)))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def reference(blob: bytes, algorithm: str, elem_size: int) -> bytes | None:
    """What the vendor's decoder, or else the plain one, makes of a blob; None when it refuses."""
    try:
        if decompress is not None:
            return decompress(blob, algorithm, elem_size=elem_size)
        return decode_bslz4(blob, elem_size)
    except (RuntimeError, ValueError, IndexError, AssertionError, struct.error):
        return None


def decoder_on_guarded_scratch(dtype: str) -> CpuDecoder:
    """A decoder that cannot write behind its scratch unnoticed either."""
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype(dtype)))
    decoder._planes = guarded(4)[-len(decoder._planes) :]
    decoder._keep = guarded(1)[-len(decoder._keep) :]
    return decoder


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_sums_of_mutated_frames(dtype, kind):
    rng = np.random.default_rng(20261122 + np.dtype(dtype).itemsize)
    inside = np.hypot(*(np.indices(SHAPE) - np.array([[[20]], [[18]]]))) <= 8
    frames = rng.poisson(np.where(inside, 8, 0.1), (3, *SHAPE)).astype(dtype)
    frames[1, 3, 5] = np.iinfo(dtype).max
    frames[2] = rng.integers(0, np.iinfo(dtype).max, SHAPE, dtype, endpoint=True)
    originals = [bslz4(frame, block) for frame in frames for block in (64, 512, 8192)]
    neighbours = [originals[0], originals[1]]
    maps = np.stack([inside, np.arange(inside.size).reshape(SHAPE) % 5 - 2]).astype(kind)
    weights = Weights(maps)
    decoder = decoder_on_guarded_scratch(dtype)

    buffer = guarded(8)
    batch = batch_of([*neighbours, b""], SHAPE, dtype)
    buffer[: len(batch.buffer)] = batch.buffer
    batch.buffer = buffer
    expected, status = project(decoder, batch, weights, np.arange(2))
    assert not status.any()

    accepted = refused = 0
    rows = np.array([0, 2, 1])
    for _ in range(ROUNDS):
        blob = mutate(originals[rng.integers(len(originals))], rng)
        if blob:
            buffer[-len(blob) :] = np.frombuffer(blob, np.uint8)
        batch.index[2, BLOB_OFFSET], batch.index[2, BLOB_LENGTH] = len(buffer) - len(blob), len(blob)
        sums, status = project(decoder, batch, weights, rows)
        assert status[0] == status[2] == 0
        assert (sums[[0, 2]] == expected).all()
        if status[1]:
            refused += 1
            assert not sums[1].any()
            continue
        accepted += 1
        if decompress is None and accepted % 50:
            continue
        theirs = reference(blob, "bslz4", np.dtype(dtype).itemsize)
        assert theirs is not None, f"a number for {blob.hex()}, which the reference refuses"
        pixels = np.frombuffer(theirs, dtype).reshape(SHAPE)
        counts = np.where(pixels == np.iinfo(dtype).max, 0, pixels).astype(kind)
        np.testing.assert_allclose(
            sums[1], (counts * maps).sum(axis=(1, 2)), rtol=1e-12, atol=1e-3 * (kind != np.int64)
        )
    assert accepted > ROUNDS // 50
    assert refused > ROUNDS // 4


@pytest.mark.parametrize("algorithm", ["bslz4", "lz4"])
def test_pixels_of_mutated_frames(algorithm):
    rng = np.random.default_rng(7)
    frame = rng.poisson(2, SHAPE).astype("<u2")
    encode = bslz4 if algorithm == "bslz4" else lz4_blocks
    originals = [encode(frame, block) for block in (64, 512, 8192)]
    decoder = decoder_on_guarded_scratch("<u2")
    decoder._patterns = guarded(1)[-frame.nbytes :].view("<u2").reshape(1, *SHAPE)
    buffer = guarded(8)
    batch = batch_of([b""], SHAPE, "<u2", **({"algorithm": LZ4} if algorithm == "lz4" else {}))
    batch.buffer = buffer
    accepted = 0
    for _ in range(ROUNDS):
        blob = mutate(originals[rng.integers(len(originals))], rng)
        if blob:
            buffer[-len(blob) :] = np.frombuffer(blob, np.uint8)
        batch.index[0, BLOB_OFFSET], batch.index[0, BLOB_LENGTH] = len(buffer) - len(blob), len(blob)
        pixels, status = patterns_of(decoder, batch)
        if status[0] == 0 and decompress is not None:
            accepted += 1
            assert pixels.tobytes() == reference(blob, algorithm, 2)
    assert decompress is None or accepted > ROUNDS // 50
