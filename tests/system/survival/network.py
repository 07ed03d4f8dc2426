"""Network: a TCP proxy in front of the stream that can be cut, frozen and mended, for tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class _Link:
    """One connection through the network, and the two threads that carry it; ``rate``: bytes a second each way."""

    def __init__(self, near: socket.socket, far: socket.socket, rate: float | None = None) -> None:
        self.near, self.far = near, far
        self._rate = rate
        if rate is not None:
            for end in (near, far):  # else the kernel takes in what the link has not carried yet
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        self.flowing = threading.Event()
        self.flowing.set()
        self._abandoned = False
        self.carried = 0  # bytes that the near side was sent
        self._threads = [
            threading.Thread(target=self._carry, args=ends, name="network-link", daemon=True)
            for ends in ((near, far), (far, near))
        ]
        for thread in self._threads:
            thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536 if self._rate is None else 4096):
                self.flowing.wait()
                if self._rate is not None:
                    time.sleep(len(data) / self._rate)
                sink.sendall(data)
                if sink is self.near:
                    self.carried += len(data)
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

    def __init__(self, target: str, rate: float | None = None) -> None:
        self._rate = rate
        self._pulled = False
        self._lock = threading.Lock()  # of what is pulled, and the links
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
            link = _Link(near, far, self._rate)
            with self._lock:
                if self._pulled:
                    link.flowing.clear()
                self._links.append(link)

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

    def pull(self) -> None:
        """As `freeze`; nor does anything of new connections get through."""
        with self._lock:
            self._pulled = True
            self.freeze()

    def plug_in(self) -> None:
        """What was pulled is over: those connections end, and new ones get through."""
        with self._lock:
            self._pulled = False
            before, self._links = self._links, []
        for link in before:
            link.close()

    def abandon(self) -> None:
        """The target is gone without a word, as when its power fails; new connections reach what comes in its place."""
        for link in self._links:
            link.abandon()

    @property
    def carried(self) -> int:
        """Bytes that clients were sent over the connections that there are."""
        return sum(link.carried for link in self._links)

    def close(self) -> None:
        self.cut()
