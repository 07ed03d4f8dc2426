"""DectrisStream: connections to the stream of a detector, kept open between series, so that no start is missed.

`ZmtpReceiver` has ``tcp://HOST:PORT``, libzmq everything else. ``LIVE4D_RECEIVER=libzmq`` in the environment leaves all
to libzmq.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from live4d_ophyd.frames.batch import HOST_MEMORY, BatchMemory
from live4d_ophyd.sources.dectris.receiver import Receiver
from live4d_ophyd.sources.dectris.receiver import warm_up as warm_up_libzmq
from live4d_ophyd.sources.dectris.series_filter import Memory
from live4d_ophyd.sources.dectris.zmtp import ZmtpReceiver
from live4d_ophyd.sources.dectris.zmtp.receiver import address_of
from live4d_ophyd.sources.dectris.zmtp.receiver import warm_up as warm_up_zmtp

StreamReceiver = Receiver | ZmtpReceiver

#: which receiver is used where both can be
RECEIVER = os.environ.get("LIVE4D_RECEIVER", "zmtp")

#: a connection is waited for in pieces so long, so that closing need not wait, s
_CONNECT_WAIT_S = 0.05


def receiver_of(address: str, memory: BatchMemory = HOST_MEMORY) -> StreamReceiver:
    """A connection to one address. Raises ValueError for one that cannot be, and for an unknown LIVE4D_RECEIVER."""
    if RECEIVER not in ("libzmq", "zmtp"):
        raise ValueError(f"LIVE4D_RECEIVER is {RECEIVER!r}; expected libzmq or zmtp")
    zmtp = RECEIVER == "zmtp" and address_of(address) is not None
    return ZmtpReceiver(address, memory) if zmtp else Receiver(address)


def warm_up() -> None:
    """Compile what receives, or load it from the cache."""
    warm_up_libzmq()
    if RECEIVER == "zmtp":
        warm_up_zmtp()


class DectrisStream:
    """``connections`` to each of the ``addresses``. ``memory`` holds what a series leaves for the next one.

    ``of_batches``: what messages that come before they are asked for are kept in.
    """

    def __init__(
        self, addresses: Sequence[str], connections: int = 1, of_batches: BatchMemory = HOST_MEMORY
    ) -> None:
        self._addresses = addresses
        self._of_batches = of_batches
        self._connections = connections
        self.receivers: list[StreamReceiver] = []
        self.memory = Memory()
        self._closed = False
        self._lock = threading.RLock()  # of the receivers: `close` may come from any thread
        self._connect()

    def _connect(self) -> None:
        try:
            for address in self._addresses:
                for _ in range(self._connections):
                    self.receivers.append(receiver_of(address, self._of_batches))
        except BaseException:
            self.close()
            raise

    def _disconnect(self) -> None:
        for receiver in self.receivers:
            receiver.close()
        self.receivers.clear()

    def reconnect(self) -> None:
        """New connections, for those that a detector left half open when its power failed."""
        with self._lock:
            if not self._closed:
                self._disconnect()
                self._connect()

    def connected(self, wait: float = 0.0) -> bool:
        """Whether the detector answers on every connection; waits up to ``wait`` s for it."""
        deadline = time.monotonic() + wait
        while True:
            left = deadline - time.monotonic()
            with self._lock:
                if self._closed:
                    return False
                # In short pieces: closing must not wait for them all.
                if all(r.connected(max(0.0, min(left, _CONNECT_WAIT_S))) for r in self.receivers):
                    return True
            if left <= 0:
                return False

    def why_not_connected(self) -> str:
        """What answers instead of a stream, as far as the receivers can tell; else ""."""
        with self._lock:
            zmtp = [r for r in self.receivers if isinstance(r, ZmtpReceiver)]
            return next((f"{r.endpoint}: {why}" for r in zmtp if (why := r.why_not_connected())), "")

    def close(self) -> None:
        """Drop the connections at once, for good; nobody may receive from them any more."""
        with self._lock:
            self._closed = True
            self._disconnect()
