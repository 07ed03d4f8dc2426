"""The session against an engine that says what it must not: the trigger fails by name, nothing hangs."""

import threading
from contextlib import closing

import numpy as np
import pytest
import zmq

from live4d_ophyd.engine import AcquisitionError, AcquisitionRequest, Losses, RasterResult, error_of
from live4d_ophyd.engine.process import protocol as wire
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid

GRID = ScanGrid(4, 4)
SPEC = AcquisitionRequest("tcp://dcu:31001", GRID, (Disk("vbf", center=(2, 2), radius=1),))


class ScriptedEngine:
    """An engine whose answers the test writes."""

    def __init__(self):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.rcvtimeo = 10_000
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._session = b""

    def hear(self):
        """The next message of the session."""
        self._session, raw = self._socket.recv_multipart()
        return wire.decode(raw)

    def say(self, kind, **values):
        self.send(wire.encode(kind, **values))

    def send(self, raw):
        self._socket.send_multipart([self._session, raw])

    def raster(self, value, generation=1):
        taken = RasterResult(0, {"vbf": np.full((4, 4), value)}, Losses(16, 16, 0, 0), 1, None, "cpu")
        self.say("raster", generation=generation, raster=taken.to_dict())

    def close(self):
        self._socket.close()
        self._context.term()


class Events:
    """Collects an acquisition's events."""

    def __init__(self, fails_at=""):
        self.all = []
        self._fails_at = fails_at
        self._over = threading.Event()

    def __call__(self, event):
        self.all.append(event)
        if event["kind"] in ("done", "failed", "lost"):
            self._over.set()
        if event["kind"] == self._fails_at:
            raise RuntimeError("no place for it")

    def last(self):
        assert self._over.wait(10), [e["kind"] for e in self.all]
        return self.all[-1]


@pytest.fixture
def engine():
    with closing(ScriptedEngine()) as scripted:
        yield scripted


@pytest.fixture
def client(engine):
    with closing(EngineClient(engine.endpoint)) as client:
        assert engine.hear()["kind"] == "hello"
        engine.say("ready", pid=1, engine="cpu", detail="scripted", versions="scripted 1")
        client.wait_ready(10)
        yield client


def test_a_raster_that_cannot_be_read_fails_the_trigger_and_no_stale_image_is_left(client, engine):
    events = Events()
    client.acquire(1, SPEC, events)
    assert engine.hear()["kind"] == "acquire"
    broken = wire.encode("raster", generation=1, raster={"images": np.ones((1, 4, 4))})
    engine.send(broken.replace(b"<f8", b"<f9"))
    engine.say("done", generation=1)
    last = events.last()
    assert last["kind"] == "failed"
    assert "not a message of the engine's protocol" in last["reason"]
    assert engine.endpoint in last["reason"]
    assert engine.hear() == {"v": wire.VERSION, "kind": "cancel", "generation": 1}
    assert [e["kind"] for e in events.all] == ["failed"]


def test_the_trigger_after_a_broken_one_works(client, engine):
    for value, generation in ((7.0, 1), (9.0, 2)):
        events = Events()
        client.acquire(generation, SPEC, events)
        assert engine.hear()["kind"] == "acquire"
        if generation == 1:
            engine.say("done", generation=1)
            assert "0 of 1 rasters came before it" in events.last()["reason"]
            assert engine.hear()["kind"] == "cancel"
            engine.raster(value, generation=1)  # late: it must not be taken for the next one's
    engine.say("armed", generation=2)
    engine.raster(9.0, generation=2)
    engine.say("done", generation=2)
    assert events.last()["kind"] == "done"
    (raster,) = [e["raster"] for e in events.all if e["kind"] == "raster"]
    assert (raster["outputs"]["vbf"] == 9.0).all()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("progress", {"progress": None, "images": None}),
        ("progress", {}),
        ("failed", {}),
        ("surprise", {}),
        ("log", {"level": "high", "text": 5}),
        ("refused", {}),
        ("ready", {"pid": "one"}),
    ],
)
def test_a_malformed_message_fails_the_trigger_and_the_client_goes_on(client, engine, kind, values):
    events = Events()
    client.acquire(1, SPEC, events)
    engine.hear()
    engine.say(kind, generation=1, **values)
    last = events.last()
    assert f"sent what this session cannot use: {kind}: " in last["reason"]
    assert isinstance(error_of(last), AcquisitionError)
    assert engine.hear()["kind"] == "cancel"
    events = Events()
    client.acquire(2, SPEC, events)
    engine.hear()
    engine.say("armed", generation=2)
    engine.raster(1.0, generation=2)
    engine.say("done", generation=2)
    assert events.last()["kind"] == "done"


def test_noise_between_triggers_harms_nothing(client, engine):
    engine.send(b"noise")
    engine.say("released")
    assert client._released.wait(10)  # what was sent before has been heard
    events = Events()
    client.acquire(1, SPEC, events)
    engine.hear()
    engine.say("armed", generation=1)
    engine.raster(1.0)
    engine.say("done", generation=1)
    assert events.last()["kind"] == "done"


def test_a_session_that_cannot_take_the_raster_fails_its_trigger(client, engine):
    events = Events(fails_at="raster")
    client.acquire(1, SPEC, events)
    engine.hear()
    engine.raster(1.0)
    engine.say("done", generation=1)
    assert (
        "the session failed at the engine's 'raster': RuntimeError('no place for it')"
        in events.last()["reason"]
    )


def test_a_refusal_is_of_the_acquisition_it_names(client, engine):
    events = Events()
    client.acquire(2, SPEC, events)
    engine.hear()
    engine.say("refused", generation=1, error="ValueError", reason="an earlier one", hello_first=False)
    engine.say("refused", generation=2, error="ValueError", reason="no such grid", hello_first=False)
    last = events.last()
    assert (last["kind"], str(error_of(last)), type(error_of(last))) == ("failed", "no such grid", ValueError)


def test_an_engine_of_another_version_is_named_before_the_first_trigger(engine):
    with closing(EngineClient(engine.endpoint)) as client:
        engine.hear()
        engine.send(wire.encode("ready").replace(b"\x61v" + bytes([wire.VERSION]), b"\x61v\x02"))
        with pytest.raises(AcquisitionError, match=r"speaks version 2 .* install the same live4d-ophyd"):
            client.wait_ready(10)
