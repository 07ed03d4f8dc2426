"""Scatter: each number at its position, NaN elsewhere, from any number of devices. PatternSums: none is lost."""

import pickle
import threading

import numpy as np
import pytest
from rival import Rival

from live4d_ophyd.frames.format import FrameFormat
from live4d_ophyd.imaging.accumulators import PatternSums, Scatter
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.source import SeriesInfo

GRID = ScanGrid(2, 3)
SERIES = SeriesInfo((1, 0), FrameFormat(2, 3, np.dtype(np.uint8)), saturation=255)


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


def test_sums_that_two_threads_add_to_at_once_have_the_frames_of_both(monkeypatch):
    patterns = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    sums = PatternSums(SeriesInfo((1, 0), FrameFormat(2, 3, patterns.dtype), saturation=255))
    rival = Rival(lambda: sums.add(np.array([1]), patterns[1:]))

    def add_slowly(patterns, take, saturation, total, valid):
        before = total.copy()
        rival.come_in()
        total[:] = before + patterns.sum(axis=0)
        valid += len(patterns)

    monkeypatch.setattr("live4d_ophyd.imaging.accumulators.sum_over_frames", add_slowly)
    sums.add(np.array([0]), patterns[:1])
    rival.finish()
    total, seen = PatternSums.merged([sums])
    np.testing.assert_array_equal(total, patterns.sum(axis=0))
    assert (seen == 2).all()


def test_what_another_process_gets_is_the_same():
    """Of a stretch of the scan only that is sent."""
    large = ScanGrid(100, 100)
    images = Scatter(large, 2)
    images.add(np.array([507, 503]), np.array([[1, 2], [np.nan, 4]]))
    sent = pickle.dumps(images)
    assert len(sent) < 1000
    expected = np.full((2, 100, 100), np.nan)
    expected[:, 5, 7], expected[1, 5, 3] = (1, 2), 4
    np.testing.assert_array_equal(Scatter.merged([pickle.loads(sent)], large, 2), expected)
    assert np.isnan(Scatter.merged([pickle.loads(pickle.dumps(Scatter(GRID, 1)))], GRID, 1)).all()


def test_another_process_gets_the_sums_of_all_threads_as_one():
    sums, patterns = PatternSums(SERIES), np.full((1, 2, 3), 5, np.uint8)
    other = threading.Thread(target=sums.add, args=(np.array([0]), patterns))
    other.start()
    other.join()
    sums.add(np.array([1]), patterns)
    ((total, seen),) = pickle.loads(pickle.dumps(sums))._of_thread.values()
    assert (total == 10).all()
    assert (seen == 2).all()


def test_what_another_process_gets_of_tensors_is_numpys():
    torch = pytest.importorskip("torch")
    images, sums = Scatter(GRID, 1, torch.device("cpu")), PatternSums(SERIES, torch.device("cpu"))
    images.add(torch.tensor([4]), torch.tensor([[7]]))
    sums.add(torch.tensor([4]), torch.full((1, 2, 3), 5, dtype=torch.uint8))
    images, sums = pickle.loads(pickle.dumps((images, sums)))
    assert type(images.values) is np.ndarray
    image = Scatter.merged([images], GRID, 1).reshape(1, 6)
    np.testing.assert_array_equal(image, [[np.nan] * 4 + [7, np.nan]])
    for total, seen in sums._of_thread.values():
        assert (type(total), type(seen)) == (np.ndarray, np.ndarray)
        assert (total == 5).all()
        assert (seen == 1).all()
    assert len(sums._of_thread) == 1
    assert sums._device is None


@pytest.mark.parametrize("pickled", [False, True])
def test_a_window_of_the_scan_is_that_of_the_whole(pickled):
    parts = [Scatter(ScanGrid(6, 7), 2) for _ in range(2)]
    for first, part in enumerate(parts):
        part.add(np.arange(first, 40, 2), np.arange(first, 40, 2)[:, np.newaxis] * [1, 100])
    parts = pickle.loads(pickle.dumps(parts)) if pickled else parts
    whole = Scatter.merged(parts, ScanGrid(6, 7), 2)
    assert np.isnan(whole[:, 5, 5:]).all()
    window = Scatter.merged(parts, ScanGrid(6, 7), 2, slice(3, 6), slice(2, 7))
    np.testing.assert_array_equal(window, whole[:, 3:6, 2:7])
    np.testing.assert_array_equal(Scatter.came(parts, ScanGrid(6, 7)), ~np.isnan(whole[0]))
    window[...] = -1  # a copy
    np.testing.assert_array_equal(Scatter.merged(parts, ScanGrid(6, 7), 2), whole)


def test_as_float32_it_takes_half_the_memory_also_from_another_process():
    images = Scatter(GRID, 1, dtype="float32")
    images.add(np.array([4]), np.array([[2**24]]))
    for parts in ([images], [pickle.loads(pickle.dumps(images))]):
        merged = Scatter.merged(parts, GRID, 1)
        assert merged.dtype == np.float32
        np.testing.assert_array_equal(merged.ravel(), [np.nan] * 4 + [2**24, np.nan])


def test_parts_from_other_processes_stay_as_small_as_they_came():
    large = ScanGrid(1024, 1024)
    parts = []
    for first in (2048, 0):
        images = Scatter(large, 2)
        images.add(np.arange(first, first + 5), np.arange(10.0).reshape(5, 2) + first)
        parts.append(pickle.loads(pickle.dumps(images)))
        assert parts[-1].values.nbytes == 80
    merged = Scatter.merged(parts, large, 2).reshape(2, -1)
    assert np.count_nonzero(np.isfinite(merged)) == 20
    np.testing.assert_array_equal(merged[1, 2048:2053], [2049, 2051, 2053, 2055, 2057])
    np.testing.assert_array_equal(merged[0, :5], [0, 2, 4, 6, 8])
