"""A detector that stays armed: when a raster is over, and whether the next frame is the next raster's first."""

from types import SimpleNamespace

import numpy as np
import pytest

from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.engine.steps import SETTLE_S, STRAGGLER_S, OutOfStep, Steps
from live4d_ophyd.scan import ScanGrid

GRID = ScanGrid(2, 3)
NOW = 1000.0


def came(*ids, finished=None, rasters=3):
    """The book of frames that came, of which some are finished: all, unless said otherwise."""
    tracker = FrameTracker(GRID, rasters)
    tracker.claim(np.array(ids, int))
    book(tracker, ids if finished is None else finished)
    return tracker


def book(tracker, ids):
    times, none = np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    tracker.finish(np.array(ids, int), ~none, times, none)


def test_a_whole_raster_is_over_when_it_was_watched_for_a_moment():
    steps = Steps(came(*range(6)))
    assert not steps.over(0, NOW)
    assert not steps.over(0, NOW + 0.9 * SETTLE_S)
    assert steps.over(0, NOW + 1.1 * SETTLE_S)


def test_the_moment_is_over_when_it_has_passed():
    for ids, wait in [(range(6), SETTLE_S), ((0, 1, 5), STRAGGLER_S)]:
        steps = Steps(came(*ids))
        assert not steps.over(0, 0.0)
        assert steps.over(0, wait)


def test_one_with_gaps_is_watched_longer():
    steps = Steps(came(0, 1, 5))
    assert not steps.over(0, NOW)
    assert not steps.over(0, NOW + 1.1 * SETTLE_S)
    assert not steps.over(0, NOW + 0.9 * STRAGGLER_S)
    assert steps.over(0, NOW + 1.1 * STRAGGLER_S)


def test_an_image_that_comes_meanwhile_begins_the_watch_anew():
    tracker = came(0, 1, 5)
    steps = Steps(tracker)
    steps.over(0, NOW)
    tracker.claim(np.array([3]))
    book(tracker, [3])
    assert not steps.over(0, NOW + 1.1 * STRAGGLER_S)
    assert steps.over(0, NOW + 2.2 * STRAGGLER_S)


def test_without_its_last_image_a_raster_is_not_over():
    steps = Steps(came(*range(5)))
    assert not any(steps.over(0, NOW + 100 * n) for n in range(3))


def test_images_that_are_still_decoded_are_waited_for():
    tracker = came(*range(6), finished=range(5))
    steps = Steps(tracker)
    assert not steps.over(0, NOW)
    assert not steps.over(0, NOW + 100)
    book(tracker, [5])
    assert steps.over(0, NOW + 200)


def test_the_next_raster_is_watched_by_itself():
    tracker = came(*range(6))
    steps = Steps(tracker)
    steps.over(0, NOW)
    tracker.claim(np.arange(6, 12))
    book(tracker, range(6, 12))
    assert not steps.over(1, NOW + 100)
    assert steps.over(1, NOW + 100 + 1.1 * SETTLE_S)


def test_a_raster_keeps_step_if_it_ended_where_it_should():
    assert Steps(came(0, 5)).kept(0)
    assert not Steps(came(0, 4)).kept(0)
    assert not Steps(came(0, 5, 6)).kept(0)
    assert Steps(came(0, 5, 6, 11)).kept(1)
    assert not Steps(came(*range(19), finished=range(18))).kept(2)


def control(why=""):
    return SimpleNamespace(why_out_of_step=lambda: why)


def test_an_armed_detector_takes_the_next_raster():
    Steps(came(*range(6))).check(1, control())


@pytest.mark.parametrize(
    ("ids", "why", "said"),
    [
        ([*range(7)], "", "frames came between two triggers"),
        ([*range(6)], "it was disarmed", "it was disarmed"),
    ],
)
def test_what_may_have_put_it_out_of_step_is_said(ids, why, said):
    with pytest.raises(OutOfStep, match=f"^{said}$"):
        Steps(came(*ids)).check(1, control(why))
