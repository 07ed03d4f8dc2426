"""The session against an engine that says what it must not: the trigger fails by name, nothing hangs."""

import threading
import time
from contextlib import closing
from dataclasses import replace

import cbor2
import numpy as np
import pytest
import zmq

from live4d_ophyd.engine import AcquisitionRequest, Losses, RasterResult
from live4d_ophyd.engine.errors import NoStream, ProtocolError
from live4d_ophyd.engine.process import outage, protocol
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.previews import Rows
from live4d_ophyd.engine.results import Progress
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.source import DectrisSource

GRID = ScanGrid(4, 4)
SPEC = AcquisitionRequest(DectrisSource("tcp://dcu:31001"), GRID, (Disk("vbf", center=(2, 2), radius=1),))


def raster_done(value, generation):
    taken = RasterResult(0, {"vbf": np.full((4, 4), value)}, Losses(16, 16, 0, 0), 1, None, "cpu")
    return protocol.RasterDone(generation, taken)


class ScriptedEngine:
    """An engine whose answers the test writes."""

    def __init__(self):
        self._context = zmq.Context()
        self._listen("tcp://127.0.0.1:*")
        self.endpoint = self._socket.last_endpoint.decode().rstrip("\0")
        self._session = b""

    def _listen(self, endpoint):
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.rcvtimeo = 10_000
        deadline = time.monotonic() + 10
        while True:
            try:
                return self._socket.bind(endpoint)
            except zmq.ZMQError:  # libzmq closes the socket before in a thread of its own
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def hear(self):
        """The next message of the session."""
        self._session, raw = self._socket.recv_multipart()
        return protocol.from_session(raw)

    def say(self, message):
        self.send(protocol.encode(message))

    def send(self, raw):
        self._socket.send_multipart([self._session, raw])

    def raster(self, value, generation=1):
        self.say(raster_done(value, generation))

    def cut(self):
        """Break the connection, and be there again."""
        self._socket.close()
        self._listen(self.endpoint)

    def close(self):
        self._socket.close()
        self._context.term()


class Events:
    """Collects an acquisition's events."""

    def __init__(self, fails_at=None):
        self.all = []
        self._fails_at = fails_at
        self._over = threading.Event()

    def __call__(self, event):
        self.all.append(event)
        if isinstance(event, protocol.FINAL):
            self._over.set()
        if type(event) is self._fails_at:
            raise RuntimeError("no place for it")

    def last(self):
        assert self._over.wait(10), self.all
        return self.all[-1]


@pytest.fixture
def engine():
    with closing(ScriptedEngine()) as scripted:
        yield scripted


@pytest.fixture
def client(engine):
    with closing(EngineClient(engine.endpoint)) as client:
        assert engine.hear() == protocol.Hello("auto")
        engine.say(protocol.Ready(1, "cpu", "scripted", "scripted 1"))
        client.wait_ready(10)
        yield client


def test_a_raster_that_cannot_be_read_fails_the_trigger_and_no_stale_image_is_left(client, engine):
    events = Events()
    client.acquire(1, SPEC, events)
    assert isinstance(engine.hear(), protocol.Acquire)
    engine.send(protocol.encode(raster_done(1.0, 1)).replace(b"<f8", b"<f9"))
    engine.say(protocol.Done(1))
    error = events.last().error
    assert isinstance(error, ProtocolError)
    assert "sent what this session cannot use: RasterDone: raster.outputs['vbf'] is an array of '<f9'" in str(
        error
    )
    assert engine.endpoint in str(error)
    assert engine.hear() == protocol.Cancel(1)
    assert [type(event) for event in events.all] == [protocol.Failed]


def test_the_trigger_after_a_broken_one_works(client, engine):
    for value, generation in ((7.0, 1), (9.0, 2)):
        events = Events()
        client.acquire(generation, SPEC, events)
        assert isinstance(engine.hear(), protocol.Acquire)
        if generation == 1:
            engine.say(protocol.Done(1))
            assert "0 of 1 rasters came before it" in str(events.last().error)
            assert isinstance(engine.hear(), protocol.Cancel)
            engine.raster(value, generation=1)  # late: it must not be taken for the next one's
    engine.say(protocol.Armed(2))
    engine.raster(9.0, generation=2)
    engine.say(protocol.Done(2))
    assert isinstance(events.last(), protocol.Done)
    (raster,) = [event.raster for event in events.all if isinstance(event, protocol.RasterDone)]
    assert (raster.outputs["vbf"] == 9.0).all()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("ProgressMade", {"generation": 1, "progress": None, "images": None}),
        ("ProgressMade", {"generation": 1}),
        ("Failed", {"generation": 1}),
        ("LogLine", {"level": "high", "text": 5}),
        ("Refused", {}),
        ("Ready", {"pid": "one"}),
        ("Done", {"generation": 1, "surprise": 1}),
        ("Done", {"generation": 2}),
    ],
)
def test_a_malformed_message_fails_the_trigger_and_the_client_goes_on(client, engine, kind, values):
    events = Events()
    client.acquire(1, SPEC, events)
    engine.hear()
    engine.send(cbor2.dumps({"v": protocol.VERSION, "kind": kind, **values}))
    error = events.last().error
    assert f"sent what this session cannot use: {kind}: " in str(error)
    assert isinstance(error, ProtocolError)
    assert isinstance(engine.hear(), protocol.Cancel)
    events = Events()
    client.acquire(2, SPEC, events)
    engine.hear()
    engine.say(protocol.Armed(2))
    engine.raster(1.0, generation=2)
    engine.say(protocol.Done(2))
    assert isinstance(events.last(), protocol.Done)


def test_noise_between_triggers_harms_nothing(client, engine):
    engine.send(b"noise")
    engine.say(protocol.Released())
    assert client._released.wait(10)  # what was sent before has been heard
    events = Events()
    client.acquire(1, SPEC, events)
    engine.hear()
    engine.say(protocol.Armed(1))
    engine.raster(1.0)
    engine.say(protocol.Done(1))
    assert isinstance(events.last(), protocol.Done)


def test_a_session_that_cannot_take_the_raster_fails_its_trigger(client, engine):
    events = Events(fails_at=protocol.RasterDone)
    client.acquire(1, SPEC, events)
    engine.hear()
    engine.raster(1.0)
    engine.say(protocol.Done(1))
    assert "the session failed at the engine's RasterDone: RuntimeError('no place for it')" in str(
        events.last().error
    )


def test_a_refusal_is_of_the_acquisition_it_names(client, engine):
    events = Events()
    client.acquire(2, SPEC, events)
    engine.hear()
    engine.say(protocol.Refused(protocol.Failure("ValueError", "an earlier one"), 1))
    engine.say(protocol.Refused(protocol.Failure("ValueError", "no such grid"), 2))
    error = events.last().error
    assert (type(error), str(error)) == (ValueError, "no such grid")


def test_an_engine_of_another_version_is_named_before_the_first_trigger(engine):
    with closing(EngineClient(engine.endpoint)) as client:
        engine.hear()
        engine.send(
            protocol.encode(protocol.Alive()).replace(b"\x61v" + bytes([protocol.VERSION]), b"\x61v\x02")
        )
        with pytest.raises(ProtocolError, match=r"speaks version 2 .* install the same live4d-ophyd"):
            client.wait_ready(10)


def test_the_reason_of_a_refusal_is_not_replaced_by_what_comes_after_it(engine, caplog):
    with closing(EngineClient(engine.endpoint)) as client:
        engine.hear()
        engine.say(protocol.Refused(protocol.Failure("ValueError", "it is being serviced")))
        engine.send(b"nonsense")
        deadline = time.monotonic() + 60
        while "cannot use" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(ValueError, match="refused: it is being serviced"):
            client.wait_ready(10)


def test_an_error_of_the_engine_is_raised_in_its_class_with_its_remedy(client, engine):
    events = Events()
    client.acquire(1, SPEC, events)
    engine.hear()
    engine.say(protocol.Failed(1, protocol.Failure.of(NoStream("no stream answers", remedy="switch it on"))))
    error = events.last().error
    assert (type(error), error.reason, error.remedy) == (NoStream, "no stream answers", "switch it on")
    assert str(error) == "no stream answers: switch it on"


@pytest.mark.parametrize(
    ("armed", "silence"),
    [(False, "did not arm within 0.2 s"), (True, "has said nothing new of the scan for 0.3 s")],
)
def test_an_engine_that_is_there_and_says_nothing_of_the_scan_fails_the_trigger(
    client, engine, monkeypatch, armed, silence
):
    monkeypatch.setattr(outage, "ARM_S", 30.0 if armed else 0.2)
    monkeypatch.setattr(outage, "GRACE_S", 0.2 if armed else 30.0)
    events = Events()
    client.acquire(1, replace(SPEC, timeout=0.1), events)
    assert isinstance(engine.hear(), protocol.Acquire)
    if armed:
        engine.say(protocol.Armed(1))
    error = events.last().error
    assert f"the engine at {engine.endpoint} {silence}" in str(error)
    assert "end it if it hangs" in str(error)
    assert engine.hear() == protocol.Cancel(1)
    assert client.alive


@pytest.mark.parametrize("awaited", [False, True])
def test_after_a_cut_a_preview_is_asked_for_again_only_if_one_was(client, engine, awaited):
    client.acquire(1, SPEC, Events())
    assert isinstance(engine.hear(), protocol.Acquire)
    engine.say(protocol.Armed(1))
    client.request_preview()
    assert engine.hear() == protocol.Preview()
    if not awaited:
        rows = {"vbf": Rows(0, 4, 1, (4, 4), np.ones((4, 4), np.float32))}
        engine.say(protocol.PreviewMade(1, 0, Progress(4, 16, None, 0), rows))
        assert reaches(lambda: not client._running.awaits_preview)
    engine.cut()
    assert engine.hear() == protocol.Hello("auto", 0)
    if awaited:
        assert engine.hear() == protocol.Preview(whole=True)
    engine.say(protocol.Ready(1, "cpu", "scripted", "scripted 1", knows=True, heard=1))
    client.cancel(1)
    assert engine.hear() == protocol.Cancel(1)


def reaches(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
