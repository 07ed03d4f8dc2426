"""Signals of the device that plans wait for."""

from types import SimpleNamespace

import pytest
from ophyd import Device

from live4d_ophyd.engine.spec import Progress
from live4d_ophyd.signals import RasterStatus


@pytest.fixture
def clock(monkeypatch):
    """The time that statuses see, s."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("live4d_ophyd.signals.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def status(clock):
    status = RasterStatus(Device("", name="live4d"))
    yield status
    status.set_finished()


@pytest.mark.parametrize(
    ("after", "done", "left", "remaining"),
    [(0.5, 0, 1.0, None), (4.0, 3, 0.75, 12.0), (9.0, 9, 0.25, 3.0), (12.0, 12, 0.0, 0.0)],
)
def test_progress_says_what_is_done_and_how_long_the_rest_will_take(
    clock, status, after, done, left, remaining
):
    reports = []
    status.watch(lambda **report: reports.append(report))
    clock.now += after
    status.report(Progress(done, 12, 0.75, 0, 0))
    assert reports == [
        {
            "name": "live4d",
            "current": done,
            "initial": 0,
            "target": 12,
            "unit": "frames",
            "precision": 0,
            "fraction": pytest.approx(left),  # bluesky's bars want what is left
            "time_elapsed": after,
            "time_remaining": remaining,
            "rate": 0.75,
        }
    ]


def test_only_watchers_that_take_a_rate_are_told_one(status):
    told = []

    def bar(*, name, current, initial, target, unit, precision, fraction, time_elapsed, time_remaining):
        told.append(("bar", current))

    def bar_with_rate(*, rate, current, **others):
        told.append(("with rate", current, rate))

    status.watch(bar)
    status.watch(bar_with_rate)
    status.report(Progress(3, 12, 5e3, 0, 0))
    assert told == [("bar", 3), ("with rate", 3, 5e3)]
