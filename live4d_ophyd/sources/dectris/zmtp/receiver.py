"""ZmtpReceiver: one PULL connection to the detector control unit over plain TCP, with a ring instead of libzmq's queue.

Its thread ``live4d-zmtp`` connects, shakes hands, reads and connects again. It needs the GIL only to connect, and for a
message larger than a slot: while Python is busy it goes on until the ring is full. Then the kernel's buffer fills, and
TCP stops the sender.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import select
import socket
import threading
import time
import weakref

import numpy as np

from live4d_ophyd.frames.batch import HOST_MEMORY, BatchMemory, FrameBatch
from live4d_ophyd.sources.dectris.receiver import MAX_MESSAGE_BYTES
from live4d_ophyd.sources.dectris.zmtp.handshake import Handshake, Refused
from live4d_ophyd.sources.dectris.zmtp.ring import Ring
from live4d_ophyd.sources.dectris.zmtp.traffic import REASONS, TOO_LARGE, Traffic

log = logging.getLogger(__name__)

#: the first wait before the next attempt to connect, and the longest, s
_RETRY_S, _LONGEST_RETRY_S = 0.05, 1.0
#: how long connecting to one address, and then the handshake, may take, s
_CONNECT_S, _HANDSHAKE_S = 5.0, 5.0
#: a peer that has said nothing for so long may wait for us to go on, s
_SILENT_S = 0.3
#: a detector whose power fails says nothing: after so many s it is asked, so often, this many times
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
#: how long closing waits for the thread, which may be asking a name server, s
_JOIN_S = 2.0
#: reasons of one receiver that are logged: a hostile peer has a new one each time
_LOGGED = 10

_ENDPOINT = re.compile(
    r"tcp://(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[\w.-]+)):(?P<port>\d{1,5})"
)


def address_of(endpoint: str) -> tuple[str, int] | None:
    """Host and port of ``tcp://HOST:PORT`` or ``tcp://[IPv6]:PORT``; None for what only libzmq understands."""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match["port"]) < 65536:
        return None
    return match["six"] or match["host"], int(match["port"])


class ZmtpReceiver:
    """One PULL connection to ``endpoint`` (``tcp://dcu:31001``), with the interface of `Receiver`.

    It connects at once and keeps what arrives in the ring until :meth:`receive` is called, so make it before the
    detector is armed. `receive` lends a slot of the ring to the batch, which gives it back when it comes to `receive`
    again, or when it is gone. The ring's slots, of ``memory``, are all that is held, beside what messages larger than
    a slot need until they are given back: ``largest`` bytes at most.
    """

    def __init__(
        self,
        endpoint: str,
        memory: BatchMemory = HOST_MEMORY,
        *,
        slots: int = 0,
        largest: int = MAX_MESSAGE_BYTES,
    ) -> None:
        address = address_of(endpoint)
        if address is None:
            raise ValueError(
                f"cannot connect to {endpoint!r}: a stream endpoint looks like tcp://dcu:31001 or tcp://[fe80::1]:31001"
            )
        self.endpoint = endpoint
        #: set to 1 from any thread to make a running `receive` return
        self.stop = np.zeros(1, np.int64)
        self._ring = Ring(largest, memory, slots=slots)
        self._link = _Link(endpoint, address, self._ring, largest)
        # The thread does not know this object: one that is forgotten, or there when Python ends, is closed.
        self._finish = weakref.finalize(self, self._link.close)

    def connected(self, wait: float = 0.0) -> bool:
        """Whether the other side is there, or has left messages that are not fetched; waits up to ``wait`` s for it."""
        return self._ring.waiting > 0 or self._link.up.wait(max(0.0, wait))

    def why_not_connected(self) -> str:
        """What the other side is instead of a stream, as far as that is known; "" when it does not answer at all."""
        return "" if self._link.up.is_set() else self._link.why

    def receive(
        self, batch: FrameBatch, *, channel: bytes = b"", wait: float = 0.1, linger: float = 0.01
    ) -> FrameBatch:
        """Lend ``batch`` the next messages; what it had before is free again.

        Returns after ``wait`` s without any message (``count`` 0), or when ``stop`` is set. Messages wait for others
        for ``linger`` s. ``channel`` names the data channel to index, empty takes the first of each message. Another
        channel or ``linger`` than in the call before holds for messages that come from now on: ``batch.channel`` says
        what the batch was indexed for.
        """
        if batch.lease is not None:
            batch.lease.give_back(batch)
        batch.count, batch.channel = 0, channel
        self._ring.ask(channel, linger)
        slot = self._ring.take(self.stop, wait)
        if slot >= 0:
            self._ring.lend(slot, batch)
        return batch

    def close(self) -> None:
        """Disconnect and drop what is still in the ring. What batches have stays theirs."""
        self.stop[0] = 1
        self._finish()


class _Link:
    """The thread that fills the ring. ``up`` is set while there is a connection; ``why`` is why there can be none."""

    def __init__(self, endpoint: str, address: tuple[str, int], ring: Ring, largest: int) -> None:
        self.up = threading.Event()
        self.why = ""
        self._endpoint, self._address, self._ring, self._largest = endpoint, address, ring, largest
        self._closing = False
        self._logged: set[str] = set()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._lock = threading.RLock()  # of `_wake`, which the thread closes
        self._thread = threading.Thread(target=self._run, name="live4d-zmtp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """From any thread. A name that is being looked up is not waited for."""
        self._closing = True
        self._ring.stop_filling()
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:  # where the garbage collector may find a receiver
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        traffic = Traffic(self._ring, self._largest)
        pause = _RETRY_S
        try:
            while not self._closing:
                try:
                    with contextlib.closing(self._connect()) as peer:
                        first = self._shake_hands(peer)
                        pause = _RETRY_S
                        self.up.set()
                        try:
                            ended = traffic.run(peer.fileno(), self._wake, first)
                        finally:
                            self.up.clear()
                    if ended in REASONS:
                        raise Refused(self._reason(ended))
                    self.why = ""
                except _Closing:
                    break
                except Refused as error:
                    self._refused(str(error))
                except OSError:  # nobody there, or not any more
                    self.why = ""
                except Exception:
                    log.exception("%s: connecting failed, it is tried again", self._endpoint)
                    pause = _LONGEST_RETRY_S
                if self._await(None, 0, pause):
                    break
                pause = min(2 * pause, _LONGEST_RETRY_S)
        finally:
            with self._lock:
                os.close(self._wake)
                self._wake = -1

    def _reason(self, ended: int) -> str:
        limit = f": {self._largest} bytes" if ended == TOO_LARGE else ""
        return REASONS[ended] + limit

    def _refused(self, reason: str) -> None:
        self.why = reason
        if reason not in self._logged and len(self._logged) < _LOGGED:
            self._logged.add(reason)
            log.warning("%s: %s; it is tried again", self._endpoint, reason)

    def _await(self, peer: socket.socket | None, events: int, seconds: float) -> bool:
        """Sleep until ``peer`` is ready, or the time is up; whether the receiver is closed. Raises TimeoutError."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if peer is not None:
            poller.register(peer, events)
        ready = poller.poll(max(0.0, seconds) * 1000)
        if self._closing:
            if peer is not None:
                raise _Closing
            return True
        if peer is not None and not ready:
            raise TimeoutError
        return False

    def _connect(self) -> socket.socket:
        """A connected socket: of a name's addresses, the first that answers. Raises Refused for an unknown name."""
        host, port = self._address
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if getattr(error, "errno", None) == socket.EAI_AGAIN:
                raise OSError(str(error)) from None
            raise Refused(f"the name {host!r} cannot be found ({error})") from None
        last: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in found:
            try:
                return self._connect_to(socket.socket(family, kind, protocol), address)
            except OSError as error:
                last = error
        raise last

    def _connect_to(self, peer: socket.socket, address: tuple) -> socket.socket:
        try:
            peer.setblocking(False)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                peer.setsockopt(socket.IPPROTO_TCP, option, value)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # SO_RCVBUF is left alone: set by hand, the kernel would not adjust it any more.
            error = peer.connect_ex(address)
            if error == errno.EINPROGRESS:
                self._await(peer, select.POLLOUT, _CONNECT_S)
                error = peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error))
            return peer
        except BaseException:
            peer.close()
            raise

    def _shake_hands(self, peer: socket.socket) -> bytes:
        """Returns what came behind the handshake. Raises Refused, OSError."""
        handshake = Handshake()
        began = time.monotonic()
        peer.send(handshake.opening())
        while not handshake.done:
            waited = time.monotonic() - began
            if waited >= _SILENT_S:
                peer.send(handshake.silence())
            if waited >= _HANDSHAKE_S:
                heard = "does not end its greeting" if handshake.heard else "says nothing"
                raise Refused(f"it takes the connection and {heard}; expected a stream")
            with contextlib.suppress(TimeoutError):
                self._await(peer, select.POLLIN, (_SILENT_S if waited < _SILENT_S else _HANDSHAKE_S) - waited)
            with contextlib.suppress(BlockingIOError):
                data = peer.recv(4096)
                if not data:
                    raise ConnectionResetError("closed during the handshake")
                peer.send(handshake.feed(data))
        return handshake.rest


class _Closing(Exception):
    """The receiver is being closed."""


def warm_up() -> None:
    """Compile the receive loop, or load it from the cache, before the first message counts."""
    ring = Ring(0, BatchMemory(4096, 1), slots=3)
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.close()
        Traffic(ring, 0).run(here.fileno(), ring.event, b"")
    ring.ask(b"", 0.0)
    ring.take(np.zeros(1, np.int64), 0.0)
    ring.free(0)
