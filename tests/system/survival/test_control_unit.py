"""The detector control unit (DCU) is restarted or down, or answers REST requests late or with nonsense."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import ExitStack, closing

import pytest
from bluesky import FailedStatus
from system.survival.conftest import GRID, SMALL
from system.survival.network import Network
from system.survival.rig import Rig

from live4d_ophyd.sim import SimulatorProcess

pytestmark = pytest.mark.system

SILENCE_S = 3.0


class RestartedSimulator:
    """A simulator on ports that stay the same from one process to the next."""

    def __init__(self, **options):
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        rest, stream = (s.getsockname()[1] for s in sockets)
        for s in sockets:
            s.close()
        self._options = options | {"rest_port": rest, "stream_port": stream}
        self.start()

    def start(self):
        self.process = SimulatorProcess(**self._options)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.close()

    def close(self):
        self.process.close()


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def dcu(stack):
    return stack.enter_context(closing(RestartedSimulator(**SMALL, rate=2000.0)))


@pytest.mark.parametrize(
    ("how", "mode"),
    [
        ("connections break", "exts"),
        ("connections break", "ints"),
        ("power fails, no connection breaks", "exts"),
    ],
)
def test_dcu_restarted_in_mid_scan_gives_what_came_and_the_next_trigger_works(stack, dcu, how, mode):
    network = stack.enter_context(closing(Network(dcu.process.stream_endpoint)))
    rig = stack.enter_context(closing(Rig(dcu.process, GRID, network.endpoint)))
    rig.live4d.detector.trigger_mode.put(mode)
    (clean,) = rig.count()
    assert clean.received == GRID.frames
    rig.live4d.timeout.put(SILENCE_S)
    rig.slow_down(200.0)

    def restart():
        if how != "connections break":
            network.abandon()
        dcu.kill()
        dcu.start()

    with rig.in_mid_series(100, restart) as restarting:

        def wait_for_restart():
            restarting.join()
            rig.live4d.timeout.put(10.0)  # the new simulator computes its frames first

        interrupted, next_one = rig.count(2, before_next=wait_for_restart)
    assert interrupted.received >= 100
    assert interrupted.lost > 0
    assert interrupted.bad == 0
    interrupted.check(clean.image)
    assert next_one.received == GRID.frames
    next_one.check(clean.image)


def test_dcu_down_the_trigger_says_so_and_the_next_one_works(stack, dcu):
    rig = stack.enter_context(closing(Rig(dcu.process, GRID)))
    rig.count()
    dcu.kill()
    with pytest.raises(FailedStatus):
        rig.count()
    assert f"GET {rig.simulator.rest_url}/detector/api/" in rig.reason
    assert "is the detector (or the simulator) on?" in rig.reason
    dcu.start()
    (clean,) = rig.count()
    assert clean.received == GRID.frames


@pytest.mark.parametrize("mode", ["exts", "ints"])
def test_detector_fails_in_mid_scan_gives_what_came_and_the_next_trigger_works(rig, truth, mode):
    """It breaks off half way, in state `error`, without an `end`."""
    rig.live4d.timeout.put(SILENCE_S)
    rig.fault(fail_series=True)
    rig.live4d.detector.trigger_mode.put(mode)
    try:
        half, clean = rig.count(2)
    finally:
        rig.live4d.detector.trigger_mode.put("exts")
    assert (half.received, half.bad) == (GRID.frames // 2, 0)
    half.check(truth)
    assert clean.received == GRID.frames
    clean.check(truth)


def test_rest_answers_late_the_scan_works(rig, truth):
    rig.fault(rest_latency=0.05)
    (late,) = rig.count()
    assert late.received == GRID.frames
    late.check(truth)


def test_rest_answers_500_a_few_times_the_scan_works(rig, truth):
    rig.live4d.wait_for_connection()
    rig.fault(rest_errors=2)
    (taken,) = rig.count()
    assert taken.received == GRID.frames
    taken.check(truth)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("rest_errors", ": 500 "), ("rest_garbage", "answered no JSON")],
    ids=["500", "garbage"],
)
def test_rest_answers_500_for_good_or_garbage_the_trigger_names_request_and_answer(rig, truth, fault, words):
    rig.fault(**{fault: 1000})
    with pytest.raises(FailedStatus):
        rig.count()
    assert f"GET {rig.simulator.rest_url}/detector/api/" in rig.reason
    assert words in rig.reason
    rig.fault()
    (clean,) = rig.count()
    clean.check(truth)
    assert clean.received == GRID.frames


def test_rest_falls_silent_in_mid_scan_what_came_is_there_within_40_s(stack, dcu):
    """The stream stands still, and no request is answered any more, neither disarm nor what the Event records."""
    rig = stack.enter_context(closing(Rig(dcu.process, GRID)))
    (clean,) = rig.count()
    rig.live4d.timeout.put(SILENCE_S)
    rig.fault(stall_at=150, stall_s=1000.0)
    patience = threading.Timer(40.0, dcu.kill)
    with rig.in_mid_series(100, lambda: rig.fault(rest_latency=1000.0)):
        patience.start()
        try:
            (stalled,) = rig.count()
        finally:
            patience.cancel()
            patience.join()
    assert dcu.process.running, "only when the control unit was gone did the trigger end"
    assert stalled.received == 150
    stalled.check(clean.image)
