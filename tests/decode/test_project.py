"""Sums under weight maps are exact, whatever the dtype, shape, block size and number of detectors."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest
from decode_oracle import batch_of, bslz4, decode_bslz4, masked_sums, patterns_of, project
from hdf5_filter import read_bslz4, write_bslz4

from live4d_ophyd.decode import CpuDecoder, FrameFormat, Saturation, Weights, describe_status
from live4d_ophyd.frames.batch import ARRAY_TAG, COLS, OTHER, ROWS, STATUS
from live4d_ophyd.frames.status import NOT_AN_IMAGE, WRONG_DTYPE, WRONG_SHAPE

DTYPES = ("u1", "<u2", "<u4")


def distance(shape):
    rows, cols = np.indices(shape)
    return np.hypot(rows - (shape[0] - 1) / 2, cols - (shape[1] - 1) / 2)


def frames_of(shape, dtype, rng, count=4):
    """A disk of counts; then the same with saturated pixels, with a saturated last one, and pure noise."""
    highest = np.iinfo(dtype).max
    frames = rng.poisson(np.where(distance(shape) <= min(shape) / 4, 8, 0.05), (count, *shape)).astype(dtype)
    frames[1].flat[rng.integers(0, frames[1].size, 20)] = highest
    frames[2].flat[-1] = highest
    frames[3] = rng.integers(0, highest, shape, dtype, endpoint=True)
    return frames


def decoder_for(frames, **options):
    return CpuDecoder(FrameFormat(*frames.shape[1:], frames.dtype), **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(192, 192), (96, 96), (103, 51), (5, 3)])
@pytest.mark.parametrize("nodata", [True, False])
def test_integer_weights_give_exact_sums(shape, dtype, nodata):
    rng = np.random.default_rng(1)
    frames = frames_of(shape, dtype, rng)
    rows, cols = np.indices(shape)
    inside = distance(shape) <= min(shape) / 4
    maps = np.stack(
        [
            inside,
            rows - shape[0] // 2,  # centre-of-mass weights have both signs
            (cols - shape[1] // 2) * inside,
            np.zeros(shape),
            rng.integers(-(2**13), 2**13, shape),
        ]
    ).astype(np.int64)
    expected = masked_sums(frames, maps, nodata)
    for block in (64, 520 * frames.itemsize, 8192, 65536, -(-frames[0].nbytes // 64) * 64):
        batch = batch_of([bslz4(frame, block) for frame in frames], shape, dtype)
        sums, status = project(decoder_for(frames, saturation=Saturation(nodata)), batch, Weights(maps))
        assert status.tolist() == [0] * len(frames)
        assert sums.dtype == np.int64
        np.testing.assert_array_equal(sums, expected, err_msg=f"block of {block} bytes")


@pytest.mark.parametrize("dtype", DTYPES)
def test_leftover_pixels_of_an_odd_frame_count(dtype):
    rng = np.random.default_rng(2)
    frames = frames_of((514, 1030), dtype, rng)
    assert frames[0].size % 8
    maps = rng.integers(0, 5, (2, 514, 1030))
    maps[:, -1, -8:] = 3
    batch = batch_of([bslz4(frame) for frame in frames], (514, 1030), dtype)
    sums, status = project(decoder_for(frames), batch, Weights(maps))
    assert not status.any()
    np.testing.assert_array_equal(sums, masked_sums(frames, maps))


@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_detectors(count, dtype):
    rng = np.random.default_rng(3)
    frames = frames_of((96, 96), dtype, rng)
    edges = np.linspace(0, 60, count + 1)
    maps = np.stack([(distance((96, 96)) >= a) & (distance((96, 96)) < b) for a, b in pairwise(edges)])
    batch = batch_of([bslz4(frame, 1024) for frame in frames], (96, 96), dtype)
    for weights in (maps.astype(int), maps * rng.normal(1, 0.03, (96, 96))):
        sums, status = project(decoder_for(frames), batch, Weights(weights))
        assert not status.any()
        np.testing.assert_allclose(sums, masked_sums(frames, weights), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nodata", [True, False])
def test_float_weights_are_float64_sums(dtype, nodata):
    rng = np.random.default_rng(4)
    for shape in ((192, 192), (103, 51)):
        frames = frames_of(shape, dtype, rng)
        maps = np.stack([rng.normal(size=shape), np.clip(20.5 - distance(shape), 0, 1)])
        scale = masked_sums(frames, np.abs(maps), nodata)
        for block in (64, 520 * frames.itemsize, 8192):
            batch = batch_of([bslz4(frame, block) for frame in frames], shape, dtype)
            sums, status = project(decoder_for(frames, saturation=Saturation(nodata)), batch, Weights(maps))
            assert not status.any()
            assert sums.dtype == np.float64
            assert np.all(np.abs(sums - masked_sums(frames, maps, nodata)) <= 1e-13 * scale)


def test_a_saturated_pixel_is_no_data_even_where_its_block_holds_nothing_else():
    frame = np.zeros((1, 64, 64), "<u4")
    frame[0, 10, 10] = 2**32 - 1
    frame[0, 11, 11] = 2**32 - 2
    batch = batch_of([bslz4(frame[0], 1024)], (64, 64), "<u4")
    ones = Weights(np.ones((1, 64, 64), int))
    assert project(decoder_for(frame), batch, ones)[0].item() == 2**32 - 2
    assert (
        project(decoder_for(frame, saturation=Saturation(nodata=False)), batch, ones)[0].item() == 2**33 - 3
    )


def test_only_the_rows_asked_for_in_their_order():
    rng = np.random.default_rng(5)
    frames = frames_of((32, 32), "<u2", rng)
    batch = batch_of([bslz4(frame) for frame in frames], (32, 32), "<u2")
    batch.index[1, STATUS] = OTHER
    weights = Weights(np.ones((1, 32, 32), int))
    decoder = decoder_for(frames)
    expected = masked_sums(frames, weights.maps)
    sums, status = project(decoder, batch, weights)
    np.testing.assert_array_equal(sums, expected[[0, 2, 3]])
    sums, status = project(decoder, batch, weights, np.array([3, 1, 0]))
    assert status.tolist() == [0, NOT_AN_IMAGE, 0]
    np.testing.assert_array_equal(sums[[0, 2]], expected[[3, 0]])
    assert sums[1] == 0
    with pytest.raises(IndexError, match=r"batch of 4 messages"):
        project(decoder, batch, weights, np.array([4]))
    sums, status = project(decoder, batch, weights, np.zeros(0, np.int64))
    assert sums.shape == (0, 1)
    assert status.shape == (0,)


@pytest.mark.parametrize("shape", [(8, 32), (16, 8), (8, 16), (16, 17)])
def test_a_frame_of_another_shape_or_dtype_is_never_decoded(shape):
    frames = np.ones((3, 16, 16), "<u2")
    batch = batch_of([bslz4(frame) for frame in frames], (16, 16), "<u2")
    batch.index[0, ROWS], batch.index[0, COLS] = shape
    batch.index[1, ARRAY_TAG] = 65  # the same two bytes, big-endian
    sums, status = project(decoder_for(frames), batch, Weights(np.ones((1, 16, 16), int)))
    assert status.tolist() == [WRONG_SHAPE, WRONG_DTYPE, 0]
    assert sums.tolist() == [[0], [0], [256]]
    assert "shape" in describe_status(WRONG_SHAPE)
    pixels, status = patterns_of(decoder_for(frames), batch)
    assert status.tolist() == [WRONG_SHAPE, WRONG_DTYPE, 0]
    assert [int(p.sum()) for p in pixels] == [0, 0, 256]


def test_weights_of_another_shape_are_refused():
    frames = np.ones((1, 16, 16), "<u2")
    batch = batch_of([bslz4(frames[0])], (16, 16), "<u2")
    with pytest.raises(ValueError, match=r"\(8, 32\) px.*\(16, 16\)"):
        project(decoder_for(frames), batch, Weights(np.ones((1, 8, 32), int)))


def test_threads_share_weights_with_a_decoder_each():
    rng = np.random.default_rng(6)
    frames = frames_of((96, 96), "<u4", rng)
    blobs = [bslz4(frame) for frame in frames]
    weights = Weights(rng.integers(-3, 4, (3, 96, 96)))
    expected = masked_sums(frames, weights.maps)
    wrong = []

    def work():
        decoder, batch = decoder_for(frames), batch_of(blobs, (96, 96), "<u4")
        for _ in range(200):
            if not np.array_equal(project(decoder, batch, weights)[0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_oracle_agrees_with_the_vendor():
    compression = pytest.importorskip("dectris.compression", reason="dectris-compression is not installed")
    frame = frames_of((37, 23), "<u2", np.random.default_rng(7))[3]
    blob = bslz4(frame, 512)
    assert compression.decompress(blob, "bslz4", elem_size=2) == frame.tobytes() == decode_bslz4(blob, 2)


def test_the_oracle_agrees_with_hdf5():
    frame = frames_of((32, 32), "<u4", np.random.default_rng(8))[0]
    blob = bslz4(frame, 1024)
    np.testing.assert_array_equal(read_bslz4(blob, frame.shape, frame.dtype), frame)
    np.testing.assert_array_equal(np.frombuffer(decode_bslz4(write_bslz4(frame), 4), "<u4"), frame.ravel())
