"""A session that sends what it must not send is answered with the reason, and wedges and kills no engine."""

import copy
import math
import time
from contextlib import closing

import cbor2
import pytest
import zmq
from served_engine import served_engine
from system.hostile.rogue import MIB, Cost, Events, engine

from live4d_ophyd.engine import AcquisitionRequest
from live4d_ophyd.engine.process import protocol
from live4d_ophyd.imaging.virtual_detectors import Disk
from live4d_ophyd.scan import ScanGrid
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.source import DectrisSource
from live4d_ophyd.testing.small_dcu import SmallDcu, frames, series

pytestmark = pytest.mark.system

#: of every type, and at every end of a range
WRONG = (
    math.nan, math.inf, -math.inf, 1e308, -1, 0, 1 << 62, -(1 << 62), 1 << 200, True, None, "", "\x1b[2J",
    "x" * 100_000, b"", b"x" * 100_000, [], {}, [[]] * 1000, {"kind": "Disk"}, cbor2.undefined,
    cbor2.CBORTag(2, b"\xff" * 1000),
)  # fmt: skip
REQUEST = AcquisitionRequest(
    DectrisSource("tcp://127.0.0.1:1", simplon=Simplon("http://127.0.0.1:1", api="1.8.0")),
    ScanGrid(3, 4),
    (Disk("vbf", center=(12, 16), radius=6),),
    timeout=0.2,
)
MANY = {
    "3000 endpoints": ("request", "source", "endpoint", ",".join(["tcp://127.0.0.1:1"] * 3000)),
    "17 connections": ("request", "source", "connections", 17),
    "2^31 connections": ("request", "source", "connections", 1 << 31),
    "a scan of 2^40": ("request", "grid", "rows", 1 << 40),
    "a scan of 2^30": ("request", "grid", "rows", 1 << 30),
    "2^62 rasters": ("request", "rasters", 1 << 62),
    "an infinite timeout": ("request", "timeout", math.inf),
    "a timeout of a year": ("request", "timeout", 3.2e7),
    "generation NaN": ("generation", math.nan),
}


def places(values, path=()):
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def with_value(values, path, value):
    changed = copy.deepcopy(values)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


class Rogue:
    """A session by hand."""

    def __init__(self, endpoint):
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(endpoint)

    def send(self, raw):
        self._socket.send(raw)

    def answers_until(self, kind, timeout=60.0):
        """Kinds of what came, up to the first of ``kind``."""
        kinds, deadline = [], time.monotonic() + timeout
        while not kinds or kinds[-1] != kind:
            assert self._socket.poll(max(0, 1000 * (deadline - time.monotonic()))), (
                f"no {kind} after {kinds[-5:]}"
            )
            kinds.append(type(protocol.from_engine(self._socket.recv())).__name__)
        return kinds

    def close(self):
        self._socket.close()
        self._context.term()


@pytest.fixture(scope="module")
def client():
    with engine() as spawned:
        yield spawned


@pytest.fixture
def rogue(tmp_path):
    """A session of an engine of its own: the spawned one serves its client."""
    options = ("--backend", "cpu", "--log-level", "ERROR")
    with served_engine(*options, endpoint=f"ipc://{tmp_path}/e") as served:
        session = Rogue(served.endpoint)
        session.pid = served.process.pid
        session.send(protocol.encode(protocol.Hello()))
        session.answers_until("Ready")
        with closing(session):
            yield session
        assert served.process.poll() is None, "the engine ended"


def refused(rogue, messages):
    """Send them; each must be refused, or be an acquisition that fails, and the engine still answers."""
    for raw in messages:
        rogue.send(raw)
    rogue.send(protocol.encode(protocol.Cancel(1 << 60)))
    rogue.send(protocol.encode(protocol.Probe(0)))
    return rogue.answers_until("Probed")


@pytest.mark.parametrize("name", MANY)
def test_values_out_of_range_are_refused_at_once(client, name):
    *path, value = MANY[name]
    values = cbor2.loads(protocol.encode(protocol.Acquire(1, REQUEST)))
    cost = Cost(client.pid)
    begin = time.monotonic()
    raw = cbor2.dumps(with_value(values, path, value))
    with pytest.raises(Exception, match="Acquire"):
        protocol.from_session(raw)
    client._post(raw)
    assert client.probe(0, timeout=10) < 10
    assert time.monotonic() - begin < 10
    assert cost.peak < 100 * MIB


def test_every_field_of_every_message_with_every_wrong_value(rogue):
    """Some values are allowed in some places: then an acquisition begins, and fails or is cancelled."""
    messages = [
        protocol.Hello(),
        protocol.Acquire(1, REQUEST),
        protocol.Cancel(1),
        protocol.Preview(),
        protocol.Release(),
        protocol.Probe(1),
    ]
    cost, sent = Cost(rogue.pid), 0
    for message in messages:
        values = cbor2.loads(protocol.encode(message))
        for path in places(values):
            raws = []
            for wrong in WRONG:
                if path == ("generation",) and wrong == 1 << 62:
                    continue  # allowed; it would cancel the others
                raws.append(cbor2.dumps(with_value(values, path, wrong)))
            sent += len(raws)
            assert refused(rogue, raws)
    assert sent > 500
    assert cost.peak < 300 * MIB


def test_an_engine_serves_as_before_after_all_that(client):
    with closing(SmallDcu()) as dcu:
        dcu.send(series(frames(12)))
        events = Events()
        source = DectrisSource(dcu.endpoint)
        client.acquire(
            5, AcquisitionRequest(source, ScanGrid(3, 4), (Disk("vbf", radius=6),), timeout=5.0), events
        )
        assert isinstance(events.last(), protocol.Done)
