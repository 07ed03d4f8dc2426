"""The tracker's book: every frame once, in the raster it belongs to, with the rate it came at."""

import threading

import numpy as np
import pytest
from fake_clock import set_clock
from rival import Rival, array_read_before, number_read_before

from live4d_ophyd.engine.frame_tracker import FrameTracker
from live4d_ophyd.scan import ScanGrid

GRID = ScanGrid(2, 3)
SECOND = 10**9


def finish(tracker, ids, *, good=None, at=None, saturated=None):
    ids = np.asarray(ids)
    none = np.zeros(len(ids), bool)
    tracker.finish(
        ids,
        ~none if good is None else np.asarray(good, bool),
        np.zeros(len(ids), np.int64) if at is None else np.asarray(at),
        none if saturated is None else np.asarray(saturated, bool),
    )


def test_an_image_is_new_once_and_its_repetitions_are_counted():
    tracker = FrameTracker(GRID, 1)
    assert tracker.claim(np.array([0, 1, 1, 2])).tolist() == [True, True, False, True]
    assert tracker.claim(np.array([2, 3])).tolist() == [False, True]
    finish(tracker, [0, 1, 2, 3])
    losses, _ = tracker.close(0)
    assert (losses.duplicates, losses.received, losses.lost, losses.beyond) == (2, 4, 2, 0)


@pytest.mark.parametrize("ids", [[3, 3], [3, 2, 3], [2, 3, 3], [4, 3, 2, 3, 4]])
def test_repetitions_within_a_batch_are_found_in_any_order(ids):
    tracker = FrameTracker(GRID, 1)
    new = tracker.claim(np.array(ids))
    assert sorted(np.array(ids)[new]) == sorted(set(ids))
    assert new[[ids.index(image_id) for image_id in set(ids)]].all()  # the first of each
    assert tracker.close(0)[0].duplicates == len(ids) - len(set(ids))


def test_ids_that_the_grid_does_not_have_are_counted_apart():
    tracker = FrameTracker(GRID, 1)
    assert tracker.claim(np.array([-1, 0, 6, 7])).tolist() == [False, True, False, False]
    assert tracker.close(0)[0].beyond == 3


def test_received_bad_and_saturated_are_booked_by_raster():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(12))
    finish(tracker, [0, 1, 6, 7, 8], good=[1, 0, 1, 1, 0], saturated=[1, 1, 0, 1, 1])
    finish(tracker, [2, 9], saturated=[1, 0])
    finish(tracker, [3, 10], good=[0, 1], saturated=[1, 1])
    first, second = tracker.close(0)[0], tracker.close(1)[0]
    assert (first.received, first.bad, first.lost, first.saturated) == (2, 2, 2, 2)
    assert (second.received, second.bad, second.lost, second.saturated) == (4, 1, 1, 2)


def test_the_rate_is_from_the_first_to_the_last_image_of_a_raster():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(12))
    finish(tracker, [1, 0], at=[3 * SECOND, 2 * SECOND])
    finish(tracker, [2, 3, 6], at=[4 * SECOND, 5 * SECOND, 90 * SECOND])
    finish(tracker, [4, 5, 7], at=[6 * SECOND, 7 * SECOND, 90 * SECOND + SECOND // 4])
    assert tracker.close(0)[1] == pytest.approx(1.0)  # 6 images in 5 s
    assert tracker.close(1)[1] == pytest.approx(4.0)  # 2 images in 0.25 s


def test_one_image_has_no_rate():
    tracker = FrameTracker(GRID, 1)
    tracker.claim(np.array([4]))
    finish(tracker, [4], at=[SECOND])
    assert tracker.close(0)[1] is None


def test_what_comes_late_for_a_raster_that_is_over_is_not_taken():
    tracker = FrameTracker(GRID, 2)
    tracker.close(0)
    assert tracker.claim(np.array([5, 6])).tolist() == [False, True]


def test_unreadable_messages_are_bad_as_far_as_images_are_missing():
    tracker = FrameTracker(GRID, 1)
    tracker.claim(np.arange(5))
    finish(tracker, np.arange(5))
    tracker.unreadable()
    tracker.unreadable()
    losses, _ = tracker.close(0)
    assert (losses.received, losses.bad, losses.lost) == (5, 1, 0)


def test_progress_says_how_many_images_are_saturated():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(12))
    finish(tracker, [6, 7, 8], saturated=[1, 0, 1])
    assert tracker.progress_of(1).saturated == 2
    tracker.close(0)
    assert tracker.progress().saturated == 2


def test_what_came_and_what_became_of_it_so_far():
    tracker = FrameTracker(GRID, 2)
    assert (tracker.begun, tracker.all_claimed, tracker.last_missing) == (False, False, 11)
    tracker.claim(np.array([0, 1, 5, 7, 11]))
    assert (tracker.begun, tracker.all_claimed, tracker.last_missing) == (True, False, 10)
    finish(tracker, [0, 1, 7], good=[1, 0, 1], saturated=[1, 0, 1])
    assert (tracker.finished, tracker.received, tracker.saturated) == (3, 2, 2)
    assert [tracker.finished_of(n) for n in (0, 1)] == [2, 1]
    assert [tracker.received_of(n) for n in (0, 1)] == [1, 1]
    assert [tracker.arrived(n) for n in (0, 1)] == [3, 2]
    came = tracker.came
    assert np.flatnonzero(came).tolist() == [0, 1, 5, 7, 11]
    tracker.claim(np.arange(12))
    assert came.sum() == 5
    assert (tracker.all_claimed, tracker.last_missing) == (True, -1)


def test_a_raster_is_complete_when_each_of_its_images_is_received_or_bad():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(12))
    finish(tracker, np.arange(5), good=[1, 0, 1, 1, 0])
    assert not tracker.complete(0)
    finish(tracker, [5, 6])
    assert [tracker.complete(n) for n in (0, 1)] == [True, False]


def test_a_raster_is_overtaken_when_the_one_after_the_next_has_begun():
    tracker = FrameTracker(GRID, 4)
    tracker.claim(np.arange(24))
    finish(tracker, [0, 6])
    assert not tracker.overtaken(0)
    finish(tracker, [12])
    assert [tracker.overtaken(n) for n in (0, 1)] == [True, False]
    finish(tracker, [1])  # a late one takes nothing back
    assert tracker.overtaken(0)


def test_a_raster_reached_its_end_with_its_last_image_and_images_may_come_from_beyond():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(5))
    assert (tracker.reached_end(0), tracker.went_beyond(0)) == (False, False)
    tracker.claim(np.array([5]))
    assert (tracker.reached_end(0), tracker.went_beyond(0), tracker.reached_end(1)) == (True, False, False)
    tracker.claim(np.array([6]))
    assert (tracker.went_beyond(0), tracker.went_beyond(1)) == (True, False)
    tracker.claim(np.array([12]))
    assert tracker.went_beyond(1)
    assert (tracker.beyond, tracker.strangers) == (1, 0)
    tracker.foreign(3)
    tracker.foreign(1)
    assert tracker.strangers == 4


def test_the_stream_is_silent_since_something_new_came_and_never_while_it_is_worked_on(monkeypatch):
    now = [100.0]
    set_clock(monkeypatch, "live4d_ophyd.engine.frame_tracker", lambda: now[0])
    tracker = FrameTracker(GRID, 1)
    now[0] = 103.0
    assert tracker.silence == 3
    tracker.claim(np.array([0]))
    assert tracker.silence == 0
    now[0] = 105.0
    tracker.claim(np.array([0, 77]))  # nothing new
    assert tracker.silence == 2
    finish(tracker, [0])
    assert tracker.silence == 0
    with tracker.working():
        now[0] = 200.0
        assert tracker.silence == 0
    assert tracker.silence == 0
    now[0] = 201.0
    finish(tracker, [])
    assert tracker.silence == 1


def test_who_waits_for_a_raster_is_woken_when_it_is_complete():
    tracker, woken = FrameTracker(GRID, 1), []
    tracker.claim(np.arange(6))
    tracker.changed.notify_all = lambda: woken.append(tracker.finished)
    finish(tracker, np.arange(5))
    assert woken == []
    finish(tracker, [5])
    assert woken == [6]


def test_progress_is_of_the_raster_that_runs():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(12))
    finish(tracker, np.arange(6), at=np.arange(6) * SECOND)
    finish(tracker, [6, 7, 8], good=[1, 1, 0], at=[20 * SECOND, 21 * SECOND, 22 * SECOND])
    first, second = tracker.progress_of(0), tracker.progress_of(1)
    assert (first.frames_received, first.frames_expected, first.rate_hz, first.raster) == (6, 6, 1.0, 0)
    assert (second.frames_received, second.frames_expected, second.rate_hz) == (3, 6, 1.0)
    whole = tracker.progress()
    assert (whole.frames_received, whole.frames_expected, whole.raster) == (9, 12, 0)
    tracker.close(0)
    assert tracker.progress().raster == 1
    tracker.close(1)
    assert tracker.progress().raster == 1  # the last one


def test_an_unreadable_message_is_bad_once():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(9))
    finish(tracker, np.arange(9), good=[1, 1, 1, 1, 0, 1, 1, 1, 1])
    for _ in range(4):
        tracker.unreadable()
    assert [tracker.close(n)[0].bad for n in (0, 1)] == [1, 3]


def test_a_batch_of_two_rasters_counts_in_both_also_in_a_channel():
    tracker = FrameTracker(GRID, 4, ["dark"])
    ids = np.arange(
        2 * GRID.frames - 2, 2 * GRID.frames + 3
    )  # the end of the second raster, the third begins
    tracker.claim(ids)
    yes = np.ones(len(ids), bool)
    tracker.finish(ids, yes, ids * SECOND, ~yes, {"dark": (ids != ids[-1], ids == ids[0])})
    assert [tracker.received_of(raster) for raster in range(4)] == [0, 2, 3, 0]
    received, saturated = tracker._further["dark"]
    assert received.tolist() == [0, 2, 2, 0]
    assert saturated.tolist() == [0, 1, 0, 0]


def test_who_waits_is_woken_by_an_earlier_raster_that_a_later_batch_completes():
    tracker = FrameTracker(GRID, 2)
    tracker.claim(np.arange(GRID.frames + 1))
    finish(tracker, np.arange(GRID.frames - 1))
    woken = []
    tracker.changed.notify_all = lambda: woken.append(True)
    finish(tracker, [GRID.frames - 1, GRID.frames])
    assert woken == [True]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_the_rate_is_that_of_the_first_and_the_last_in_any_order(order):
    tracker = FrameTracker(GRID, 1)
    tracker.claim(np.arange(3))
    for image_id in order:
        finish(tracker, [image_id], at=[(1 + 4 * image_id) * SECOND])
    finish_at_once = FrameTracker(GRID, 1)
    finish_at_once.claim(np.arange(3))
    finish(finish_at_once, order, at=[(1 + 4 * image_id) * SECOND for image_id in order])
    assert tracker.close(0)[1] == finish_at_once.close(0)[1] == pytest.approx(0.25)


@pytest.mark.parametrize("image_id", [-1, 6, 10**12])
def test_a_frame_of_no_raster_cannot_be_finished(image_id):
    tracker = FrameTracker(GRID, 1)
    with pytest.raises(IndexError, match="raster"):
        finish(tracker, [image_id])


# Several threads at once ------------------------------------------------------------------------


def test_images_that_two_threads_bring_at_once_all_count():
    tracker = FrameTracker(GRID, 1)
    rival = Rival(lambda: tracker.claim(np.array([3, 100, 101])))
    tracker._beyond = number_read_before(rival)
    tracker.claim(np.array([0, 1, 99]))
    rival.finish()
    losses, _ = tracker.close(0)
    assert (losses.beyond, losses.duplicates) == (3, 0)


def test_images_of_a_channel_that_two_threads_finish_at_once_all_count():
    tracker = FrameTracker(GRID, 1, ["dark"])
    tracker.claim(np.arange(3))
    rival = Rival(lambda: finish_in(tracker, [0, 1]))
    received, saturated = tracker._further["dark"]
    tracker._further["dark"] = array_read_before(rival, received), saturated
    finish_in(tracker, [2])
    rival.finish()
    losses, _ = tracker.close(0)
    assert losses.received == tracker.further_losses["dark"].received == 3


def finish_in(tracker, ids):
    """Also in the channel "dark"."""
    ids, yes = np.array(ids), np.ones(len(ids), bool)
    tracker.finish(ids, yes, ids * SECOND, ~yes, {"dark": (yes, ~yes)})


@pytest.mark.parametrize("what", ["close", "progress_of", "progress"])
def test_what_is_said_of_a_raster_is_of_one_moment(what):
    tracker = FrameTracker(GRID, 1)
    tracker.claim(np.arange(2))
    rival = Rival(lambda: finish(tracker, [0, 1], at=[0, SECOND], saturated=[1, 1]))
    tracker._received = array_read_before(rival, tracker._received)
    if what == "close":
        losses, rate = tracker.close(0)
        said = (losses.received, losses.saturated, rate)
    else:
        progress = tracker.progress_of(0) if what == "progress_of" else tracker.progress()
        said = (progress.frames_received, progress.saturated, progress.rate_hz)
    rival.finish()
    assert said in [(0, 0, None), (2, 2, 1.0)]


def test_images_of_other_series_and_unreadable_messages_of_two_threads_all_count():
    tracker = FrameTracker(GRID, 1)
    foreign, unreadable = Rival(lambda: tracker.foreign(2)), Rival(tracker.unreadable)
    tracker._foreign, tracker._unreadable = number_read_before(foreign), number_read_before(unreadable)
    tracker.foreign(3)
    tracker.unreadable()
    foreign.finish()
    unreadable.finish()
    losses, _ = tracker.close(0)
    assert (losses.foreign, losses.bad) == (5, 2)


def test_the_stream_is_not_silent_while_one_of_two_threads_still_works():
    tracker, over = FrameTracker(GRID, 1), threading.Event()

    def work():
        with tracker.working():
            working.set()
            assert over.wait(10)

    working, rival = threading.Event(), Rival(work)
    tracker._working = number_read_before(rival)
    with tracker.working():
        pass
    assert working.wait(10)
    tracker.last_activity -= 5
    assert tracker.silence == 0
    over.set()
    rival.finish()
    tracker.last_activity -= 5
    assert tracker.silence >= 5
