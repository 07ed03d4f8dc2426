"""The sum over frames leaves out what holds no count, for every dtype, shape and choice of frames."""

from __future__ import annotations

import numpy as np
import pytest

from live4d_ophyd.decode import Saturation, sum_over_frames


def frames_of(dtype, shape, n, seed=2):
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.kind == "f":
        frames = rng.normal(size=(n, *shape)).astype(dtype)
        frames[rng.random(frames.shape) < 0.2] = np.nan
        return frames
    info = np.iinfo(dtype)
    # Large values in half of the dtype: sums beyond 32 bits, and signs.
    frames = rng.integers(max(info.min, -(2**40)), min(info.max, 2**40), (n, *shape), dtype.newbyteorder("="))
    frames = frames.astype(dtype)
    frames[rng.random(frames.shape) < 0.2] = info.max
    return frames


def expected(frames, saturation):
    """By definition, in Python's integers."""
    out = np.zeros(frames.shape, bool) if saturation.counted else saturation.found_in(frames)
    out |= frames != frames
    kept = np.where(out, 0, frames)
    total = kept.astype(object if frames.dtype.kind in "ui" else float).sum(axis=0)
    return total.astype(np.int64 if frames.dtype.kind in "ui" else float), (~out).sum(axis=0)


def added(frames, take, saturation):
    total = np.full(frames.shape[1:], 5, np.int64 if frames.dtype.kind in "ui" else np.float64)
    valid = np.full(frames.shape[1:], 7)
    sum_over_frames(frames, take, saturation, total, valid)
    return total - 5, valid - 7


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<u8", ">u2", "<i2", "<i4", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(40, 61), (3, 2), (1, 8)])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_counts_are_added_to_what_is_there(dtype, shape, n):
    frames = frames_of(dtype, shape, n)
    for saturation in (
        Saturation(),
        Saturation(nodata=False),
        Saturation(value=90),
        Saturation(counted=True),
    ):
        if frames.dtype.itemsize == 8 and saturation != Saturation() and frames.dtype.kind == "u":
            continue  # 2**64 - 1 as a count does not fit int64
        total, valid = added(frames, None, saturation)
        sums, counts = expected(frames, saturation)
        np.testing.assert_allclose(total, sums, rtol=1e-12 if frames.dtype.kind == "f" else 0, atol=1e-9)
        np.testing.assert_array_equal(valid, counts)


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4"])
@pytest.mark.parametrize("pixels", [1024, 1024 + 512, 2048 + 24, 48])
def test_small_counts_are_added_as_others_and_one_large_pixel_changes_nothing_else(dtype, pixels):
    info, rng = np.iinfo(dtype), np.random.default_rng(3)
    few = rng.integers(0, 200, (9, 1, pixels)).astype(dtype)
    largest = few.copy()
    largest[:, :, ::3] = min(info.max - 1, 2**30 - 1)  # four of them just fit 32 bits
    for frames in (few, largest):
        for at in (None, 0, pixels - 1, pixels // 2):
            frames = frames.copy()
            if at is not None:
                frames[2, 0, at] = info.max
                frames[5, 0, at] = min(info.max - 1, 2**30)
            for saturation in (Saturation(), Saturation(value=150), Saturation(counted=True)):
                total, valid = added(frames, None, saturation)
                sums, counts = expected(frames, saturation)
                np.testing.assert_array_equal(total, sums)
                np.testing.assert_array_equal(valid, counts)


def test_frames_that_are_not_taken_are_left_out():
    frames = frames_of("<u4", (20, 30), 12)
    for take in ([2, 3, 4], [11, 0, 5, 7, 8], []):
        total, valid = added(frames, np.array(take, np.int64), Saturation())
        sums, counts = expected(frames[take], Saturation())
        np.testing.assert_array_equal(total, sums)
        np.testing.assert_array_equal(valid, counts)


def test_what_does_not_fit_is_refused():
    frames = frames_of("<u2", (4, 4), 3)
    total, valid = np.zeros((4, 4), np.int64), np.zeros((4, 4), np.int64)
    with pytest.raises(ValueError, match=r"total of \(4, 4\) float64: expected \(4, 4\) int64"):
        sum_over_frames(frames, None, Saturation(), np.zeros((4, 4)), valid)
    with pytest.raises(ValueError, match=r"valid of \(4, 5\) int64"):
        sum_over_frames(frames, None, Saturation(), total, np.zeros((4, 5), np.int64))
    with pytest.raises(ValueError, match="total is not C-contiguous"):
        sum_over_frames(frames, None, Saturation(), total.T, valid)
    for take in ([3], [-1]):
        with pytest.raises(IndexError, match=r"of 3"):
            sum_over_frames(frames, np.array(take), Saturation(), total, valid)
    assert not total.any()


def test_tensors_of_a_cpu_are_added_like_arrays():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    frames = frames_of("<u4", (20, 30), 6)
    total, valid = torch.zeros((20, 30), dtype=torch.int64), torch.zeros((20, 30), dtype=torch.int64)
    sum_over_frames(torch.from_numpy(frames), None, Saturation(), total, valid)
    sums, counts = expected(frames, Saturation())
    np.testing.assert_array_equal(total.numpy(), sums)
    np.testing.assert_array_equal(valid.numpy(), counts)
