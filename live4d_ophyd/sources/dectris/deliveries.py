"""Deliveries: what each of several connections has brought, and whether one of them is still behind.

A detector deals its messages out in turn and sends `end` last, but a connection may be slower than the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from live4d_ophyd.frames.batch import END, SERIES_ID, FrameBatch

#: series that are told apart on a connection: hostile messages can differ without end
_SERIES_KEPT = 100
#: in place of a frame id, behind `end`
_NO_MORE = 2**63 - 1


class Deliveries:
    """Counts of messages by connection and series. Each connection's thread adds its own."""

    def __init__(self) -> None:
        # series id (-1: unreadable) to messages, and to the newest frame, of each connection
        self._messages: defaultdict[int, Counter[int]] = defaultdict(Counter)
        self._newest: defaultdict[int, dict[int, int]] = defaultdict(dict)

    def add(self, batch: FrameBatch) -> None:
        messages, newest = self._messages[batch.connection], self._newest[batch.connection]
        ids = batch.column(SERIES_ID)
        if not len(ids):
            return
        alone = ids.min() == ids.max()  # nearly always, and np.unique takes ten times as long
        for series_id in [int(ids[0])] if alone else np.unique(ids).tolist():
            if series_id not in messages and len(messages) >= _SERIES_KEPT:
                continue
            here = slice(None) if alone else ids == series_id
            status = batch.status[here]
            messages[series_id] += len(status)
            last = _NO_MORE if (status == END).any() else batch.image_id[here].max()
            newest[series_id] = max(newest.get(series_id, -1), int(last))

    def all_came(self, series_id: int, connections: Sequence[int], last_missing: int) -> bool:
        """Whether each of these connections has brought all it has to bring, as far as can be told.

        Connections that are not behind differ by one message. One that the detector passed over while its queue was
        full has brought fewer. But each is in order: behind `end`, or a frame newer than ``last_missing``, none of
        those that are missing can come.
        """
        brought = [self._messages[n][series_id] + self._messages[n][-1] for n in connections]
        newest = [self._newest[n].get(series_id, -1) for n in connections]
        return all(
            count >= max(brought) - 1 or image_id > last_missing for count, image_id in zip(brought, newest)
        )
