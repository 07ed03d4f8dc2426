"""When an engine that is silent, or cannot be reached, is given up."""

import socket
from contextlib import closing
from types import SimpleNamespace

import pytest
from fake_clock import set_clock

from live4d_ophyd.engine.process import outage
from live4d_ophyd.engine.process.outage import Outage, SignsOfLife
from live4d_ophyd.engine.process.protocol import Armed, ProgressMade
from live4d_ophyd.engine.results import Progress


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    set_clock(monkeypatch, outage.__name__, lambda: clock.now)
    return clock


def test_a_process_that_is_gone_refuses_and_is_not_waited_for(clock):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    broken = Outage(endpoint)
    assert broken.why_over(60) == ""  # it may be on its way up again
    clock.now += 1.0
    assert broken.why_over(60) == "its process is gone"


def test_a_host_that_cannot_be_reached_is_waited_for_as_long_as_the_scan_allows(clock):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        broken = Outage(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        clock.now += 59
        assert broken.why_over(60) == ""
        clock.now += 2
        assert broken.why_over(60) == "its host cannot be reached, for more than 60 s"


def progress(received, raster=0, rate=None, saturated=0):
    return ProgressMade(1, Progress(received, 16, rate, raster, saturated))


def test_progress_that_is_none_is_no_sign_of_life(clock):
    heard = SignsOfLife()
    heard.begin(10.0, 5)
    heard.of(Armed(1))
    for _ in range(3):
        heard.of(progress(3))
        clock.now += 160
    assert heard.too_silent() == "has said nothing new of the scan for 310 s"
    heard.of(progress(4))
    assert heard.too_silent() == ""


@pytest.mark.parametrize(
    "turns",
    [
        [progress(0), progress(1)],
        [progress(3, rate=0.0), progress(3, rate=1.0)],
        [progress(3, saturated=1), progress(3, saturated=2)],
        [progress(3, raster=1), progress(3, raster=0)],
    ],
    ids=["frames", "rate", "saturated", "raster"],
)
def test_progress_that_goes_to_and_fro_is_no_sign_of_life_for_ever(clock, turns):
    heard = SignsOfLife()
    heard.begin(10.0, 5)
    heard.of(Armed(1))
    for n in range(10):
        heard.of(turns[n % 2])
        clock.now += 100
    assert heard.too_silent() == "has said nothing new of the scan for 310 s"


def test_a_slow_series_goes_on_while_frames_come(clock):
    heard = SignsOfLife()
    heard.begin(10.0, 5)
    heard.of(Armed(1))
    for n in range(1, 17):
        clock.now += 300
        heard.of(progress(n, raster=n // 9))
        assert heard.too_silent() == ""


def test_progress_before_it_is_armed_does_not_hide_what_follows(clock):
    """With stay_armed it may be of the raster before, whose frames are all there."""
    heard = SignsOfLife()
    heard.begin(10.0, 5)
    heard.of(progress(16))
    clock.now += 500
    heard.of(progress(15))
    heard.of(Armed(1))
    for n in range(1, 4):
        clock.now += 300
        heard.of(progress(n))
    assert heard.too_silent() == ""
    heard.begin(10.0, 5)
    clock.now += 500
    heard.of(progress(16))
    clock.now += 200
    assert heard.too_silent() == "did not arm within 600 s"


def test_no_more_parts_count_than_results_have(clock):
    heard = SignsOfLife()
    heard.begin(10.0, 5)
    heard.of_the_result()  # of an acquisition before: nothing is armed yet
    heard.of(Armed(1))
    for _ in range(9):
        heard.of_the_result()
        clock.now += 100
    assert heard.too_silent() == "has said nothing new of the scan for 310 s"


def test_parts_of_a_result_are_signs_of_life(clock):
    heard = SignsOfLife()
    heard.begin(10.0, 5)
    heard.of(Armed(1))
    for _ in range(5):
        clock.now += 100
        heard.of_the_result()
    assert heard.too_silent() == ""


def test_arming_may_take_longer(clock):
    heard = SignsOfLife()
    heard.begin(1.0, 5)
    clock.now += 300
    assert heard.too_silent() == ""
    clock.now += 400
    assert heard.too_silent() == "did not arm within 600 s"
