"""Bytes of a connection become messages in slots: each of them, in order, whatever the pieces; or the peer is named."""

import fcntl
import itertools
import socket
import struct
import termios
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from zmtp_peer import COMMAND, LONG, MORE, command, frame, multipart, ping, pong, read_stream

from live4d_ophyd.frames.batch import IMAGE_ID, MULTIPART, RECEIVED_NS, SLACK, STATUS, BatchMemory, FrameBatch
from live4d_ophyd.sources.dectris.index import index_batch
from live4d_ophyd.sources.dectris.zmtp import traffic
from live4d_ophyd.sources.dectris.zmtp.ring import Ring
from live4d_ophyd.sources.dectris.zmtp.traffic import Traffic
from live4d_ophyd.testing.small_dcu import frames, image

NEVER = np.zeros(1, np.int64)
CANARY = 0xA5


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname()), server.accept()[0]


class Wire:
    """A socket to write to, a `Traffic` that reads it in a thread, and the ring that it fills."""

    def __init__(self, slots=4, slot_bytes=1000, largest=100_000, rows=8, linger=0.0, first=b"", tcp=False):
        self.ring = Ring(largest, BatchMemory(slot_bytes, rows), slots=slots)
        for buffer in self.ring.buffers:
            buffer[slot_bytes:] = CANARY
        self.ring.ask(b"", linger)
        self.peer, self.ours = tcp_pair() if tcp else socket.socketpair()
        self.ours.setblocking(False)
        self.ended = None
        self._thread = threading.Thread(
            target=self._run, args=(Traffic(self.ring, largest), first), daemon=True
        )
        self._thread.start()

    def _run(self, reader, first):
        self.ended = reader.run(self.ours.fileno(), self.ring.event, first)

    def send(self, *pieces):
        """In the background: who reads may wait for slots."""
        threading.Thread(target=lambda: [self.peer.sendall(piece) for piece in pieces], daemon=True).start()

    def batch(self, wait=10.0, channel=b""):
        batch = FrameBatch.allocate(0, 1)
        slot = self.ring.take(NEVER, wait)
        if slot >= 0:
            self.ring.lend(slot, batch)
        return batch

    def messages(self, count):
        got = []
        while len(got) < count:
            batch = self.batch()
            assert batch.count, f"{len(got)} of {count} messages came"
            got += [batch.message(row) for row in range(batch.count)]
        return got

    def end(self):
        """Wait for the reader's end; why it ended."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.ended

    def close(self):
        self.ring.stop_filling()
        self.peer.close()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.ours.close()
        for buffer in self.ring._own:
            assert np.all(buffer[-SLACK:] == CANARY), "written behind a slot's end"


@pytest.fixture
def wire():
    with closing(Wire()) as made:
        yield made


def random_messages(seed, count, largest):
    rng = np.random.default_rng(seed)
    sizes = np.exp(rng.uniform(0, np.log(largest), count)).astype(int) - 1
    return [rng.bytes(size) for size in sizes]


@pytest.mark.parametrize("pieces", ["whole", "byte by byte", "random"])
def test_messages_of_any_size_come_in_order_whatever_the_pieces(wire, pieces):
    sent = [b"", b"a", *random_messages(1, 200, 900), bytes(998), bytes(991), bytes(992), bytes(1000), b""]
    data = b"".join(frame(message) for message in sent)
    cuts = {
        "whole": [],
        "byte by byte": range(len(data)),
        "random": np.random.default_rng(2).integers(0, len(data), 99),
    }
    edges = [0, *sorted(int(cut) for cut in cuts[pieces]), len(data)]
    wire.send(*(data[a:b] for a, b in itertools.pairwise(edges)))
    assert wire.messages(len(sent)) == sent


def test_messages_larger_than_a_slot_come_whole_between_small_ones(wire):
    sent = [m for n in range(6) for m in (bytes([n]), bytes([n]) * (1001 + 9000 * n), b"x" * 400)]
    wire.send(b"".join(map(frame, sent)))
    assert wire.messages(len(sent)) == sent
    wire.peer.close()
    assert wire.end() == traffic.CLOSED
    assert all(len(buffer) == 1000 + SLACK for buffer in wire.ring.buffers)


def test_short_messages_may_have_long_lengths(wire):
    wire.send(frame(b"abc", LONG) + frame(b"", LONG) + frame(b"d"))
    assert wire.messages(3) == [b"abc", b"", b"d"]


def test_what_came_behind_the_handshake_is_first():
    with closing(Wire(first=frame(b"first") + frame(b"second")[:4])) as wire:
        wire.send(frame(b"second")[4:])
        assert wire.messages(2) == [b"first", b"second"]


def test_of_a_message_in_parts_the_first_is_there_and_marked(wire):
    wire.send(frame(b"a") + multipart(b"first", b"", bytes(5000), b"last") + frame(b"b"))
    got = []
    while len(got) < 3:
        batch = wire.batch()
        got += [(batch.message(row), batch.status[row] == MULTIPART) for row in range(batch.count)]
    assert got == [(b"a", False), (b"first", True), (b"b", False)]


def test_parts_without_end_are_left_out_in_bounded_memory(wire):
    wire.send(
        frame(b"first", MORE), *[frame(bytes(900), MORE) for _ in range(500)], frame(b""), frame(b"next")
    )
    assert wire.messages(2) == [b"first", b"next"]


def test_the_index_is_that_of_index_batch():
    """Also where messages are at odd addresses, and continued from slot to slot."""
    pixels = frames(40)
    sent = [image(frame_, n) for n, frame_ in enumerate(pixels)]
    with closing(Wire(slot_bytes=5000)) as wire:
        wire.send(b"".join(map(frame, sent)))
        ids = []
        while len(ids) < len(sent):
            batch = wire.batch()
            index = batch.index[: batch.count].copy()
            index_batch(batch)
            np.testing.assert_array_equal(index[:, :RECEIVED_NS], batch.index[: batch.count, :RECEIVED_NS])
            assert np.all(np.diff(index[:, RECEIVED_NS]) >= 0)
            ids += index[:, IMAGE_ID].tolist()
    assert ids == list(range(len(sent)))


def test_a_batch_says_for_which_channel_it_is_indexed(wire):
    message = image(frames(1)[0], 3)
    wire.ring.ask(b"threshold_2", 0.0)
    wire.send(frame(message))
    batch = wire.batch()
    assert batch.channel == b"threshold_2"
    assert batch.index[0, STATUS] < 0
    wire.ring.ask(b"threshold_1", 0.0)
    wire.send(frame(message))
    batch = wire.batch()
    assert (batch.channel, batch.index[0, IMAGE_ID]) == (b"threshold_1", 3)


@pytest.mark.parametrize("context", [b"", b"x", b"0123456789abcdef", b"longer than sixteen bytes"])
def test_a_ping_is_answered_with_its_context(wire, context):
    wire.send(frame(b"a") + ping(context) + frame(b"b"))
    expected = pong(context[:16])
    assert wire.messages(2) == [b"a", b"b"]
    wire.peer.settimeout(10)
    assert wire.peer.recv(100) == expected


def test_other_commands_are_ignored(wire):
    wire.send(pong(b"x") + command(b"PINGS", bytes(20)) + command(b"FUTURE", bytes(7000)) + frame(b"a"))
    assert wire.messages(1) == [b"a"]
    wire.peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.peer.recv(1)


def test_a_peer_that_floods_with_pings_and_reads_no_answer_is_borne_or_left(wire):
    wire.peer.settimeout(10)
    wire.send(*[ping(b"0123456789abcdef") * 1000 for _ in range(100)], frame(b"a"))
    batch = wire.batch(30.0)
    if batch.count:
        assert batch.message(0) == b"a"
    else:
        assert wire.end() == traffic.CUT_PONG


BROKEN = {
    "reserved flags": (b"\x08\0", traffic.BAD_FRAME),
    "command with more": (b"\x05\5\4PING", traffic.BAD_FRAME),
    "empty command": (frame(b"", COMMAND), traffic.BAD_FRAME),
    "command name cut off": (frame(b"\x7fPING", COMMAND), traffic.BAD_FRAME),
    "error": (command(b"ERROR", b"\x03why"), traffic.ERROR_COMMAND),
    "1 TB": (b"\2" + (1 << 40).to_bytes(8, "big"), traffic.TOO_LARGE),
    "negative": (b"\2" + b"\xff" * 8, traffic.TOO_LARGE),
    "one byte too many": (b"\2" + (100_001).to_bytes(8, "big"), traffic.TOO_LARGE),
    "long command": (b"\6" + (8193).to_bytes(8, "big"), traffic.LONG_COMMAND),
    "closed in a message": (frame(bytes(300))[:200], traffic.CLOSED),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_came_before_the_end_of_a_connection_is_there(name):
    data, reason = BROKEN[name]
    with closing(Wire(linger=10.0)) as wire:
        wire.peer.sendall(frame(b"a") + frame(b"b") + data)
        wire.peer.shutdown(socket.SHUT_WR)
        assert wire.end() == reason
        assert wire.messages(2) == [b"a", b"b"]
        assert wire.batch(0.0).count == 0


def test_the_end_of_a_connection_waits_for_a_slot():
    with closing(Wire(slots=3, rows=1, linger=0.0)) as wire:
        wire.peer.sendall(b"".join(frame(bytes([n])) for n in range(4)) + b"\x08\0")
        assert wire.messages(4) == [bytes([n]) for n in range(4)]
        assert wire.end() == traffic.BAD_FRAME


def test_a_full_ring_stops_the_sender_and_loses_nothing():
    sent = random_messages(3, 4000, 900)
    with closing(Wire(slots=3, linger=0.01)) as wire:
        data = b"".join(map(frame, sent))
        wire.peer.setblocking(False)
        passed = 0
        while passed < len(data):  # until nobody takes any more
            try:
                passed += wire.peer.send(data[passed:])
            except BlockingIOError:
                if wire.ring.waiting == 2:
                    break
        assert passed < len(data)
        wire.peer.setblocking(True)
        wire.send(data[passed:])
        held, got = [], []
        while len(got) < len(sent):
            held.append(wire.batch())
            assert held[-1].count
            if len(held) == 2:
                batch = held.pop(0)
                got += [batch.message(row) for row in range(batch.count)]
                batch.lease.give_back(batch)
            if len(got) + held[-1].count == len(sent):
                got += [held[-1].message(row) for row in range(held[-1].count)]
        assert got == sent


def test_while_slots_wait_to_be_taken_the_next_becomes_fuller():
    with closing(Wire(slots=64, rows=1000, slot_bytes=100_000, linger=0.0)) as wire:
        for n in range(100):
            wire.peer.sendall(frame(bytes([n])))
        counts = []
        while sum(counts) < 100:
            counts.append(wire.batch().count)
        assert len(counts) <= 4


def test_the_twin_reads_what_was_written():
    data = frame(b"a") + multipart(b"b", b"c") + ping() + frame(bytes(300))
    assert read_stream(data, 300) == ([b"a", b"b", bytes(300)], True)
    assert read_stream(data, 299) == ([b"a", b"b"], False)


def wakes_at(wire, least):
    """Wait until the kernel wakes the reader for so many bytes."""
    deadline = time.monotonic() + 10
    while (now := wire.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)) != least:
        assert time.monotonic() < deadline, f"it is woken for {now} bytes"
        time.sleep(0.001)


def settled(wire, slot, sent):
    """Wait until the reader sleeps behind ``sent`` bytes, and see for how many it is woken."""
    deadline = time.monotonic() + 10
    while True:  # how much of them had come when it was woken, and was read, is the kernel's
        unread = struct.unpack("i", fcntl.ioctl(wire.ours, termios.FIONREAD, bytes(4)))[0]
        least = wire.ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        if unread < least == min(256 << 10, slot - (sent - unread)):
            return
        assert time.monotonic() < deadline, f"it is woken for {least} bytes, {unread} of {sent} are there"
        time.sleep(0.001)


def test_messages_that_are_not_due_are_read_many_at_a_time():
    """The reader sleeps until the kernel has 256 kB, or as many as the slot has room for, or the first is due."""
    first, large = frame(b"first"), frame(bytes(300_000)) + frame(bytes(500_000))
    with closing(Wire(slot_bytes=1 << 20, linger=1e6, largest=1 << 20, tcp=True)) as wire:
        wire.peer.sendall(first)
        wakes_at(wire, 256 << 10)
        wire.peer.sendall(large)
        settled(wire, 1 << 20, len(first) + len(large))
        wire.ring.ask(b"", 0.0)  # due from now on
        wire.peer.sendall(frame(bytes(1 << 19)))  # no room: what is there goes
        assert wire.batch().count == 3
        assert wire.batch().count == 1


def test_a_reader_without_messages_is_woken_by_the_first_byte_and_for_a_large_message_by_256_kb():
    with closing(Wire(slot_bytes=1 << 20, linger=0.0, largest=1 << 20, tcp=True)) as wire:
        wire.peer.sendall(frame(b"first"))
        assert wire.batch().count == 1
        wakes_at(wire, 1)
        large = frame(bytes(900_000))
        wire.peer.sendall(large[:100])
        wakes_at(wire, 256 << 10)
        wire.peer.sendall(large[100:])
        assert wire.batch().count == 1
