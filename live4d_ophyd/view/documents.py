"""Documents of a session, received over 0MQ by the thread ``live4d-view-documents``.

In: messages of a `Publisher`, to whose address this binds, or of a 0MQ proxy. Out: documents to one function. A message
that is no document is counted and ignored; one that is too large closes its connection.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq

from live4d_ophyd.live import wire

log = logging.getLogger(__name__)

_NAMES = ("start", "descriptor", "event", "event_page", "stop")
#: messages that may wait here: images are large, and a publisher that is held up leaves previews out
_MOST_WAITING = 16


class AddressInUse(OSError):
    """Another viewer reads what comes to this address."""


class Documents:
    """Receives until it is closed.

    Parameters
    ----------
    take : gets name and document, in the thread ``live4d-view-documents``
    address : ``ipc://...`` or ``tcp://HOST:PORT``
    bind : sessions come to this address; otherwise a proxy is there, that sends

    Raises `AddressInUse`, OSError.
    """

    def __init__(self, take: Callable[[str, Mapping[str, Any]], None], address: str, *, bind: bool) -> None:
        self._take = take
        self.address = address
        self.refused = 0  #: messages that were no document
        self._lock_file = _locked(address) if bind else None
        self._context = zmq.Context()
        self._link = self._context.socket(zmq.SUB)
        self._link.set(zmq.LINGER, 0)
        self._link.set(zmq.RCVHWM, _MOST_WAITING)
        self._link.set(zmq.MAXMSGSIZE, wire.MOST_BYTES)
        self._link.subscribe(b"")
        try:
            (self._link.bind if bind else self._link.connect)(address)
        except zmq.ZMQError as error:
            self._link.close()
            self._context.term()
            self._unlock()
            raise AddressInUse(f"documents cannot be received at {address}: {error}") from error
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._receive, name="live4d-view-documents", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)

    def _receive(self) -> None:
        poller = zmq.Poller()
        poller.register(self._link, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        while self._wake not in dict(poller.poll()):
            with suppress(zmq.Again):
                self._read(self._link.recv(zmq.NOBLOCK))
        self._link.close()
        self._context.term()

    def _read(self, message: bytes) -> None:
        try:
            _, name, content = message.split(b" ", 2)
            if (kind := name.decode()) in _NAMES:
                self._take(kind, wire.loads(content))
        except Exception as error:  # whoever may send could end the viewer otherwise
            self.refused += 1
            if self.refused in (1, 10, 100) or self.refused % 1000 == 0:
                log.warning(
                    "%d messages at %s were no documents of live4d, the newest: %s. A session with another version, or "
                    "a publisher that pickles?", self.refused, self.address, str(error)[:200],
                )  # fmt: skip


def _locked(address: str) -> int | None:
    """A lock for the socket of ``ipc://``, which a second one would take away; its file descriptor."""
    if not address.startswith("ipc://"):
        return None
    path = Path(f"{address.removeprefix('ipc://')}.lock")
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise AddressInUse(
            f"another `live4d view` of this user shows the sessions at {address}. Open its page, or read from a 0MQ "
            "proxy with --from HOST:PORT"
        ) from None
    return lock
