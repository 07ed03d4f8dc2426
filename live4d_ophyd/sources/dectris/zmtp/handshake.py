"""Handshake: the beginning of a ZMTP 3 connection to a PUSH socket, as bytes in and bytes out.

In: what the peer sent, in any pieces. Out: what to send it, and what came behind the handshake. A peer that can never
be a detector's stream raises `Refused`, which says what it is. No sockets and no clock: `receiver` has those.

The protocol: https://rfc.zeromq.org/spec/37. Both sides send a greeting of 64 bytes, with their version and security
mechanism, and then a READY command with their socket type.
"""

from __future__ import annotations

from live4d_ophyd.sources.dectris.zmtp.frame import COMMAND, LONG, MAX_COMMAND_BYTES

#: signature (10 bytes) and major version: as much as may be sent before the peer's version is known
_OPENING = b"\xff" + bytes(7) + b"\x01\x7f" + b"\x03"
_GREETING_BYTES = 64
_MECHANISM = slice(12, 32)
#: of the peer's own words, so many go into an error
_QUOTED = 40


class Refused(ConnectionError):
    """The peer will never be a source of this stream; the text says what it is."""


def _text(data: bytes) -> str:
    """Bytes of the peer as something that can be logged."""
    shown = data[:_QUOTED].decode("ascii", "backslashreplace")
    return shown if shown.isprintable() else ascii(shown)[1:-1]


class Handshake:
    """Begins with :meth:`opening`; each :meth:`feed` gives what to answer, until ``done``.

    The peer goes first: libzmq hangs up on a mechanism or a socket type that is not its own, and what it has not sent
    by then, its own, is never known. :meth:`silence` is for peers that wait for ours.
    """

    def __init__(self, minor: int = 1) -> None:
        #: the rest of our greeting, and our READY; so many of them are sent
        self._to_tell, self._told = [bytes([minor]) + b"NULL".ljust(20, b"\0") + bytes(32), _READY], 0
        self._data = b""
        self._greeted = False
        self.done = False

    def opening(self) -> bytes:
        """What is sent at once: as much as may be before the peer's version is known."""
        return _OPENING

    def silence(self) -> bytes:
        """What to send when the peer has been silent for a while."""
        return self._tell(2 if self._greeted else 1)

    def _tell(self, parts: int) -> bytes:
        """Greeting and READY up to this part, as far as they are not sent yet."""
        told = self._to_tell[self._told : parts]
        self._told = max(self._told, parts)
        return b"".join(told)

    @property
    def rest(self) -> bytes:
        """What came behind the handshake, when it is done: the first messages."""
        return self._data if self.done else b""

    @property
    def heard(self) -> bool:
        """Whether the peer has sent anything."""
        return self._greeted or bool(self._data)

    def feed(self, data: bytes) -> bytes:
        """Take what came and return what to send. Raises Refused."""
        self._data += data
        answer = b""
        if not self._greeted:
            _check_greeting(self._data[:_GREETING_BYTES])
            if len(self._data) < _GREETING_BYTES:
                return b""
            self._greeted = True
            self._data = self._data[_GREETING_BYTES:]
            answer = self._tell(1)
        if not self.done:
            length = _ready_length(self._data)
            if length:
                self.done = True
                self._data = self._data[length:]
                answer += self._tell(2)
        return answer


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value


def _command(name: bytes, content: bytes) -> bytes:
    body = bytes([len(name)]) + name + content
    return bytes([COMMAND, len(body)]) + body


_READY = _command(b"READY", _property(b"Socket-Type", b"PULL"))


def _check_greeting(data: bytes) -> None:
    """Raise Refused as soon as it is clear that these are not the first bytes of a greeting that fits."""
    if data[:5] == b"HTTP/":
        raise Refused(
            "it is a web server (HTTP), perhaps the control unit's REST interface; expected a stream"
        )
    if data[:1] not in (b"", b"\xff") or (len(data) > 9 and not data[9] & 1):
        raise Refused(f"it does not speak ZMTP, its first bytes are '{_text(data)}'; expected a stream")
    if len(data) > 10 and data[10] < 3:
        raise Refused(
            f"it speaks ZMTP {min(data[10], 1) + 1} (ZeroMQ before 4.0); expected ZMTP 3, or set LIVE4D_RECEIVER=libzmq"
        )
    if len(data) >= _GREETING_BYTES:
        mechanism = data[_MECHANISM].rstrip(b"\0")
        if mechanism != b"NULL":
            raise Refused(
                f"it wants the security mechanism '{_text(mechanism)}'; expected none (NULL), as detectors have"
            )


def _ready_length(data: bytes) -> int:
    """Bytes of the READY command in front; 0 when it is not there wholly. Raises Refused."""
    if len(data) < 2:
        return 0
    if data[0] & ~LONG != COMMAND:
        raise Refused("it breaks the protocol: something else than a command comes first")
    head = 9 if data[0] & LONG else 2
    if len(data) < head:
        return 0
    size = int.from_bytes(data[1:head], "big")
    if size > MAX_COMMAND_BYTES:
        raise Refused(f"it breaks the protocol: its first command has {size} bytes")
    if len(data) < head + size:
        return 0
    _check_ready(data[head : head + size])
    return head + size


def _check_ready(body: bytes) -> None:
    name, content = body[1 : 1 + body[0]] if body else b"", body[1 + body[0] :] if body else b""
    if name == b"ERROR":
        reason = content[1 : 1 + content[0]] if content else b""
        raise Refused(f"it refuses the connection: {_text(reason) or 'no reason given'}")
    if name != b"READY":
        raise Refused(f"it breaks the protocol: its first command is '{_text(name)}', expected READY")
    kind = _properties(content).get(b"socket-type", b"")
    if kind != b"PUSH":
        raise Refused(f"its socket is of type {_text(kind) or 'unknown'}; expected PUSH, which a stream is")


def _properties(content: bytes) -> dict[bytes, bytes]:
    """Of a READY command, names in lower case."""
    found = {}
    while content:
        name, content = content[1 : 1 + content[0]], content[1 + content[0] :]
        size = int.from_bytes(content[:4], "big")
        if len(content) < 4 + size:
            raise Refused("it breaks the protocol: its READY command is cut off")
        found[name.lower()], content = content[4 : 4 + size], content[4 + size :]
    return found
