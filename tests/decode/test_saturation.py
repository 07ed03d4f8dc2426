"""Pixels that hold no count are found under each map, and left out of its sum or counted as asked."""

from __future__ import annotations

import numpy as np
import pytest
from decode_oracle import batch_of, bslz4, project_all
from test_project import distance

from live4d_ophyd.decode import CpuDecoder, FrameFormat, Saturation, Weights
from live4d_ophyd.frames.codecs import RAW

SHAPES = [(192, 192), (103, 51), (5, 3)]  # the last two have pixels behind their last block


def clipped(shape, dtype, limit, rng):
    """Frames with no pixel at the limit, one at, one far above, one clipped everywhere, and noise around it."""
    highest = int(np.iinfo(dtype).max)
    frames = rng.poisson(5, (5, *shape)).astype(dtype)
    frames[1][tuple(s // 2 for s in shape)] = limit
    frames[2].flat[-1] = highest
    frames[3] = limit
    frames[4] = rng.integers(max(limit - 3, 0), min(limit + 3, highest), shape, dtype, endpoint=True)
    return frames


def maps_of(shape, rng):
    """Overlapping detectors, one of them with both signs, and one that shares its mask with another."""
    inside = distance(shape) <= min(shape) / 4
    corner = np.zeros(shape, bool)
    corner[-1, -1] = True
    return np.stack([inside, 3 * inside, ~inside, corner, rng.integers(-9, 9, shape)]).astype(np.int64)


def expected(frames, maps, limit, counted):
    found = frames >= limit
    values = np.where(found & (not counted), 0, frames).astype(object if maps.dtype == np.int64 else float)
    sums = np.stack([(values * m).sum(axis=(1, 2)) for m in maps], axis=1)
    saturated = np.stack([(found & (m != 0)).any(axis=(1, 2)) for m in maps], axis=1)
    return sums, saturated


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [("u1", None), ("u1", 200), ("<u2", 21517), ("<u2", 65534), ("<u4", 1 << 20), ("<u4", 7)],
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_saturated_pixels_are_found_and_treated_as_asked(shape, dtype, value, counted, kind):
    rng = np.random.default_rng(11)
    limit = np.iinfo(dtype).max if value is None else value
    frames, maps = clipped(shape, dtype, limit, rng), maps_of(shape, rng).astype(kind)
    sums, saturated = expected(frames, maps, limit, counted)
    decoder = CpuDecoder(FrameFormat(*shape, np.dtype(dtype)), saturation=Saturation(True, value, counted))
    for batch in (
        batch_of([bslz4(frame) for frame in frames], shape, dtype),
        batch_of([frame.tobytes() for frame in frames], shape, dtype, RAW, 0),  # the way without a kernel
    ):
        found = project_all(decoder, batch, Weights(maps))
        assert not found.status.any()
        np.testing.assert_array_equal(found.saturated, saturated)
        np.testing.assert_allclose(found.sums, sums.astype(kind), rtol=0 if kind is np.int64 else 1e-12)


def test_a_mask_keeps_pixels_from_counting_as_saturated():
    """What no map weighs is not looked at, wherever it lies in its block."""
    frames = np.full((1, 32, 32), 255, np.uint8)
    frames[0, 8:24, 8:24] = 3
    maps = np.zeros((1, 32, 32), np.int64)
    maps[0, 8:24, 8:24] = 1
    decoder = CpuDecoder(FrameFormat(32, 32, np.dtype("u1")))
    found = project_all(decoder, batch_of([bslz4(frames[0])], (32, 32), "u1"), Weights(maps))
    assert (found.sums.item(), found.saturated.item()) == (3 * 256, False)


def test_without_a_limit_every_value_is_a_count():
    frames = np.full((1, 8, 8), 255, np.uint8)
    decoder = CpuDecoder(FrameFormat(8, 8, np.dtype("u1")), saturation=Saturation(nodata=False))
    ones = Weights(np.ones((1, 8, 8), np.int64))
    found = project_all(decoder, batch_of([bslz4(frames[0])], (8, 8), "u1"), ones)
    assert (found.sums.item(), found.saturated.item()) == (64 * 255, False)


def test_a_saturation_value_above_the_dtype_says_nothing():
    assert Saturation(value=70000).limit(np.dtype("<u2")) == 65535
    assert Saturation(nodata=False, value=70000).limit(np.dtype("<u2")) is None


def test_nan_of_float_frames_holds_no_count():
    frames = np.ones((3, 8, 8), np.float32)
    frames[0, 2, 2], frames[1, 3, 3] = np.nan, 100
    batch = batch_of([frame.tobytes() for frame in frames], (8, 8), "<f4", RAW, 0)
    decoder = CpuDecoder(FrameFormat(8, 8, np.dtype("<f4")), saturation=Saturation(value=50))
    found = project_all(decoder, batch, Weights(np.ones((1, 8, 8), np.int64)))
    assert found.sums[:, 0].tolist() == [63, 63, 64]
    assert found.saturated[:, 0].tolist() == [True, True, False]
