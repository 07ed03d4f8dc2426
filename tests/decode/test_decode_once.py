"""One submission gives sums and patterns of the same frames, decoded once, in parts."""

from __future__ import annotations

import numpy as np
import pytest
from decode_oracle import batch_of, bslz4, lz4_blocks, masked_sums

from live4d_ophyd.decode import CpuDecoder, Demand, FrameFormat, Saturation, Weights
from live4d_ophyd.decode.cpu import decoder as module
from live4d_ophyd.frames import status as f
from live4d_ophyd.frames.batch import ALGORITHM
from live4d_ophyd.frames.codecs import LZ4

SHAPE = (33, 21)


def frames_of(dtype, n=7, seed=4):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    frames = rng.poisson(3, (n, *SHAPE)).astype(dtype)
    frames[1, 5, 5] = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
    return frames


def maps_of(*radii):
    row, col = np.indices(SHAPE)
    return np.stack([(np.hypot(row - 16, col - 10) <= radius).astype(int) for radius in radii])


def together(decoded):
    """All parts as (sums, saturated, patterns, status, flagged), each in the order of the entries."""
    parts = [
        [part.at, part.sums, part.saturated, None if part.patterns is None else part.patterns.copy(), part.status,
         part.flagged]
        for part in decoded.parts()
    ]  # fmt: skip
    at, *arrays = zip(*parts)
    order = np.argsort(np.concatenate(at))
    assert np.array_equal(np.sort(np.concatenate(at)), np.arange(len(order)))
    return [None if of[0] is None else np.concatenate(of)[order] for of in arrays]


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i4", "<f4", "<f8"])
@pytest.mark.parametrize("integer", [True, False])
def test_sums_and_patterns_come_from_one_pass(dtype, integer):
    frames, maps = frames_of(dtype), maps_of(4, 40)
    weights = Weights(maps if integer else maps * 0.5)
    batch = batch_of([bslz4(frame, 512) for frame in frames], SHAPE, dtype)
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype(dtype)))
    decoded = decoder.submit(batch, None, Demand(weights, patterns=True))
    assert decoded.ready
    sums, saturated, patterns, status, flagged = together(decoded)
    assert decoder.decodes == 1
    assert not status.any()
    np.testing.assert_array_equal(patterns, frames)
    alone, _, nothing, _, _ = together(decoder.submit(batch, None, Demand(weights)))
    assert nothing is None
    np.testing.assert_array_equal(sums, alone)
    if integer and np.dtype(dtype).kind == "u":
        assert sums.dtype == np.int64
        np.testing.assert_array_equal(sums, masked_sums(frames, maps))
    # (5, 5) is outside the small disk and inside the large one.
    assert saturated.tolist() == [[False, i == 1] for i in range(7)]
    np.testing.assert_array_equal(flagged, saturated.any(axis=1))


def test_patterns_alone_have_no_sums():
    frames = frames_of("<u2")
    batch = batch_of([bslz4(frame) for frame in frames], SHAPE, "<u2")
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2")))
    sums, saturated, patterns, status, flagged = together(
        decoder.submit(batch, np.array([5, 1]), Demand(None, True))
    )
    assert sums is None
    assert saturated is None
    assert status.tolist() == [0, 0]
    assert flagged.tolist() == [False, False]
    np.testing.assert_array_equal(patterns, frames[[5, 1]])


def test_bad_frames_are_zero_in_sums_and_patterns():
    frames = frames_of("<u4")
    frames[:] |= 1
    blobs = [bslz4(frame, 512) for frame in frames]
    blobs[2] = blobs[2][:-3]  # the frame's first blocks are good
    blobs[4] = lz4_blocks(frames[4], 500)
    batch = batch_of(blobs, SHAPE, "<u4")
    batch.index[4, ALGORITHM] = LZ4
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u4")))
    maps = maps_of(4, 40)
    sums, _, patterns, status, _ = together(decoder.submit(batch, None, Demand(Weights(maps), True)))
    assert status.tolist() == [0, 0, f.LEFT_OVER, 0, 0, 0, 0]
    good = [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(sums[good], masked_sums(frames, maps)[good])
    np.testing.assert_array_equal(patterns[good], frames[good])
    assert not sums[2].any()
    assert not patterns[2].any()


def test_many_patterns_come_in_parts_of_one_memory(monkeypatch):
    monkeypatch.setattr(module, "PATTERN_BYTES", 3 * SHAPE[0] * SHAPE[1] * 2 + 5)
    frames = frames_of("<u2", 8)
    batch = batch_of([bslz4(frame) for frame in frames], SHAPE, "<u2")
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2")))
    decoded = decoder.submit(batch, None, Demand(Weights(maps_of(40)), True))
    parts = [(part.at.tolist(), part.patterns.ctypes.data) for part in decoded.parts()]
    assert [at for at, _ in parts] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert len({address for _, address in parts}) == 1
    np.testing.assert_array_equal(together(decoder.submit(batch, None, Demand(None, True)))[2], frames)
    assert decoder.decodes == 2


def test_what_does_not_fit_is_refused_before_anything_is_decoded():
    frames = frames_of("<u2")
    batch = batch_of([bslz4(frame) for frame in frames], SHAPE, "<u2")
    decoder = CpuDecoder(FrameFormat(*SHAPE, np.dtype("<u2")), saturation=Saturation())
    with pytest.raises(ValueError, match="weights for frames of"):
        decoder.submit(batch, None, Demand(Weights(np.ones((1, 8, 8), int)), True))
    with pytest.raises(IndexError, match=r"rows 7\.\.7"):
        decoder.submit(batch, np.array([7]), Demand(None, True))
    assert decoder.decodes == 0
