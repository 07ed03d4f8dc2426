"""OpenStream: a source that is open, what one series leaves there for the next, and the threads that receive."""

from __future__ import annotations

import threading
from collections.abc import Callable

from live4d_ophyd.engine.preparation import Preparation
from live4d_ophyd.frames.batch import HOST_MEMORY, BatchMemory
from live4d_ophyd.sources.source import Connection, FrameSource, SeriesSource


class OpenStream:
    """What ``source`` opens, kept open between acquisitions. Starts and joins the ``live4d-receive-N``.

    ``memory``: what the backend that decodes wants batches to be.
    """

    def __init__(self, source: FrameSource, memory: BatchMemory = HOST_MEMORY) -> None:
        self.preparation = Preparation()
        #: whether the last series fell silent: the detector may be gone without a word
        self.doubtful = False
        self.source = source
        self._opened = source.open(memory)
        self._series: SeriesSource | None = None
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()  # of the threads: `close` may come from any other

    def serves(self, source: FrameSource) -> bool:
        """Whether ``source`` would open the same."""
        return type(source) is type(self.source) and source.address == self.source.address

    def next_series(self, source: FrameSource) -> SeriesSource:
        """The next series."""
        with self._lock:
            # Where nothing is armed a series may have begun: connections stay as they are.
            if self.doubtful and source.armed_here and not self._closed:
                self._opened.reconnect()
                self.doubtful = False
            return source.next_series(self._opened)

    def connected(self, wait: float = 0.0) -> bool:
        """Whether the source answers; waits up to ``wait`` s for it."""
        return self._opened.connected(wait)

    def listen(self, series: SeriesSource, target: Callable[[Connection], None]) -> None:
        """Run ``target`` in a thread for each connection; `stop_listening` or `close` ends them."""
        with self._lock:
            if self._closed:
                return
            self._series = series
            for n, connection in enumerate(series.connections):
                name = f"live4d-receive-{n}"
                thread = threading.Thread(target=target, args=(connection,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    @property
    def stopping(self) -> bool:
        """Whether `listen`'s targets shall return."""
        return self._series is None

    def stop_listening(self) -> None:
        with self._lock:
            series, self._series = self._series, None
            if series is not None:
                series.interrupt()
            for thread in self._threads:
                thread.join()
            self._threads.clear()

    def close(self) -> None:
        """Drop the connections at once, for good. From any thread, whatever the acquisition's is waiting for."""
        with self._lock:
            self._closed = True
            self.stop_listening()
            self._opened.close()
