"""The ledger's book: every image once, in the raster it belongs to, with the rate it came at."""

import threading

import numpy as np
import pytest
from rival import Rival, array_read_before, number_read_before

from live4d_ophyd.engine.ledger import Ledger
from live4d_ophyd.scan import ScanGrid

GRID = ScanGrid(2, 3)
SECOND = 10**9


def settle(ledger, ids, *, good=None, at=None, saturated=None):
    ids = np.asarray(ids)
    none = np.zeros(len(ids), bool)
    ledger.settle(
        ids,
        ~none if good is None else np.asarray(good, bool),
        np.zeros(len(ids), np.int64) if at is None else np.asarray(at),
        none if saturated is None else np.asarray(saturated, bool),
    )


def test_an_image_is_new_once_and_its_repetitions_are_counted():
    ledger = Ledger(GRID, 1)
    assert ledger.claim(np.array([0, 1, 1, 2])).tolist() == [True, True, False, True]
    assert ledger.claim(np.array([2, 3])).tolist() == [False, True]
    settle(ledger, [0, 1, 2, 3])
    losses, _ = ledger.close(0)
    assert (losses.duplicates, losses.received, losses.lost, losses.beyond) == (2, 4, 2, 0)


@pytest.mark.parametrize("ids", [[3, 3], [3, 2, 3], [2, 3, 3], [4, 3, 2, 3, 4]])
def test_repetitions_within_a_batch_are_found_in_any_order(ids):
    ledger = Ledger(GRID, 1)
    new = ledger.claim(np.array(ids))
    assert sorted(np.array(ids)[new]) == sorted(set(ids))
    assert new[[ids.index(image_id) for image_id in set(ids)]].all()  # the first of each
    assert ledger.close(0)[0].duplicates == len(ids) - len(set(ids))


def test_ids_that_the_grid_does_not_have_are_counted_apart():
    ledger = Ledger(GRID, 1)
    assert ledger.claim(np.array([-1, 0, 6, 7])).tolist() == [False, True, False, False]
    assert ledger.close(0)[0].beyond == 3


def test_received_bad_and_saturated_are_booked_by_raster():
    ledger = Ledger(GRID, 2)
    ledger.claim(np.arange(12))
    settle(ledger, [0, 1, 6, 7, 8], good=[1, 0, 1, 1, 0], saturated=[1, 1, 0, 1, 1])
    settle(ledger, [2, 9], saturated=[1, 0])
    settle(ledger, [3, 10], good=[0, 1], saturated=[1, 1])
    first, second = ledger.close(0)[0], ledger.close(1)[0]
    assert (first.received, first.bad, first.lost, first.saturated) == (2, 2, 2, 2)
    assert (second.received, second.bad, second.lost, second.saturated) == (4, 1, 1, 2)


def test_the_rate_is_from_the_first_to_the_last_image_of_a_raster():
    ledger = Ledger(GRID, 2)
    ledger.claim(np.arange(12))
    settle(ledger, [1, 0], at=[3 * SECOND, 2 * SECOND])
    settle(ledger, [2, 3, 6], at=[4 * SECOND, 5 * SECOND, 90 * SECOND])
    settle(ledger, [4, 5, 7], at=[6 * SECOND, 7 * SECOND, 90 * SECOND + SECOND // 4])
    assert ledger.close(0)[1] == pytest.approx(1.0)  # 6 images in 5 s
    assert ledger.close(1)[1] == pytest.approx(4.0)  # 2 images in 0.25 s


def test_one_image_has_no_rate():
    ledger = Ledger(GRID, 1)
    ledger.claim(np.array([4]))
    settle(ledger, [4], at=[SECOND])
    assert ledger.close(0)[1] is None


def test_what_comes_late_for_a_raster_that_is_over_is_not_taken():
    ledger = Ledger(GRID, 2)
    ledger.close(0)
    assert ledger.claim(np.array([5, 6])).tolist() == [False, True]


def test_unreadable_messages_are_bad_as_far_as_images_are_missing():
    ledger = Ledger(GRID, 1)
    ledger.claim(np.arange(5))
    settle(ledger, np.arange(5))
    ledger.unreadable()
    ledger.unreadable()
    losses, _ = ledger.close(0)
    assert (losses.received, losses.bad, losses.lost) == (5, 1, 0)


def test_progress_says_how_many_images_are_saturated():
    ledger = Ledger(GRID, 2)
    ledger.claim(np.arange(12))
    settle(ledger, [6, 7, 8], saturated=[1, 0, 1])
    assert ledger.progress_of(1).saturated == 2
    ledger.close(0)
    assert ledger.progress().saturated == 2


def test_what_came_and_what_became_of_it_so_far():
    ledger = Ledger(GRID, 2)
    assert (ledger.begun, ledger.all_claimed, ledger.last_missing) == (False, False, 11)
    ledger.claim(np.array([0, 1, 5, 7, 11]))
    assert (ledger.begun, ledger.all_claimed, ledger.last_missing) == (True, False, 10)
    settle(ledger, [0, 1, 7], good=[1, 0, 1], saturated=[1, 0, 1])
    assert (ledger.settled, ledger.received, ledger.saturated) == (3, 2, 2)
    assert [ledger.settled_of(n) for n in (0, 1)] == [2, 1]
    assert [ledger.received_of(n) for n in (0, 1)] == [1, 1]
    assert [ledger.arrived(n) for n in (0, 1)] == [3, 2]
    came = ledger.came
    assert np.flatnonzero(came).tolist() == [0, 1, 5, 7, 11]
    ledger.claim(np.arange(12))
    assert came.sum() == 5
    assert (ledger.all_claimed, ledger.last_missing) == (True, -1)


def test_a_raster_is_complete_when_each_of_its_images_is_received_or_bad():
    ledger = Ledger(GRID, 2)
    ledger.claim(np.arange(12))
    settle(ledger, np.arange(5), good=[1, 0, 1, 1, 0])
    assert not ledger.complete(0)
    settle(ledger, [5, 6])
    assert [ledger.complete(n) for n in (0, 1)] == [True, False]


def test_a_raster_is_overtaken_when_the_one_after_the_next_has_begun():
    ledger = Ledger(GRID, 4)
    ledger.claim(np.arange(24))
    settle(ledger, [0, 6])
    assert not ledger.overtaken(0)
    settle(ledger, [12])
    assert [ledger.overtaken(n) for n in (0, 1)] == [True, False]
    settle(ledger, [1])  # a late one takes nothing back
    assert ledger.overtaken(0)


def test_a_raster_reached_its_end_with_its_last_image_and_images_may_come_from_beyond():
    ledger = Ledger(GRID, 2)
    ledger.claim(np.arange(5))
    assert (ledger.reached_end(0), ledger.went_beyond(0)) == (False, False)
    ledger.claim(np.array([5]))
    assert (ledger.reached_end(0), ledger.went_beyond(0), ledger.reached_end(1)) == (True, False, False)
    ledger.claim(np.array([6]))
    assert (ledger.went_beyond(0), ledger.went_beyond(1)) == (True, False)
    ledger.claim(np.array([12]))
    assert ledger.went_beyond(1)
    assert (ledger.beyond, ledger.strangers) == (1, 0)
    ledger.foreign(3)
    ledger.foreign(1)
    assert ledger.strangers == 4


def test_the_stream_is_silent_since_something_new_came_and_never_while_it_is_worked_on(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("live4d_ophyd.engine.ledger.time.monotonic", lambda: now[0])
    ledger = Ledger(GRID, 1)
    now[0] = 103.0
    assert ledger.silence == 3
    ledger.claim(np.array([0]))
    assert ledger.silence == 0
    now[0] = 105.0
    ledger.claim(np.array([0, 77]))  # nothing new
    assert ledger.silence == 2
    settle(ledger, [0])
    assert ledger.silence == 0
    with ledger.working():
        now[0] = 200.0
        assert ledger.silence == 0
    assert ledger.silence == 0
    now[0] = 201.0
    settle(ledger, [])
    assert ledger.silence == 1


def test_who_waits_for_a_raster_is_woken_when_it_is_complete():
    ledger, woken = Ledger(GRID, 1), []
    ledger.claim(np.arange(6))
    ledger.changed.notify_all = lambda: woken.append(ledger.settled)
    settle(ledger, np.arange(5))
    assert woken == []
    settle(ledger, [5])
    assert woken == [6]


def test_progress_is_of_the_raster_that_runs():
    ledger = Ledger(GRID, 2)
    ledger.claim(np.arange(12))
    settle(ledger, np.arange(6), at=np.arange(6) * SECOND)
    settle(ledger, [6, 7, 8], good=[1, 1, 0], at=[20 * SECOND, 21 * SECOND, 22 * SECOND])
    first, second = ledger.progress_of(0), ledger.progress_of(1)
    assert (first.frames_received, first.frames_expected, first.rate_hz, first.raster) == (6, 6, 1.0, 0)
    assert (second.frames_received, second.frames_expected, second.rate_hz) == (3, 6, 1.0)
    whole = ledger.progress()
    assert (whole.frames_received, whole.frames_expected, whole.raster) == (9, 12, 0)
    ledger.close(0)
    assert ledger.progress().raster == 1
    ledger.close(1)
    assert ledger.progress().raster == 1  # the last one


def test_an_unreadable_message_is_bad_once():
    ledger = Ledger(GRID, 2)
    ledger.claim(np.arange(9))
    settle(ledger, np.arange(9), good=[1, 1, 1, 1, 0, 1, 1, 1, 1])
    for _ in range(4):
        ledger.unreadable()
    assert [ledger.close(n)[0].bad for n in (0, 1)] == [1, 3]


# Several threads at once ------------------------------------------------------------------------


def test_an_image_that_two_threads_bring_at_once_is_new_to_one_of_them():
    ledger, theirs = Ledger(GRID, 1), []
    rival = Rival(lambda: theirs.append(ledger.claim(np.arange(4))))
    ledger._claimed = array_read_before(rival, ledger._claimed)
    mine = ledger.claim(np.arange(4))
    rival.finish()
    np.testing.assert_array_equal(mine.astype(int) + theirs[0], 1)
    assert ledger.close(0)[0].duplicates == 4


def test_images_that_two_threads_settle_at_once_all_count_for_the_rate():
    ledger = Ledger(GRID, 1)
    ledger.claim(np.arange(3))
    rival = Rival(lambda: settle(ledger, [0, 1], at=[SECOND, 2 * SECOND]))
    ledger._first = array_read_before(rival, ledger._first)
    settle(ledger, [2], at=[9 * SECOND])
    rival.finish()
    losses, rate = ledger.close(0)
    assert losses.received == 3
    assert rate == pytest.approx(0.25)  # 3 images in 8 s


@pytest.mark.parametrize("what", ["close", "progress_of", "progress"])
def test_what_is_said_of_a_raster_is_of_one_moment(what):
    ledger = Ledger(GRID, 1)
    ledger.claim(np.arange(2))
    rival = Rival(lambda: settle(ledger, [0, 1], at=[0, SECOND], saturated=[1, 1]))
    ledger._received = array_read_before(rival, ledger._received)
    if what == "close":
        losses, rate = ledger.close(0)
        said = (losses.received, losses.saturated, rate)
    else:
        progress = ledger.progress_of(0) if what == "progress_of" else ledger.progress()
        said = (progress.frames_received, progress.saturated, progress.rate_hz)
    rival.finish()
    assert said in [(0, 0, None), (2, 2, 1.0)]


def test_images_of_other_series_and_unreadable_messages_of_two_threads_all_count():
    ledger = Ledger(GRID, 1)
    foreign, unreadable = Rival(lambda: ledger.foreign(2)), Rival(ledger.unreadable)
    ledger._foreign, ledger._unreadable = number_read_before(foreign), number_read_before(unreadable)
    ledger.foreign(3)
    ledger.unreadable()
    foreign.finish()
    unreadable.finish()
    losses, _ = ledger.close(0)
    assert (losses.foreign, losses.bad) == (5, 2)


def test_the_stream_is_not_silent_while_one_of_two_threads_still_works():
    ledger, over = Ledger(GRID, 1), threading.Event()

    def work():
        with ledger.working():
            working.set()
            assert over.wait(10)

    working, rival = threading.Event(), Rival(work)
    ledger._working = number_read_before(rival)
    with ledger.working():
        pass
    assert working.wait(10)
    ledger.last_activity -= 5
    assert ledger.silence == 0
    over.set()
    rival.finish()
    ledger.last_activity -= 5
    assert ledger.silence >= 5
