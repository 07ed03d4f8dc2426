"""Network: a TCP proxy in front of the stream that can be cut, frozen and mended, for tests."""

from __future__ import annotations

import contextlib
import socket
import threading


class _Link:
    """One connection through the network, and the two threads that carry it."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.flowing = threading.Event()
        self.flowing.set()
        self._abandoned = False
        self._threads = [
            threading.Thread(target=self._carry, args=ends, name="network-link", daemon=True)
            for ends in ((near, far), (far, near))
        ]
        for thread in self._threads:
            thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                sink.sendall(data)
        if not self._abandoned:
            self.break_()

    def break_(self) -> None:
        """Both sides see the connection end."""
        self.flowing.set()
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """The far side is gone; the near side is told nothing."""
        self._abandoned = True
        with contextlib.suppress(OSError):
            self.far.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.break_()
        for thread in self._threads:
            thread.join()
        self.near.close()
        self.far.close()


class Network:
    """What lies between a client and ``target`` (``tcp://127.0.0.1:31001``); clients connect to ``endpoint``.

    Threads: ``network-accept`` while it is whole, and two ``network-link`` for each connection.
    """

    def __init__(self, target: str) -> None:
        host, port = target.removeprefix("tcp://").rsplit(":", 1)
        self._target = (host, int(port))
        self._links: list[_Link] = []
        self._port = 0
        self.mend()
        self.endpoint = f"tcp://127.0.0.1:{self._port}"

    def mend(self) -> None:
        """Take connections (again)."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="network-accept", daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # cut
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._links.append(_Link(near, far))

    def cut(self) -> None:
        """Every connection breaks, new ones are refused; what was on its way is lost."""
        self._listener.shutdown(socket.SHUT_RDWR)  # close alone would not wake the acceptor
        self._acceptor.join()
        self._listener.close()
        for link in self._links:
            link.close()
        self._links.clear()

    def freeze(self) -> None:
        """Nothing gets through and nothing breaks, as when a cable is pulled."""
        for link in self._links:
            link.flowing.clear()

    def thaw(self) -> None:
        for link in self._links:
            link.flowing.set()

    def abandon(self) -> None:
        """The target is gone without a word, as when its power fails; new connections reach what comes in its place."""
        for link in self._links:
            link.abandon()

    def close(self) -> None:
        self.cut()
