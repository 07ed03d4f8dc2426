"""RequestDeadline: the end of an HTTP request as a whole, however slowly its answer comes.

In: httpx's trace of a request. Out: the request's connection is shut down when the time is over. httpx's own timeouts
bound each read: a peer that sends a byte now and then is never too late for them. A thread, ``live4d-deadline``, for
each request while it lasts.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Any


class RequestDeadline:
    """``with RequestDeadline(seconds) as deadline:`` around a request that has ``deadline.extensions``."""

    def __init__(self, seconds: float) -> None:
        #: whether the time was over before the request was
        self.passed = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(max(0.0, min(seconds, threading.TIMEOUT_MAX)), self._shut_down)
        self._timer.name, self._timer.daemon = "live4d-deadline", True

    @property
    def extensions(self) -> dict[str, Any]:
        """For httpx: it tells when there is a connection."""
        return {"trace": self._note}

    def __enter__(self) -> RequestDeadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        with self._lock:
            if self._socket is not None:
                self._socket.close()

    def _note(self, event: str, info: dict[str, Any]) -> None:
        if event != "connection.connect_tcp.complete":
            return
        connection = info["return_value"].get_extra_info("socket")
        with self._lock:
            # A duplicate: TLS wraps the connection in a socket of its own before it shakes hands.
            self._socket = connection.dup()
        if self.passed:
            self._shut_down()

    def _shut_down(self) -> None:
        self.passed = True
        with self._lock, contextlib.suppress(OSError):  # the other end may have closed it meanwhile
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)
