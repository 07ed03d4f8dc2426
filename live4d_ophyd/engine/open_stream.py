"""OpenStream: the connections to one detector, and the threads that receive from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from live4d_ophyd.engine.series import Memory
from live4d_ophyd.sources.dectris.receiver import Receiver

#: a connection is waited for in pieces so long, so that closing need not wait, s
_CONNECT_WAIT_S = 0.05


class OpenStream:
    """Connections to one detector, kept open between acquisitions so that no `start` is missed.

    ``endpoint`` may name several addresses, with commas between; each gets ``connections``. ``memory`` holds what a
    series leaves for the next one. Starts and joins the ``live4d-receive-N``.
    """

    def __init__(self, endpoint: str, connections: int = 1) -> None:
        self.endpoint = endpoint
        self.connections = connections
        self.receivers: list[Receiver] = []
        #: whether the last series fell silent: the detector may be gone without a word
        self.doubtful = False
        self.closed = False
        self.memory = Memory()
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()  # of the receivers: `close` may come from any thread
        self._connect()

    def _connect(self) -> None:
        try:
            for address in self.endpoint.split(","):
                for _ in range(self.connections):
                    self.receivers.append(Receiver(address.strip()))
        except BaseException:
            self.close()
            raise

    def _disconnect(self) -> None:
        self.stop_listening()
        for receiver in self.receivers:
            receiver.close()
        self.receivers.clear()

    def reconnect(self) -> None:
        """New connections, for those that a detector left half open when its power failed."""
        with self._lock:
            if not self.closed:
                self._disconnect()
                self._connect()
                self.doubtful = False

    def connected(self, wait: float = 0.0) -> bool:
        deadline = time.monotonic() + wait
        while True:
            left = deadline - time.monotonic()
            with self._lock:
                if self.closed:
                    return False
                # In short pieces: closing must not wait for them all.
                if all(r.connected(max(0.0, min(left, _CONNECT_WAIT_S))) for r in self.receivers):
                    return True
            if left <= 0:
                return False

    def listen(self, target: Callable[[Receiver], None]) -> None:
        """Run ``target`` in a thread for each connection; `stop_listening` or `close` ends them."""
        with self._lock:
            for n, receiver in enumerate(self.receivers):
                name = f"live4d-receive-{n}"
                thread = threading.Thread(target=target, args=(receiver,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop_listening(self) -> None:
        with self._lock:
            for receiver in self.receivers:
                receiver.stop[0] = 1
            for thread in self._threads:
                thread.join()
            self._threads.clear()
            for receiver in self.receivers:
                receiver.stop[0] = 0

    def close(self) -> None:
        """Drop the connections at once, for good. From any thread, whatever the acquisition's is waiting for."""
        with self._lock:
            self.closed = True
            self._disconnect()
