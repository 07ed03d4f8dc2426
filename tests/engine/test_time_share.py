"""Work that leaves time to others."""

from contextlib import suppress

import pytest

from live4d_ophyd.engine.time_share import Share


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_what_was_never_done_may_begin(clock):
    assert Share(0.25, clock).wait == 0


def test_work_of_a_second_waits_for_three_where_it_has_a_quarter(clock):
    share = Share(0.25, clock)
    with share.work():
        clock.now += 1
    assert share.wait == 3
    clock.now += 2.5
    assert share.wait == 0.5
    clock.now += 10
    assert share.wait == 0


def test_work_that_fails_took_time_as_well(clock):
    share = Share(0.5, clock)
    with suppress(ZeroDivisionError), share.work():
        clock.now += 2
        1 / 0  # noqa: B018
    assert share.wait == 2
