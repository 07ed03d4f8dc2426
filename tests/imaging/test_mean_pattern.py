"""MeanPattern: the mean of the frames in any order, of the pixels that hold a count."""

import threading

import numpy as np
import pytest

from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.mean_pattern import MeanPattern
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

GRID = ScanGrid(2, 3)
FORMAT = FrameFormat(4, 5, np.dtype("uint8"))


def patterns(seed=0, count=GRID.size):
    return np.random.default_rng(seed).integers(0, 200, (count, 4, 5)).astype(np.uint8)


def mean_of(frames, order=None, *, parts=1, **known):
    """The mean pattern of frames that came in this order, to as many devices."""
    series = SeriesInfo((1, 0), FORMAT, **{"saturation": 255, **known})
    method = MeanPattern()
    accumulators = [method.accumulator(series, GRID, None) for _ in range(parts)]
    order = np.arange(len(frames)) if order is None else np.asarray(order)
    for number, part in enumerate(np.array_split(order, 3)):
        accumulators[number % parts].add(part, frames[part])
    return method.results(series, GRID, accumulators)["pattern"]


def test_the_mean_pattern_is_the_mean_of_the_frames_in_any_order():
    frames = patterns()
    np.testing.assert_allclose(mean_of(frames, [3, 0, 5, 1, 4, 2]), frames.mean(axis=0), rtol=1e-15)


def test_frames_of_several_devices_have_one_mean():
    frames = patterns()
    np.testing.assert_allclose(mean_of(frames, parts=2), frames.mean(axis=0), rtol=1e-15)


def test_threads_that_add_at_the_same_time_lose_nothing():
    frames = np.random.default_rng(3).integers(0, 200, (64, 4, 5)).astype(np.uint8)
    series = SeriesInfo((1, 0), FORMAT, saturation=255)
    accumulator, together = MeanPattern().accumulator(series, GRID, None), threading.Barrier(4)

    def add(part):
        together.wait(10)
        for frame in part:
            accumulator.add(np.array([0]), frame[np.newaxis])

    threads = [threading.Thread(target=add, args=(part,)) for part in np.array_split(frames, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    mean = MeanPattern().results(series, GRID, [accumulator])["pattern"]
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-14)


def test_without_a_frame_nothing_is_known():
    series = SeriesInfo((1, 0), FORMAT)
    assert np.isnan(MeanPattern().results(series, GRID, [])["pattern"]).all()


def test_masked_pixels_have_no_mean_and_leave_the_others_alone():
    frames, mask = patterns(), np.zeros((4, 5), bool)
    mask[1, 2] = mask[3, 0] = True
    np.testing.assert_allclose(mean_of(frames, pixel_mask=mask), np.where(mask, np.nan, frames.mean(axis=0)))


def test_a_pixel_that_held_a_count_once_has_that_for_its_mean():
    frames = patterns()
    frames[:, 2, 2] = 255
    frames[4, 2, 2] = 7
    frames[:, 0, 0] = 255
    mean = mean_of(frames)
    assert mean[2, 2] == 7
    assert np.isnan(mean[0, 0])


def test_the_maximum_counts_where_it_is_said_to_be_a_count():
    frames = patterns()
    frames[1, 2, 2] = 255
    np.testing.assert_allclose(mean_of(frames, saturation=None), frames.mean(axis=0), rtol=1e-15)


def test_pixels_at_the_detectors_saturation_value_are_left_out():
    frames = patterns()
    frames[0] //= 2  # a count at each pixel
    expected = np.nanmean(np.where(frames >= 100, np.nan, frames), axis=0)
    np.testing.assert_allclose(mean_of(frames, saturation=100), expected)


def test_what_is_not_enabled_gives_nothing():
    assert MeanPattern(enabled=False).outputs(None, GRID) == {}
    with pytest.raises(ValueError, match="enabled of pattern is 'yes'; expected True or False"):
        MeanPattern(enabled="yes")
