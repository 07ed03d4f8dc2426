"""When an engine that is silent, or cannot be reached, is given up."""

import socket
from contextlib import closing

import pytest

from live4d_ophyd.engine.process import outage
from live4d_ophyd.engine.process.outage import Outage, SignsOfLife
from live4d_ophyd.engine.process.protocol import Armed, ProgressMade
from live4d_ophyd.engine.results import Progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(outage, "time", clock)
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


def progress(received):
    return ProgressMade(1, Progress(received, 16, None, 0))


def test_progress_that_is_none_is_no_sign_of_life(clock):
    heard = SignsOfLife()
    heard.begin(10.0)
    heard.of(Armed(1))
    for _ in range(3):
        heard.of(progress(3))
        clock.now += 160
    assert heard.too_silent() == "has said nothing new of the scan for 310 s"
    heard.of(progress(4))
    assert heard.too_silent() == ""


def test_parts_of_a_result_are_signs_of_life(clock):
    heard = SignsOfLife()
    heard.begin(10.0)
    heard.of(Armed(1))
    for _ in range(5):
        clock.now += 100
        heard.of_the_result()
    assert heard.too_silent() == ""


def test_arming_may_take_longer(clock):
    heard = SignsOfLife()
    heard.begin(1.0)
    clock.now += 300
    assert heard.too_silent() == ""
    clock.now += 400
    assert heard.too_silent() == "did not arm within 600 s"
