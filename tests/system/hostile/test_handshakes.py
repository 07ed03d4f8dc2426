"""A session that cannot talk to an engine says why at once, and the engine's log says it, too."""

import re
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress

import cbor2
import pytest
import zmq
from served_engine import served_engine

from live4d_ophyd.engine.errors import EngineLost, ProtocolError
from live4d_ophyd.engine.process.client import EngineClient
from live4d_ophyd.engine.process.keys import add_session, make_keys

pytestmark = pytest.mark.system

#: a reason "at once": without it, a session waits for a minute, s
AT_ONCE_S = 8.0


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return folder, *make_keys(folder)


@pytest.fixture(scope="module")
def with_keys(keys):
    with served_engine("--backend", "cpu", "--curve", keys[1]) as engine:
        yield engine


@pytest.fixture(scope="module")
def without_keys():
    with served_engine("--backend", "cpu") as engine:
        yield engine


def reason(endpoint, curve_keys=None):
    begin = time.monotonic()
    with (
        closing(EngineClient(endpoint, curve_keys=curve_keys)) as client,
        pytest.raises((EngineLost, ProtocolError)) as raised,
    ):
        client.wait_ready(60)
    assert time.monotonic() - begin < AT_ONCE_S
    return str(raised.value)


@contextmanager
def answering(words, stays=False):
    """The endpoint of something that says these words to all who connect, and closes unless it ``stays``."""
    listener, there = socket.create_server(("127.0.0.1", 0)), []

    def answer():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError):  # the peer has closed the connection
                connection.sendall(words)
            if stays:
                there.append(connection)
            else:
                connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in there:
            connection.close()


def logged(engine, *words):
    deadline = time.monotonic() + 10
    while not any(word in line for line in engine.log for word in words):
        assert time.monotonic() < deadline, engine.log
        time.sleep(0.02)


def test_a_session_without_keys_at_an_engine_with_keys(with_keys):
    # Either end may be the first to see that the other's mechanism is another.
    assert re.search("asks? for CURVE keys.*curve_keys=", reason(with_keys.endpoint))
    logged(with_keys, "it has no CURVE keys", "a peer left before it was let in")


#: of a peer that wants CURVE keys: the first bytes of ZMTP 3.1, https://rfc.zeromq.org/spec/37
CURVE_GREETING = (b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"CURVE").ljust(64, b"\0")


def test_a_session_that_was_turned_away_before_it_could_say_anything(monkeypatch):
    """libzmq has nobody to send to then; the session's first message waited for ever, and so did its end.

    The peer is a fake. An engine may see the mismatch first and close the connection; libzmq would then connect again.
    """
    run = EngineClient._run

    def run_late(client):
        deadline = time.monotonic() + 60
        while client._socket.poll(0, zmq.POLLOUT):
            assert time.monotonic() < deadline, "the handshake has not failed"
            time.sleep(0.01)
        run(client)

    monkeypatch.setattr(EngineClient, "_run", run_late)
    with answering(CURVE_GREETING, stays=True) as endpoint:
        assert re.search("asks? for CURVE keys.*curve_keys=", reason(endpoint))


def test_a_session_with_keys_at_an_engine_without(without_keys, keys):
    said = reason(without_keys.endpoint, keys[2])
    assert re.search("takes no CURVE keys|was that started with --curve", said)
    its_own = "it has CURVE keys, and this engine was started without"
    logged(without_keys, its_own, "a peer left before it was let in")


def test_a_session_with_the_server_key_of_another_engine(with_keys, keys, tmp_path):
    _, other = make_keys(tmp_path)
    assert "is server.key of this session that of this engine" in reason(with_keys.endpoint, other)
    logged(with_keys, "its server.key is not that of this engine")


def test_a_session_that_is_not_admitted_and_then_is_without_a_restart(with_keys, keys):
    folder, engine, _ = keys
    added = add_session(folder, "desk")
    public = engine / "clients" / "desk.key"
    text = public.read_bytes()
    public.unlink()
    said = reason(with_keys.endpoint, added)
    assert "refused this session's CURVE keys: copy the session's client.key" in said
    logged(with_keys, "refused a session with the public key")
    public.write_bytes(text)
    with closing(EngineClient(with_keys.endpoint, curve_keys=added)) as client:
        client.wait_ready(10)


def test_a_port_where_something_else_answers():
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as endpoint:
        assert "is this the right port?" in reason(endpoint)


def test_an_engine_of_another_version():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as engine:
        engine.linger = 0
        port = engine.bind_to_random_port("tcp://127.0.0.1")

        def answer():
            if engine.poll(10_000):
                peer, _ = engine.recv_multipart()
                engine.send_multipart([peer, cbor2.dumps({"v": 999, "kind": "Ready", "pid": 1})])

        thread = threading.Thread(target=answer)
        thread.start()
        said = reason(f"tcp://127.0.0.1:{port}")
        thread.join()
    assert "speaks version 999 of the engine's protocol" in said
    assert "install the same live4d-ophyd on both" in said


def test_a_session_of_another_version(without_keys):
    with zmq.Context() as context, context.socket(zmq.DEALER) as session:
        session.linger = 0
        session.connect(without_keys.endpoint)
        session.send(cbor2.dumps({"v": 999, "kind": "Hello", "backend": "auto"}))
        assert session.poll(10_000)
        assert b"speaks version 999" in session.recv()
    logged(without_keys, "speaks version 999")
