"""Lane: one connection of a source, and the memory that its frames are received into while others are decoded.

Runs in the connection's own thread, ``live4d-receive-N``.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable

from live4d_ophyd.decode import Backend
from live4d_ophyd.engine.pending import Pending
from live4d_ophyd.engine.series import Series
from live4d_ophyd.frames.batch import FrameBatch
from live4d_ophyd.sources.source import Connection

#: how long a connection waits for messages, s: without frames under way, and with
_WAIT_S, _WAIT_DECODING_S = 0.05, 0.002


class Lane:
    """``connection`` brings what ``series`` takes; ``backend`` decodes it."""

    def __init__(self, connection: Connection, series: Series, backend: Backend) -> None:
        self._connection, self._series, self._backend = connection, series, backend

    def run(self, stopped: Callable[[], bool]) -> None:
        """Receive into one batch while those before are being decoded, until ``stopped``."""
        free = [self._backend.memory.batch() for _ in range(1 + self._backend.in_flight)]
        under_way: deque[tuple[FrameBatch, list[Pending]]] = deque()
        try:
            while not stopped():
                batch = free.pop()
                items = self._connection.receive(batch, _WAIT_DECODING_S if under_way else _WAIT_S)
                under_way.append((batch, self._series.accept(items, self._backend)))
                while under_way and (not free or all(step.ready for step in under_way[0][1])):
                    batch, steps = under_way.popleft()
                    for step in steps:
                        step.finish()
                    free.append(batch)
        finally:
            # Memory that a device still reads must not be freed.
            for _, steps in under_way:
                for step in steps:
                    with contextlib.suppress(Exception):
                        step.finish()
