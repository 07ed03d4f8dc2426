"""The handshake over bytes in any pieces, with libzmq's own sockets, and with peers that are something else."""

import socket

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmtp_peer import COMMAND, LONG, MORE, command, frame, greeting, ready

from live4d_ophyd.sources.dectris.zmtp.handshake import Handshake, Refused

OURS = greeting()
WHOLE = greeting() + ready()
READY = ready(b"PULL")


def feed(handshake, data, cuts=()):
    """Feed the data in pieces; what was answered."""
    at, answered = 0, b""
    for cut in [*sorted(cuts), len(data)]:
        answered += handshake.feed(data[at:cut])
        at = cut
    return answered


@given(st.lists(st.integers(0, len(WHOLE) + 20), max_size=12), st.binary(max_size=20), st.booleans())
def test_any_pieces_are_one_handshake(cuts, behind, minor):
    handshake = Handshake()
    data = greeting(minor=int(minor)) + ready() + behind
    answered = feed(handshake, data, [min(cut, len(data)) for cut in cuts])
    assert handshake.opening() + answered == OURS + READY
    assert handshake.done
    assert handshake.rest == behind


def test_the_peer_names_its_mechanism_and_its_type_before_we_name_ours():
    handshake = Handshake()
    assert handshake.opening() == OURS[:11]
    assert handshake.feed(WHOLE[:63]) == b""
    assert handshake.feed(WHOLE[63:64]) == OURS[11:]
    assert handshake.feed(WHOLE[64:-1]) == b""
    assert (handshake.done, handshake.rest) == (False, b"")
    assert handshake.feed(WHOLE[-1:]) == READY
    assert handshake.done


def test_a_peer_that_waits_is_told_once():
    handshake = Handshake()
    assert handshake.silence() == OURS[11:]
    assert handshake.silence() == b""
    assert handshake.feed(greeting()) == b""
    assert handshake.silence() == READY
    assert handshake.silence() == b""
    assert handshake.feed(ready()) == b""
    assert handshake.done


def test_names_of_properties_may_be_in_any_case_and_others_are_ignored():
    handshake = Handshake()
    more = b"\x08Identity\0\0\0\0" + b"\x0bSOCKET-TYPE\0\0\0\x04PUSH" + b"\x01X\0\0\0\x02ab"
    handshake.feed(greeting() + command(b"READY", more))
    assert handshake.done


def test_a_ready_with_a_long_length_is_one():
    handshake = Handshake()
    body = ready()[2:]
    handshake.feed(greeting() + frame(body, COMMAND | LONG) + b"x")
    assert handshake.rest == b"x"


REFUSED = {
    "http": (b"HTTP/1.1 400 Bad Request\r\n", "web server"),
    "ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak ZMTP, its first bytes are 'SSH-2.0-OpenSSH_9.6"),
    "zmtp1": (b"\x01\0", "does not speak ZMTP"),
    "signature": (b"\xff" + bytes(8) + b"\x7e", "does not speak ZMTP"),
    "zmtp1-by-revision": (greeting(0)[:11], "ZMTP 1 "),
    "zmtp2": (greeting(1)[:11], "ZMTP 2 "),
    "curve": (greeting(mechanism=b"CURVE"), "security mechanism 'CURVE'"),
    "binary-mechanism": (greeting(mechanism=b"\x1b[31m\n"), r"mechanism '\\x1b\[31m\\n'"),
    "pub": (greeting() + ready(b"PUB"), "its socket is of type PUB; expected PUSH"),
    "no-type": (greeting() + command(b"READY"), "of type unknown"),
    "error": (greeting() + command(b"ERROR", b"\x0bNot allowed"), "refuses the connection: Not allowed"),
    "error-without-reason": (greeting() + command(b"ERROR"), "no reason given"),
    "hello": (greeting() + command(b"HELLO"), "its first command is 'HELLO', expected READY"),
    "message": (greeting() + frame(b"x"), "something else than a command"),
    "command-with-more": (greeting() + frame(ready()[2:], COMMAND | MORE), "something else than a command"),
    "empty": (greeting() + frame(b"", COMMAND), "its first command is ''"),
    "huge": (greeting() + b"\x06" + (1 << 40).to_bytes(8, "big"), "has 1099511627776 bytes"),
    "cut": (greeting() + command(b"READY", b"\x0bSocket-Type\0\0\xff\xffPUSH"), "cut off"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte-by-byte"])
def test_who_is_no_stream_is_named(name, split):
    data, reason = REFUSED[name]
    if split and name in ("http", "ssh"):
        reason = "does not speak ZMTP"  # clear after one byte
    with pytest.raises(Refused, match=reason):
        feed(Handshake(), data, range(1, len(data)) if split else ())


@given(
    st.lists(st.binary(max_size=80), max_size=8),
    st.sampled_from([b"", greeting(), greeting() + b"\4\x20\5READY"]),
)
def test_hostile_bytes_are_refused_or_waited_for(pieces, before):
    handshake = Handshake()
    refused = ""
    try:
        for piece in [before, *pieces]:
            handshake.feed(piece)
    except Refused as error:
        refused = str(error)
    assert refused.isprintable()
    assert len(refused) < 300


@pytest.mark.parametrize("minor", [0, 1])
def test_libzmq_shakes_hands_as_3_0_and_3_1(minor):
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 0
        port = push.bind_to_random_port("tcp://127.0.0.1")
        handshake = Handshake(minor)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as ours:
            ours.sendall(handshake.opening())
            while not handshake.done:
                ours.sendall(handshake.feed(ours.recv(7)))
            push.send(b"message")
            came = handshake.rest
            while len(came) < 9:
                came += ours.recv(9)
        assert came == frame(b"message")
