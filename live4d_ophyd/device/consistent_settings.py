"""ConsistentSettings: settings that have to fit together. A plan may set them in any order, but soon after each other.

In: a setting that was put, with its value of before and the status of its set. Out: the status, finished when all
settings fit together; if they do not within `TOGETHER_S`, the values of before. Threads: the callers', and a timer's.
"""

from __future__ import annotations

import threading
from typing import Any

from live4d_ophyd.device.statuses import TellingStatus

#: how long settings that do not fit together wait for others that a plan sets with them, s
TOGETHER_S = 0.5


class ConsistentSettings:
    """A device with settings that have to fit together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pending_lock = threading.RLock()
        self._pending: list[tuple[Any, Any, TellingStatus]] = []  #: setting, value before, status
        self._patience: threading.Timer | None = None
        super().__init__(*args, **kwargs)

    def check_settings(self) -> None:
        """Raise ValueError for settings that do not fit together."""

    def finish_when_consistent(self, setting: Any, before: Any, status: TellingStatus) -> None:
        """Finish ``status`` when all settings fit together; if they do not soon, put back what was before."""
        with self._pending_lock:
            self._pending.append((setting, before, status))
            if self._patience is not None:
                self._patience.cancel()
            try:
                self.check_settings()
            except ValueError:
                self._patience = threading.Timer(TOGETHER_S, self._put_back)
                self._patience.daemon = True
                self._patience.start()
                return
            pending, self._pending = self._pending, []
        for _, _, done in pending:
            done.set_finished()

    def _put_back(self) -> None:
        """Runs in the timer's thread."""
        with self._pending_lock:
            refused, self._pending = self._pending, []
            try:
                self.check_settings()
            except Exception as error:  # whoever waits must hear of it
                reason = error
            else:  # by a `put` in the meantime
                for _, _, status in refused:
                    status.set_finished()
                return
            for setting, before, _ in reversed(refused):
                setting.put(before)
        names = " and ".join(dict.fromkeys(setting.name for setting, _, _ in refused))
        for _, _, status in refused:
            status.set_exception(ValueError(f"{names} cannot be set so: {reason}"))
