"""Mutated byte streams: never a crash or a hang, nothing written outside a slot, and the messages that the twin reads.

By hand, with more of them: ``ZMTP_MUTATIONS=100000 pytest --timeout 3600 -k mutated tests/sources/dectris/zmtp``.
"""

import os
import socket

import numpy as np
from zmtp_peer import COMMAND, LONG, MORE, command, frame, greeting, multipart, ping, pong, read_stream, ready

from live4d_ophyd.frames.batch import SLACK, BatchMemory, FrameBatch
from live4d_ophyd.sources.dectris.zmtp import traffic
from live4d_ophyd.sources.dectris.zmtp.handshake import Handshake, Refused
from live4d_ophyd.sources.dectris.zmtp.ring import Ring
from live4d_ophyd.sources.dectris.zmtp.traffic import REASONS, Traffic
from live4d_ophyd.testing.small_dcu import frames, image

MUTATIONS = int(os.environ.get("ZMTP_MUTATIONS", "3000"))
LARGEST, SLOT_BYTES, SLOTS = 3000, 700, 64
CANARY = 0xA5
NEVER = np.zeros(1, np.int64)
IMAGE = image(frames(1)[0][:4, :4], 5)

#: bytes that mean something somewhere
TELLING = [0, 1, MORE, LONG, LONG | MORE, COMMAND, COMMAND | LONG, COMMAND | MORE, 8, 0x7F, 0x80, 0xFE, 0xFF]
LENGTHS = [0, 200, 8192, 8193, LARGEST, LARGEST + 1, 1 << 40, (1 << 64) - 1]
LENGTH_FLAGS = [LONG, LONG | MORE, LONG | COMMAND]


def stream_of(rng):
    """Some messages and commands of every kind."""

    def one():
        size = int(rng.choice([0, 1, 5, 100, 255, 256, SLOT_BYTES - 9, SLOT_BYTES, SLOT_BYTES + 1, 2000]))
        kind = rng.integers(10)
        if kind == 0:
            return multipart(rng.bytes(3), rng.bytes(size), b"")
        if kind == 1:
            return ping(rng.bytes(rng.integers(20)))
        if kind == 2:
            return pong() + command(b"SUBSCRIBE", rng.bytes(size % 200))
        if kind == 3:
            return frame(rng.bytes(size % 256), LONG)
        return frame(IMAGE if kind < 6 else rng.bytes(size))

    return b"".join(one() for _ in range(rng.integers(1, 12)))


def mutated(rng, data):
    """Up to four changes: bytes, lengths, pieces that are left out, twice, or moved."""
    data = bytearray(data)
    for _ in range(rng.integers(0, 5)):
        if not data:
            break
        at, other = sorted(int(n) for n in rng.integers(0, len(data), 2))
        match rng.integers(6):
            case 0:
                data[at] = int(rng.choice(TELLING))
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at : min(other, at + 40)]
            case 3:
                data[at:at] = data[at : min(other, at + 300)]
            case 4:
                flags = LENGTH_FLAGS[rng.integers(len(LENGTH_FLAGS))]
                data[at:at] = bytes([flags]) + LENGTHS[rng.integers(len(LENGTHS))].to_bytes(8, "big")
            case 5:
                del data[at:]
    return bytes(data)


def taken(reader, ring, peer_sends, first):
    """What `Traffic` makes of a stream that comes wholly before it is read: messages, and why it ended."""
    peer, ours = socket.socketpair()
    with peer, ours:
        ours.setblocking(False)
        peer.sendall(peer_sends)
        peer.shutdown(socket.SHUT_WR)
        ended = reader.run(ours.fileno(), ring.event, first)
    messages = []
    while (slot := ring.take(NEVER, 0.0)) >= 0:
        batch = FrameBatch.allocate(0, 1)
        ring.lend(slot, batch)
        messages += [batch.message(row) for row in range(batch.count)]
        batch.lease.give_back(batch)
    return messages, ended


def test_mutated_traffic_is_read_as_the_twin_reads_it():
    rng = np.random.default_rng(20)
    ring = Ring(100_000, BatchMemory(SLOT_BYTES, 16), slots=SLOTS)
    for buffer in ring.buffers:
        buffer[SLOT_BYTES:] = CANARY
    reader = Traffic(ring, LARGEST)
    broken = 0
    for n in range(MUTATIONS):
        data = mutated(rng, stream_of(rng))
        cut = int(rng.integers(0, min(len(data), 500) + 1)) if n % 2 else 0
        expected, well_formed = read_stream(data, LARGEST)
        messages, ended = taken(reader, ring, data[cut:], data[:cut])
        assert messages == expected, n
        assert (ended == traffic.CLOSED) == well_formed, n
        assert well_formed or ended in REASONS, n
        assert ring._grown == 0, n
        broken += not well_formed
    assert all(np.all(buffer[-SLACK:] == CANARY) for buffer in ring._own)
    assert 0.2 < broken / MUTATIONS < 0.8


def test_mutated_handshakes_are_refused_or_waited_for():
    rng = np.random.default_rng(21)
    outcomes = {"refused": 0, "waiting": 0, "done": 0}
    for _ in range(MUTATIONS):
        data = mutated(rng, greeting() + ready() + frame(b"x"))
        handshake = Handshake()
        cuts = sorted(int(n) for n in rng.integers(0, len(data) + 1, rng.integers(5)))
        try:
            for begin, end in zip([0, *cuts], [*cuts, len(data)]):
                handshake.feed(data[begin:end])
        except Refused as error:
            outcomes["refused"] += bool(str(error))
        else:
            outcomes["done" if handshake.done else "waiting"] += 1
    assert sum(outcomes.values()) == MUTATIONS
    assert min(outcomes.values()) > 0.05 * MUTATIONS, outcomes
