"""Scatter: each number at its position, NaN elsewhere, from any number of devices."""

import numpy as np

from live4d_ophyd.imaging.accumulators import Scatter
from live4d_ophyd.scan import ScanGrid

GRID = ScanGrid(2, 3)


def test_images_have_each_sum_at_its_position_and_nan_elsewhere():
    images = Scatter(GRID, 2)
    images.add(np.array([5, 0]), np.array([[10, 20], [30, 40]]))
    expected = np.full((2, 2, 3), np.nan)
    expected[:, 1, 2], expected[:, 0, 0] = (10, 20), (30, 40)
    np.testing.assert_array_equal(Scatter.merged([images], GRID, 2), expected)


def test_devices_that_shared_the_frames_give_one_image():
    one, other = Scatter(GRID, 1), Scatter(GRID, 1)
    one.add(np.array([0, 2]), np.array([[1], [3]]))
    other.add(np.array([1]), np.array([[2.5]]))
    merged = Scatter.merged([one, other], GRID, 1)
    np.testing.assert_array_equal(merged.reshape(-1), [1, 2.5, 3, np.nan, np.nan, np.nan])


def test_what_is_merged_is_a_copy():
    images = Scatter(GRID, 1)
    images.add(np.array([0]), np.array([[1]]))
    Scatter.merged([images], GRID, 1)[:] = 9
    assert Scatter.merged([images], GRID, 1)[0, 0, 0] == 1


def test_without_a_frame_nothing_is_known():
    assert np.isnan(Scatter.merged([], GRID, 2)).all()
