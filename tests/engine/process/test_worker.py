"""The engine's worker: what it leaves at once, whatever the detector is doing."""

import threading
from contextlib import closing

import pytest
import zmq
from fake_control import FakeControl

from live4d_ophyd.decode import CpuBackend
from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.errors import Cancelled, EngineFault, NothingCame
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.engine.process.worker import EVENTS, Worker
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu


class BusyControl(FakeControl):
    """A detector that answers `arm` when the test says so."""

    #: what a request for it has on the wire
    url = "http://busy"
    trigger_mode, api, login, restore_settings, settings = "exts", "", "", True, ()

    def __init__(self):
        super().__init__()
        self.asked, self.answer = threading.Event(), threading.Event()

    def arm(self):
        self.asked.set()
        assert self.answer.wait(20)
        return super().arm()


@pytest.fixture
def events():
    """(context, socket that hears the worker)"""
    with zmq.Context() as context, context.socket(zmq.PULL) as heard:
        heard.linger, heard.rcvtimeo = 0, 10_000
        heard.bind(EVENTS)
        yield context, heard


def test_a_released_stream_is_left_at_once_and_the_detector_as_soon_as_it_answers(events):
    context, heard = events
    control = BusyControl()
    worker = Worker(context, b"session", CpuBackend())
    with closing(SmallDcu()) as dcu:
        try:
            disk = Disk("vbf", center=(12, 16), radius=6)
            worker.acquire(
                1, AcquisitionRequest(DectrisSource(dcu.endpoint, simplon=control), ScanGrid(3, 4), (disk,))
            )
            assert control.asked.wait(10)
            worker.release()
            dcu.wait_for_leaving(1)
            assert heard.poll(0) == 0
        finally:
            control.answer.set()
            said = [protocol.from_engine(heard.recv_multipart()[3]) for _ in range(2)]
            worker.end()
    assert [type(message) for message in said] == [protocol.Failed, protocol.Released]
    assert isinstance(said[0].error, Cancelled)
    assert control.heard[-2:] == ["abort", "put back"]


def test_what_nobody_expects_is_answered_and_the_next_acquisition_runs(events, monkeypatch):
    context, heard = events
    rasters_of = Worker._rasters_of

    def ends(self, events, generation, request):
        if generation == 1:
            raise KeyboardInterrupt("in a thread")
        return rasters_of(self, events, generation, request)

    monkeypatch.setattr(Worker, "_rasters_of", ends)
    worker = Worker(context, b"session", CpuBackend())
    with closing(SmallDcu()) as dcu:
        request = AcquisitionRequest(
            DectrisSource(dcu.endpoint), ScanGrid(3, 4), (Disk("vbf", radius=6),), timeout=0.1
        )
        try:
            worker.acquire(1, request)
            worker.acquire(2, request)
            first = protocol.from_engine(heard.recv_multipart()[3])
            said = [protocol.from_engine(heard.recv_multipart()[3])]
            while not isinstance(said[-1], protocol.Failed):
                said.append(protocol.from_engine(heard.recv_multipart()[3]))
        finally:
            worker.end()
    assert isinstance(first.error, EngineFault)
    assert str(first.error) == "KeyboardInterrupt: in a thread"
    assert (said[-1].generation, type(said[-1].error)) == (2, NothingCame)
