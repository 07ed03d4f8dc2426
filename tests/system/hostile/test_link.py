"""A slow link between session and engine, one that is cut, and an engine that says nothing: with real processes."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import pytest
from served_engine import served_engine
from system.survival.network import Network

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.errors import EngineInUse, EngineLost
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.protocol import FINAL, Armed, Done, Lost, ProgressMade, RasterDone
from live4d_ophyd.imaging.segments import Segments
from live4d_ophyd.imaging.virtual_detectors import Annulus
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, end, image, start

pytestmark = pytest.mark.system

PATIENCE_S = 100.0
GRID = ScanGrid(64, 64)
#: 33 images of 32 kB: 1 MB a raster
RING = Annulus("ring", center=(11.5, 11.5), inner=6, outer=11)
METHODS = (RING, Segments("dpc", inner=6, outer=11, sectors=32))
#: bytes a second: a raster takes 5 s
SLOW = 2e5


class Heard:
    """The events of an acquisition."""

    def __init__(self):
        self.events, self.over, self.armed = [], threading.Event(), threading.Event()

    def __call__(self, event):
        self.events.append((time.monotonic(), event))
        if isinstance(event, Armed):
            self.armed.set()
        if isinstance(event, FINAL):
            self.over.set()

    def of(self, kind):
        return [event for _, event in self.events if isinstance(event, kind)]

    def last(self):
        assert self.over.wait(PATIENCE_S), [type(e).__name__ for _, e in self.events]
        return self.events[-1][1]


@pytest.fixture(scope="module")
def pixels():
    """The frames of a raster, all different in every segment."""
    rng = np.random.default_rng(1)
    return rng.integers(0, 1000, (GRID.frames, 24, 24), dtype=np.uint16)


@pytest.fixture
def rig():
    """(stream, engine's endpoint, its process)"""
    with ExitStack() as stack:
        engine = stack.enter_context(served_engine("--backend", "cpu"))
        yield stack.enter_context(closing(SmallDcu())), engine.endpoint, engine.process


@contextmanager
def session(endpoint):
    with closing(EngineClient(endpoint, backend="cpu")) as client:
        client.wait_ready(PATIENCE_S)
        yield client


@pytest.fixture
def slow(rig):
    """(stream, a session behind a slow link)"""
    dcu, endpoint, _ = rig
    with closing(Network(endpoint, SLOW)) as network, session(network.endpoint) as client:
        yield dcu, client


def ask(client, dcu, generation=1, timeout=30.0):
    heard = Heard()
    request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, METHODS, timeout=timeout)
    client.acquire(generation, request, heard)
    assert heard.armed.wait(PATIENCE_S)
    return heard


def send(dcu, pixels, series_id=1, wait=lambda n: None):
    def messages():
        yield start(series_id, number_of_images=len(pixels))
        for n, frame in enumerate(pixels):
            if n % GRID.cols == 0:
                wait(n // GRID.cols)
            yield image(frame, n, series_id)
        yield end(series_id)

    dcu.send(messages())


def check(heard, pixels):
    assert isinstance(heard.last(), Done), heard.last()
    (done,) = heard.of(RasterDone)
    outputs = dict(done.raster.outputs)
    ring = outputs.pop("ring")
    np.testing.assert_array_equal(ring.reshape(-1), (pixels * RING.weights((24, 24))).sum(axis=(1, 2)))
    np.testing.assert_array_equal(sum(outputs.values()), ring)


def test_a_raster_that_takes_longer_than_any_heartbeat_arrives(slow, pixels):
    dcu, client = slow
    heard = ask(client, dcu)
    send(dcu, pixels)
    check(heard, pixels)
    took = heard.events[-1][0] - heard.events[0][0]
    assert took > 3  # else the link was not what this test is about


def test_previews_do_not_queue_and_do_not_hold_up_the_result(slow, pixels):
    dcu, client = slow
    heard = ask(client, dcu)
    stop = threading.Event()

    def ask_always():
        while not stop.wait(0.02):  # faster than they can come
            client.request_preview()

    asking = threading.Thread(target=ask_always)
    asking.start()
    send(dcu, pixels, wait=lambda row: time.sleep(0.15))
    try:
        check(heard, pixels)
    finally:
        stop.set()
        asking.join()
    previews = [(at, e) for at, e in heard.events if isinstance(e, ProgressMade) and e.outputs is not None]
    assert len(previews) >= 2  # the first is whole, and others have new rows only
    for (_, before), (_, after) in itertools.pairwise(previews):
        known = np.isfinite(next(iter(before.outputs.values())))
        assert np.isfinite(next(iter(after.outputs.values()))[known]).all()
    (at,) = [at for at, e in heard.events if isinstance(e, RasterDone)]
    progress = [at for at, e in heard.events if isinstance(e, ProgressMade) and e.outputs is None]
    assert max(b - a for a, b in itertools.pairwise(progress)) < 5  # progress goes between the parts
    assert at - max(at for at, e in heard.events if isinstance(e, ProgressMade)) < 20


def test_a_preview_that_the_link_cannot_carry_in_time_is_binned(slow, pixels):
    dcu, client = slow
    heard = ask(client, dcu)

    def previews():
        client.request_preview()
        return [event.outputs["ring"] for event in heard.of(ProgressMade) if event.outputs is not None]

    def wait(row):
        if row == 1:  # the first preview is whole, takes 3 s, and shows what the link carries
            until(lambda: len(previews()) >= 1)
        if row == 63:  # rows 1 to 62 are new at once
            until(lambda: np.isfinite(previews()[-1][61]).all())

    send(dcu, pixels, wait=wait)
    check(heard, pixels)
    shown = previews()[-1]
    exact = (pixels * RING.weights((24, 24))).sum(axis=(1, 2)).reshape(GRID.shape)
    assert any(np.allclose(shown[n : n + 2, :2], exact[n : n + 2, :2].mean()) for n in range(62))


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_raster_survives_a_cut_of_the_link(rig, pixels):
    """It ends while the link is down, and is fetched when it is back."""
    dcu, endpoint, _ = rig
    with closing(Network(endpoint)) as network, session(network.endpoint) as client:
        heard = ask(client, dcu, timeout=60.0)
        cut = threading.Event()

        def wait(row):
            if row == 32:
                network.pull()
                cut.set()

        send(dcu, pixels, wait=wait)
        assert cut.wait(PATIENCE_S)
        dcu.wait()  # all is sent
        time.sleep(4.0)  # longer than the heartbeat's timeout: both ends have noticed
        network.plug_in()
        check(heard, pixels)
        second = ask(client, dcu, generation=2)
        send(dcu, pixels, series_id=2)
        check(second, pixels)


def test_a_link_that_stays_down_fails_the_trigger_when_its_time_is_over(rig, pixels):
    dcu, endpoint, _ = rig
    with closing(Network(endpoint)) as network, session(network.endpoint) as client:
        heard = ask(client, dcu, timeout=5.0)
        network.pull()
        began = time.monotonic()
        last = heard.last()
        assert isinstance(last, Lost)
        assert "its host cannot be reached, for more than 5 s" in str(last.error)
        assert time.monotonic() - began < 30
        assert not client.alive


def test_an_engine_that_was_killed_is_told_from_a_link_that_is_down(rig, pixels):
    dcu, endpoint, process = rig
    with session(endpoint) as client:
        heard = ask(client, dcu, timeout=60.0)
        process.kill()
        last = heard.last()
        assert isinstance(last.error, EngineLost)
        assert "its process is gone" in str(last.error)


def test_another_session_takes_the_engine_of_one_that_does_not_come_back(rig, pixels, caplog):
    dcu, endpoint, _ = rig
    with closing(Network(endpoint)) as network, session(network.endpoint) as client:
        heard = ask(client, dcu, timeout=60.0)
        send(dcu, pixels, wait=lambda row: row or network.pull())
        dcu.wait()
        with welcomed(endpoint) as other:  # in its turn, when the first has had time to come back
            dcu.wait_for_leaving(1)
            check(ask_and_send(other, dcu, pixels), pixels)
            assert "what it was still to be sent: that is lost" in caplog.text  # as the engine's log says
            network.plug_in()
            assert "this engine serves another session" in str(heard.last().error)


@contextmanager
def welcomed(endpoint):
    """A session that tries again while the engine has not noticed that the one before is cut off."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with closing(EngineClient(endpoint, backend="cpu")) as client:
            try:
                client.wait_ready(PATIENCE_S)
            except EngineInUse:
                assert time.monotonic() < deadline
                continue
            yield client
            return


def ask_and_send(client, dcu, pixels):
    heard = ask(client, dcu)
    send(dcu, pixels, series_id=2)
    return heard


def test_an_engine_that_is_stopped_for_good_fails_the_trigger(rig, pixels):
    """It is there, and answers nothing."""
    dcu, endpoint, process = rig
    with session(endpoint) as client:
        heard = ask(client, dcu, timeout=3.0)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            last = heard.last()
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert isinstance(last, Lost)
        assert "cannot be reached" in str(last.error)


def test_what_was_asked_for_while_the_link_was_down_is_asked_again(rig, pixels):
    dcu, endpoint, _ = rig
    with closing(Network(endpoint)) as network, session(network.endpoint) as client:
        network.pull()
        heard = Heard()
        request = AcquisitionRequest(DectrisSource(dcu.endpoint), GRID, METHODS, timeout=60.0)
        client.acquire(1, request, heard)  # into a link that carries nothing
        time.sleep(4.0)
        network.plug_in()
        assert heard.armed.wait(PATIENCE_S)
        send(dcu, pixels)
        check(heard, pixels)


def test_who_waits_for_a_session_that_comes_back_is_told(rig, pixels):
    dcu, endpoint, _ = rig
    with closing(Network(endpoint)) as network, session(network.endpoint) as client:
        heard = ask(client, dcu, timeout=60.0)
        network.pull()
        time.sleep(2.2)  # the engine has just noticed, or will in a moment
        with closing(EngineClient(endpoint, backend="cpu")) as other:
            network.plug_in()
            with pytest.raises(EngineInUse):
                other.wait_ready(PATIENCE_S)
        send(dcu, pixels)
        check(heard, pixels)


def test_a_scan_after_a_cancelled_one_does_not_wait_for_its_raster(rig, pixels):
    dcu, endpoint, _ = rig
    with closing(Network(endpoint, SLOW)) as network, session(network.endpoint) as client:
        heard = ask(client, dcu)
        send(dcu, pixels)
        deadline = time.monotonic() + PATIENCE_S
        while (before := network.carried) < 1e5:  # until the raster is on its way, for 5 s
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.cancel(1)
        assert client.release(PATIENCE_S)
        dcu.wait_for_leaving(1)
        second = ask(client, dcu, generation=2)
        assert network.carried - before < 0.75e6  # the parts that were under way; the rest is 1 MB
        send(dcu, pixels, series_id=2)
        check(second, pixels)
        assert not heard.of(RasterDone)
