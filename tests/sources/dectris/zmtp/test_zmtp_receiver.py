"""ZmtpReceiver with libzmq's PUSH socket as the detector, and with peers that are no detector."""

import logging
import os
import socket
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message
from zmtp_peer import Peer, frame, greeting, multipart, ping, ready, shake_hands, until_closed

from live4d_ophyd.frames.batch import MULTIPART, BatchMemory, FrameBatch
from live4d_ophyd.sources.dectris import stream
from live4d_ophyd.sources.dectris.receiver import Receiver
from live4d_ophyd.sources.dectris.stream import DectrisStream
from live4d_ophyd.sources.dectris.zmtp import ZmtpReceiver
from live4d_ophyd.sources.dectris.zmtp import receiver as receiver_module
from live4d_ophyd.sources.dectris.zmtp.receiver import address_of


@pytest.fixture
def context():
    with zmq.Context() as made:
        yield made


@pytest.fixture
def push(context):
    with context.socket(zmq.PUSH) as made:
        made.linger = 0
        made.sndtimeo = 20_000
        yield made


def bind(made):
    return f"tcp://127.0.0.1:{made.bind_to_random_port('tcp://127.0.0.1')}"


def receive(receiver, count, batches=3):
    """As a lane receives: with batches in turn, of which the others are still in use."""
    turns = [FrameBatch.allocate(0, 1) for _ in range(batches)]
    got, turn, deadline = [], 0, time.monotonic() + 30
    while len(got) < count:
        assert time.monotonic() < deadline, f"{len(got)} of {count} messages came"
        batch = receiver.receive(turns[turn % batches], linger=0.001)
        got += [batch.message(row) for row in range(batch.count)]
        turn += 1
    return got


def in_background(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "live4d-zmtp"]


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# With a detector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot_bytes", [4 << 20, 5000])
def test_messages_of_all_sizes_come_in_order(push, slot_bytes):
    rng = np.random.default_rng(4)
    sizes = [
        0,
        1,
        255,
        256,
        4991,
        4998,
        5000,
        5001,
        200_000,
        *rng.integers(0, 20_000, 2000).tolist(),
        9 << 20,
        3,
    ]
    sent = [rng.bytes(size) for size in sizes]
    with closing(ZmtpReceiver(bind(push), BatchMemory(slot_bytes))) as receiver:
        thread = in_background(lambda: [push.send(message) for message in sent])
        assert receive(receiver, len(sent)) == sent
        thread.join(10)


def test_a_consumer_that_stalls_loses_nothing_and_stops_the_sender(push):
    push.sndhwm = 10
    sent = [n.to_bytes(4, "little") * (1 + n % 2000) for n in range(5000)]
    with closing(ZmtpReceiver(bind(push), BatchMemory(20_000), slots=5)) as receiver:
        thread = in_background(lambda: [push.send(message) for message in sent])
        wait_for(lambda: receiver._ring.waiting == 4)
        assert thread.is_alive()
        assert receive(receiver, len(sent)) == sent
        thread.join(10)


def test_what_batches_have_is_left_alone_while_others_are_received(push):
    with closing(ZmtpReceiver(bind(push), BatchMemory(2000), slots=5)) as receiver:
        in_background(lambda: [push.send(bytes([n]) * 1500) for n in range(100)])
        batches = [FrameBatch.allocate(0, 1) for _ in range(3)]
        content = {}
        for turn in range(100):
            batch = batches[turn % 3]
            receiver.receive(batch, wait=10.0)
            content[turn % 3] = batch.message(0)
            assert content[turn % 3] == bytes([turn]) * 1500
            for number, kept in content.items():
                assert batches[number].message(0) == kept


def test_a_batch_has_its_own_memory_when_nothing_comes(push):
    with closing(ZmtpReceiver(bind(push))) as receiver:
        batch = FrameBatch.allocate(100, 2)
        own = batch.buffer, batch.index
        push.send(b"message")
        receiver.receive(batch, wait=10.0)
        assert batch.message(0) == b"message"
        receiver.receive(batch, wait=0.0)
        assert (batch.count, batch.lease) == (0, None)
        assert batch.buffer is own[0]
        assert batch.index is own[1]


def test_a_multipart_message_is_one_that_cannot_be_read(push):
    with closing(ZmtpReceiver(bind(push))) as receiver:
        push.send_multipart([b"one", b"two", b"three"])
        batch = receiver.receive(FrameBatch.allocate(0, 1), wait=10.0)
        assert (batch.count, batch.message(0), batch.status[0]) == (1, b"one", MULTIPART)


def test_messages_sent_before_the_first_receive_wait(push):
    with closing(ZmtpReceiver(bind(push))) as receiver:
        assert receiver.connected(10)
        for n in range(100):
            push.send(bytes([n]))
        wait_for(lambda: receiver._ring.waiting)
        assert receive(receiver, 100) == [bytes([n]) for n in range(100)]


def test_pings_are_answered_while_nobody_receives(push):
    push.heartbeat_ivl, push.heartbeat_timeout = 30, 300
    monitor = push.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    with closing(ZmtpReceiver(bind(push))) as receiver:
        assert receiver.connected(10)
        assert recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
        assert not monitor.poll(1000)
        push.send(b"still there")
        assert receive(receiver, 1) == [b"still there"]
    push.disable_monitor()
    monitor.close()


def test_a_detector_that_is_restarted_is_found_again(context, push):
    endpoint = bind(push)
    with closing(ZmtpReceiver(endpoint)) as receiver:
        push.send(b"before")
        assert receive(receiver, 1) == [b"before"]
        for turn in range(3):
            push.close()
            wait_for(lambda: not receiver.connected())
            assert receiver.why_not_connected() == ""
            push = context.socket(zmq.PUSH)
            push.linger = 0
            wait_for(lambda: _bound(push, endpoint))  # noqa: B023 - it is called at once
            assert receiver.connected(20)
            push.send(b"after %d" % turn)
            assert receive(receiver, 1) == [b"after %d" % turn]
    push.close()


def _bound(made, endpoint):
    try:
        made.bind(endpoint)
    except zmq.ZMQError:
        return False
    return True


def test_messages_of_a_detector_that_is_gone_are_still_there():
    def serve(peer):
        shake_hands(peer)
        peer.sendall(frame(b"a") + frame(b"b") + frame(bytes(100))[:50])

    with closing(Peer(serve)) as peer, closing(ZmtpReceiver(peer.endpoint)) as receiver:
        wait_for(lambda: receiver._ring.waiting)
        assert receiver.connected()
        assert receive(receiver, 2) == [b"a", b"b"]


def test_half_a_message_of_the_connection_before_is_not_part_of_the_next():
    def serve(peer):
        shake_hands(peer)
        if server.accepted == 1:
            peer.sendall(multipart(b"x", bytes(1000))[:500])
        else:
            peer.sendall(frame(b"whole"))
            until_closed(peer)

    with closing(Peer(serve)) as server, closing(ZmtpReceiver(server.endpoint)) as receiver:
        assert receive(receiver, 2) == [b"x", b"whole"]


def test_a_peer_that_goes_second_is_a_detector_too():
    """It sends nothing before it has our greeting, and our READY."""

    def serve(peer):
        came = b""
        for wanted, sent in ((64, greeting()), (64 + len(ready()), ready() + frame(b"hello"))):
            while len(came) < wanted:
                came += peer.recv(200)
            for n in range(len(sent)):
                peer.sendall(sent[n : n + 1])
        until_closed(peer)

    with closing(Peer(serve)) as peer, closing(ZmtpReceiver(peer.endpoint)) as receiver:
        assert receive(receiver, 1) == [b"hello"]


def test_it_connects_over_ipv6():
    def serve(peer):
        shake_hands(peer)
        peer.sendall(frame(b"six"))
        until_closed(peer)

    try:
        server = Peer(serve, "::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with closing(server), closing(ZmtpReceiver(server.endpoint)) as receiver:
        assert receive(receiver, 1) == [b"six"]


def test_a_name_is_connected_to_at_each_of_its_addresses(push, monkeypatch):
    endpoint = bind(push)
    port = int(endpoint.rpartition(":")[2])
    unused = socket.create_server(("127.0.0.1", 0))
    refusing = unused.getsockname()
    unused.close()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", at) for at in (refusing, ("127.0.0.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with closing(ZmtpReceiver(f"tcp://dcu:{port}")) as receiver:
        assert receiver.connected(10)


def test_stop_ends_a_receive_that_waits(push):
    with closing(ZmtpReceiver(bind(push))) as receiver:
        assert receiver.connected(10)
        batch = FrameBatch.allocate(0, 1)
        thread = in_background(lambda: receiver.receive(batch, wait=60.0))
        receiver.stop[0] = 1
        thread.join(5)
        assert not thread.is_alive()
        push.send(b"kept")
        wait_for(lambda: receiver._ring.waiting)
        assert receiver.receive(batch).count == 0
        receiver.stop[0] = 0
        assert receive(receiver, 1) == [b"kept"]


# Closing -----------------------------------------------------------------------------------------------------------


def _nothing(peer):
    until_closed(peer)


def _greets(peer):
    peer.sendall(greeting())
    until_closed(peer)


def _connects(peer):
    shake_hands(peer)
    until_closed(peer)


def _floods(peer):
    shake_hands(peer)
    while True:
        peer.sendall(frame(bytes(10_000)) * 100)


def _large(peer):
    shake_hands(peer)
    peer.sendall(frame(bytes(8 << 20))[:-1])
    until_closed(peer)


@pytest.fixture
def at_once(monkeypatch):
    """Fails if what is done in it waits for one of the receiver's deadlines; a busy machine does not matter."""
    for deadline in ("_CONNECT_S", "_HANDSHAKE_S", "_JOIN_S"):
        monkeypatch.setattr(receiver_module, deadline, 100.0)

    @contextmanager
    def within():
        began = time.monotonic()
        yield
        assert time.monotonic() - began < 50

    return within


@pytest.mark.parametrize("serve", [_nothing, _greets, _connects, _floods, _large])
@pytest.mark.parametrize("receiving", [False, True], ids=["idle", "receiving"])
def test_closing_ends_it_at_once_whatever_it_does(serve, receiving, at_once):
    before = len(threads())
    with closing(Peer(serve)) as peer:
        receiver = ZmtpReceiver(peer.endpoint, slots=4)
        wait_for(lambda: peer.accepted)
        if serve in (_connects, _floods, _large):
            assert receiver.connected(10)
        if serve is _floods and not receiving:
            wait_for(lambda: receiver._ring.waiting == 3)
        batch = FrameBatch.allocate(0, 1)

        def work():
            while not receiver.stop[0]:
                receiver.receive(batch, wait=60.0)

        thread = in_background(work) if receiving else None
        with at_once():
            receiver.close()
            receiver.close()
        assert len(threads()) == before
        if thread is not None:
            thread.join(20)
            assert not thread.is_alive()
        assert receiver.receive(batch, wait=1.0).count == 0


def test_closing_does_not_wait_for_who_cannot_be_reached(at_once):
    full = socket.create_server(("127.0.0.1", 0), backlog=0)
    address = full.getsockname()
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:  # beyond the backlog nobody is answered
        one.setblocking(False)
        one.connect_ex(address)
    receiver = ZmtpReceiver(f"tcp://127.0.0.1:{address[1]}")
    assert not receiver.connected(0.1)
    with at_once():
        receiver.close()
    for one in [*waiting, full]:
        one.close()


def test_a_receiver_that_is_forgotten_is_closed(push):
    before = len(threads())
    receiver = ZmtpReceiver(bind(push))
    assert receiver.connected(10)
    assert len(threads()) == before + 1
    del receiver
    wait_for(lambda: len(threads()) == before)


# With others -------------------------------------------------------------------------------------------------------


def connect_to(endpoint):
    receiver = ZmtpReceiver(endpoint)
    wait_for(receiver.why_not_connected)
    return receiver


@pytest.mark.parametrize("kind", ["PUB", "PULL", "REP", "DEALER", "PAIR"])
def test_libzmq_sockets_of_other_types_are_named_once(context, kind, caplog):
    with context.socket(getattr(zmq, kind)) as other, closing(connect_to(bind(other))) as receiver:
        assert (
            receiver.why_not_connected() == f"its socket is of type {kind}; expected PUSH, which a stream is"
        )
        assert not receiver.connected(0.5)
        mine = [record for record in caplog.records if receiver.endpoint in record.message]
        assert [record.levelno for record in mine] == [logging.WARNING]


def test_curve_and_plain_are_named(context, push):
    push.curve_server = True
    push.curve_publickey, push.curve_secretkey = zmq.curve_keypair()
    with closing(connect_to(bind(push))) as receiver:
        assert "security mechanism 'CURVE'" in receiver.why_not_connected()
    with context.socket(zmq.PUSH) as plain:
        plain.plain_server = True
        with closing(connect_to(bind(plain))) as receiver:
            assert "security mechanism 'PLAIN'" in receiver.why_not_connected()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it is a web server"),
        (greeting(1)[:11], "it speaks ZMTP 2"),
        (
            greeting() + ready() + b"\2" + (1 << 40).to_bytes(8, "big"),
            "larger than any that is taken: 536870912 bytes",
        ),
        (greeting() + ready() + b"\xff" * 20, "no ZMTP frame"),
    ],
    ids=["http", "zmtp2", "1 TB", "garbage"],
)
def test_other_peers_are_named(sent, reason):
    def serve(peer):
        peer.sendall(sent)
        until_closed(peer)

    with closing(Peer(serve)) as peer, closing(ZmtpReceiver(peer.endpoint)) as receiver:
        wait_for(lambda: reason in receiver.why_not_connected())
        assert peer.accepted < 20


def test_a_peer_that_says_nothing_is_named(monkeypatch):
    monkeypatch.setattr(receiver_module, "_HANDSHAKE_S", 0.5)
    with closing(Peer(_nothing)) as peer, closing(connect_to(peer.endpoint)) as receiver:
        assert receiver.why_not_connected() == "it takes the connection and says nothing; expected a stream"
    with closing(Peer(_greets)) as peer, closing(connect_to(peer.endpoint)) as receiver:
        assert "does not end its greeting" in receiver.why_not_connected()


def test_a_drip_of_bytes_does_not_hold_the_handshake_for_ever(monkeypatch):
    monkeypatch.setattr(receiver_module, "_HANDSHAKE_S", 0.5)

    def serve(peer):
        for byte in greeting() + ready():
            peer.sendall(bytes([byte]))
            time.sleep(0.05)

    with closing(Peer(serve)) as peer, closing(connect_to(peer.endpoint)) as receiver:
        assert "does not end its greeting" in receiver.why_not_connected()


def test_who_claims_much_and_sends_little_costs_no_memory():
    def serve(peer):
        shake_hands(peer)
        peer.sendall(b"\2" + (500 << 20).to_bytes(8, "big") + bytes(1 << 20))
        until_closed(peer)

    before = resident_mb()
    with closing(Peer(serve)) as peer, closing(ZmtpReceiver(peer.endpoint)) as receiver:
        wait_for(lambda: receiver._ring._grown > 500 << 20)
        assert resident_mb() - before < 100


def test_a_flood_of_small_messages_and_commands_stays_in_bounded_memory():
    def serve(peer):
        shake_hands(peer)
        threading.Thread(target=until_closed, args=(peer,), daemon=True).start()
        for _ in range(400):
            peer.sendall((frame(b"") + ping(b"x")) * 1000)
        peer.sendall(frame(b"last"))
        until_closed(peer)

    before = resident_mb()
    with closing(Peer(serve)) as peer, closing(ZmtpReceiver(peer.endpoint)) as receiver:
        assert receive(receiver, 400_001)[-1] == b"last"
        assert resident_mb() - before < 150


def test_a_name_that_nobody_has_is_said(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with closing(connect_to("tcp://dcu:31001")) as receiver:
        assert "the name 'dcu' cannot be found" in receiver.why_not_connected()


def test_nobody_there_is_no_reason():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    with closing(ZmtpReceiver(f"tcp://127.0.0.1:{port}")) as receiver:
        assert not receiver.connected(0.3)
        assert receiver.why_not_connected() == ""


# Which receiver ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("tcp://dcu:31001", ("dcu", 31001)),
        ("tcp://10.0.0.1:9999", ("10.0.0.1", 9999)),
        ("tcp://[fe80::1%eth0.5]:1", ("fe80::1%eth0.5", 1)),
        *((other, None) for other in (
            "ipc:///tmp/x", "inproc://x", "tcp://*:1", "tcp://dcu", "tcp://dcu:0", "tcp://dcu:65536", "tcp://a;b:1",
            "tcp://fe80::1:1", "tcp://dcu:1/path", "dcu:31001", "",
        )),
    ],
)  # fmt: skip
def test_addresses(endpoint, address):
    assert address_of(endpoint) == address
    if address is None:
        with pytest.raises(ValueError, match="a stream endpoint looks like tcp://dcu:31001"):
            ZmtpReceiver(endpoint)


@pytest.mark.parametrize(
    ("chosen", "endpoint", "kind"),
    [
        ("libzmq", "tcp://127.0.0.1:1", Receiver),
        ("zmtp", "tcp://127.0.0.1:1", ZmtpReceiver),
        ("zmtp", "inproc://stream", Receiver),
    ],
)
def test_the_receiver_is_chosen_by_the_environment(monkeypatch, chosen, endpoint, kind):
    monkeypatch.setattr(stream, "RECEIVER", chosen)
    with closing(DectrisStream([endpoint])) as opened:
        assert [type(receiver) for receiver in opened.receivers] == [kind]


def test_an_unknown_receiver_is_refused(monkeypatch):
    monkeypatch.setattr(stream, "RECEIVER", "zmpt")
    with pytest.raises(ValueError, match="LIVE4D_RECEIVER is 'zmpt'; expected libzmq or zmtp"):
        DectrisStream(["tcp://127.0.0.1:1"])


def test_why_no_series_began_names_what_answers(monkeypatch, context):
    from live4d_ophyd.sources.dectris.series import DectrisSeries

    monkeypatch.setattr(stream, "RECEIVER", "zmtp")
    with context.socket(zmq.PUB) as pub, closing(DectrisStream([bind(pub)])) as opened:
        series = DectrisSeries(opened.receivers[0].endpoint, opened, channel="", armed=False)
        wait_for(opened.why_not_connected)
        endpoint = opened.receivers[0].endpoint
        assert series.why_nothing_came("within 2 s", False) == (
            f"there is no stream within 2 s at {endpoint}: its socket is of type PUB; expected PUSH, which a stream is"
        )
