"""A socket that a server listens at, made before the server is: its port is told, or said to be taken."""

import socket


def listen(host: str, port: int) -> socket.socket:
    """At this name or address, IPv4 or IPv6; port 0: any that is free. Raises OSError.

    What it accepts sends at once. asyncio asks for that where a socket names its protocol, and this one does not: the
    second request on a connection, and all that follow, would wait 40 ms for their answers.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # of what is accepted, too
    return listener
