"""Imaging methods: images and patterns do not depend on the order in which frames are added."""

import numpy as np
import pytest
from rival import Rival, dict_read_before

from live4d_ophyd.decode import FrameFormat, Saturation, Weights
from live4d_ophyd.imaging.methods import MeanPattern, VirtualImages
from live4d_ophyd.scan import ScanGrid

GRID = ScanGrid(2, 3)
FORMAT = FrameFormat(4, 5, np.dtype("uint8"))


def patterns(seed=0, count=GRID.size):
    return np.random.default_rng(seed).integers(0, 200, (count, 4, 5)).astype(np.uint8)


def added(method, frames, order=None):
    order = np.arange(len(frames)) if order is None else np.asarray(order)
    for part in np.array_split(order, 3):
        method.add(part, frames[part])
    return method


# The mean pattern ------------------------------------------------------------------------------


def test_the_mean_pattern_is_the_mean_of_the_frames_in_any_order():
    frames = patterns()
    mean = added(MeanPattern(FORMAT, GRID), frames, [3, 0, 5, 1, 4, 2]).result(0)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-15)


def test_masked_pixels_have_no_mean_and_leave_the_others_alone():
    frames, mask = patterns(), np.zeros((4, 5), bool)
    mask[1, 2] = mask[3, 0] = True
    mean = added(MeanPattern(FORMAT, GRID, pixel_mask=mask), frames).result(0)
    np.testing.assert_allclose(mean, np.where(mask, np.nan, frames.mean(axis=0)))


def test_a_pixel_that_held_a_count_once_has_that_for_its_mean():
    frames = patterns()
    frames[:, 2, 2] = 255
    frames[4, 2, 2] = 7
    frames[:, 0, 0] = 255
    mean = added(MeanPattern(FORMAT, GRID), frames).result(0)
    assert mean[2, 2] == 7
    assert np.isnan(mean[0, 0])


@pytest.mark.parametrize("saturation", [Saturation(nodata=False), Saturation(counted=True)])
def test_the_maximum_counts_where_it_is_said_to_be_a_count(saturation):
    frames = patterns()
    frames[1, 2, 2] = 255
    mean = added(MeanPattern(FORMAT, GRID, saturation=saturation), frames).result(0)
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-15)


def test_pixels_at_the_detectors_saturation_value_are_left_out():
    frames = patterns()
    frames[0] //= 2  # a count at each pixel
    mean = added(MeanPattern(FORMAT, GRID, saturation=Saturation(value=100)), frames).result(0)
    np.testing.assert_allclose(mean, np.nanmean(np.where(frames >= 100, np.nan, frames), axis=0))


def test_each_raster_of_a_movie_has_its_own_pattern_until_it_is_released():
    frames = patterns(count=2 * GRID.size)
    method = added(MeanPattern(FORMAT, GRID), frames, np.random.default_rng(1).permutation(len(frames)))
    np.testing.assert_allclose(method.result(0), frames[:6].mean(axis=0))
    np.testing.assert_allclose(method.result(1), frames[6:].mean(axis=0))
    method.release(0)
    assert np.isnan(method.result(0)).all()
    assert list(method._sums) == [1]


# Virtual images ---------------------------------------------------------------------------------


def test_images_have_each_sum_at_its_position_and_nan_elsewhere():
    images = VirtualImages(Weights(np.ones((2, 4, 5), int)), GRID)
    images.add(np.array([5, 0]), np.array([[10, 20], [30, 40]]))
    expected = np.full((2, 2, 3), np.nan)
    expected[:, 1, 2], expected[:, 0, 0] = (10, 20), (30, 40)
    np.testing.assert_array_equal(images.result(0), expected)


def test_a_result_is_a_copy():
    images = VirtualImages(Weights(np.ones((1, 4, 5), int)), GRID)
    images.add(np.array([0]), np.array([[1]]))
    images.result(0)[:] = 9
    assert images.result(0)[0, 0, 0] == 1


def test_the_images_of_a_raster_that_is_over_are_freed():
    images = VirtualImages(Weights(np.ones((1, 4, 5), int)), GRID)
    images.add(np.array([0, GRID.size]), np.array([[1], [2]]))
    images.release(0)
    assert list(images._images) == [1]


def test_two_threads_that_bring_the_first_frames_of_a_raster_share_its_images():
    images = VirtualImages(Weights(np.ones((1, 4, 5), int)), GRID)
    rival = Rival(lambda: images.add(np.array([1]), np.array([[2]])))
    images._images = dict_read_before(rival, images._images)
    images.add(np.array([0]), np.array([[1]]))
    rival.finish()
    assert images.result(0)[0, 0, :2].tolist() == [1, 2]


def test_the_sums_of_a_pattern_are_read_and_changed_by_one_thread_at_a_time():
    """NumPy adds large arrays without the interpreter's lock."""
    pattern, locked = MeanPattern(FORMAT, GRID), []

    class Sums(dict):
        def setdefault(self, *arguments):
            locked.append(pattern._lock.locked())
            return super().setdefault(*arguments)

        def __getitem__(self, raster):
            locked.append(pattern._lock.locked())
            return super().__getitem__(raster)

    pattern._sums = Sums()
    pattern.add(np.array([0]), patterns(count=1))
    pattern.result(0)
    assert locked == [True, True]
