"""Connections to our servers send at once."""

import socket

import pytest

from live4d_ophyd.listener import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_accepted_does_not_hold_small_packets_back(host):
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with listen(host, 0) as listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_an_error():
    with listen("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", listener.getsockname()[1])
