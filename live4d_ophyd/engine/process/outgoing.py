"""Outgoing: what a session tells its engine, from any thread to the one that has the socket; orders also after a cut.

In: encoded messages. Out: the same, in order, to the socket's thread, which they wake; and the orders that the engine
did not get, to be sent again.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Iterator

import zmq

#: orders that can be given again after a cut
_ORDERS_KEPT = 100


class Outgoing:
    """Messages that wait to be sent. Who sends them polls ``woken``, and ends ``context`` with `close`."""

    def __init__(self, context: zmq.Context) -> None:
        self._context = context
        self._name = f"inproc://wake-{id(self)}"
        self.woken = context.socket(zmq.PULL)
        self.woken.bind(self._name)
        self._lock = threading.Lock()  # of the context's end
        self._messages: queue.SimpleQueue[tuple[bytes | None, bool]] = queue.SimpleQueue()
        self._orders: deque[bytes] = deque(maxlen=_ORDERS_KEPT)  # the newest that were given
        self._ordered = 0  # in all

    def put(self, message: bytes | None, *, order: bool = False) -> None:
        """From any thread. None: nothing more is sent. ``order``: it must not be lost with the connection."""
        self._messages.put((message, order))
        with self._lock:
            if self._context.closed:
                return  # the thread is gone, and with it the need to wake it
            with contextlib.suppress(zmq.ZMQError), self._context.socket(zmq.PUSH) as waker:
                waker.linger = 0
                waker.connect(self._name)
                waker.send(b"", zmq.DONTWAIT)

    def pop_all(self) -> Iterator[bytes | None]:
        """All that wait, each once."""
        while not self._messages.empty():
            message, order = self._messages.get()
            if message is not None and order:
                self._orders.append(message)
                self._ordered += 1
            yield message

    def missed(self, heard: int) -> list[bytes]:
        """The orders that were taken after the first ``heard``. Raises ValueError if they are not known any more."""
        lost = self._ordered - heard
        if not 0 <= lost <= len(self._orders):
            raise ValueError(f"has missed {lost} orders, more than are known")
        return list(self._orders)[len(self._orders) - lost :]

    def close(self) -> None:
        """Nobody is woken any more. The context's other sockets are closed already."""
        self.woken.close()
        with self._lock:  # libzmq aborts the process for a socket that is made while its context ends
            self._context.term()
