"""The other side of a ZMTP connection, written from the specification: bytes, a reader of them, a server of bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress

MORE, LONG, COMMAND = 1, 2, 4


def greeting(major: int = 3, minor: int = 1, mechanism: bytes = b"NULL") -> bytes:
    signature = b"\xff\0\0\0\0\0\0\0\x01\x7f"
    return signature + bytes([major, minor]) + mechanism.ljust(20, b"\0") + b"\0" + bytes(31)


def frame(body: bytes, flags: int = 0) -> bytes:
    if flags & LONG or len(body) > 255:
        return bytes([flags | LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def command(name: bytes, content: bytes = b"") -> bytes:
    return frame(bytes([len(name)]) + name + content, COMMAND)


def ready(kind: bytes = b"PUSH") -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind)


def ping(context: bytes = b"") -> bytes:
    return command(b"PING", b"\0\x0a" + context)


def pong(context: bytes = b"") -> bytes:
    return command(b"PONG", context)


def multipart(*parts: bytes) -> bytes:
    return b"".join(frame(part, MORE) for part in parts[:-1]) + frame(parts[-1])


def read_stream(data: bytes, largest: int) -> tuple[list[bytes], bool]:
    """First parts of the messages of a byte stream, as far as it is well formed, and whether all of it is."""
    messages: list[bytes] = []
    inside = False
    while len(data) >= 2:
        flags, head = data[0], 2
        if flags & ~7 or flags & (COMMAND | MORE) == COMMAND | MORE:
            return messages, False
        if flags & LONG:
            if len(data) < 9:
                break
            head = 9
        size = int.from_bytes(data[1:head], "big")
        if size > (8192 if flags & COMMAND else largest):
            return messages, False
        body = data[head : head + size]
        if len(body) < size:
            break
        data = data[head + size :]
        if flags & COMMAND:
            if size == 0 or body[0] + 1 > size or body[:6] == b"\5ERROR":
                return messages, False
            continue
        if not inside:
            messages.append(body)
        inside = bool(flags & MORE)
    return messages, True


class Peer:
    """Accepts connections, one after the other, and gives each to ``serve`` in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self._serve = serve
        self._last: socket.socket | None = None
        shown = f"[{host}]" if ":" in host else host
        self.endpoint = f"tcp://{shown}:{self._listening.getsockname()[1]}"
        self.accepted = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self._last, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            with closing(self._last), suppress(OSError):
                self._serve(self._last)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        if self._last is not None:
            with suppress(OSError):
                self._last.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listening.close()


def shake_hands(peer: socket.socket) -> None:
    """As a PUSH socket of ZMTP 3.1."""
    peer.sendall(greeting() + ready())
    left = len(greeting() + ready(b"PULL"))
    while left:
        came = peer.recv(left)
        if not came:
            raise ConnectionError
        left -= len(came)


def until_closed(peer: socket.socket) -> None:
    while peer.recv(65536):
        pass
