"""Statuses that tell: their text says how far they are, and why they failed, as that is what a FailedStatus shows."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from ophyd.status import Status

from live4d_ophyd.engine.results import Progress


class TellingStatus(Status):
    """A status whose text is the name of ``obj`` and one of three words; ``failed`` is followed by the error's text.

    With an empty ``failed`` the error speaks for itself.
    """

    def __init__(
        self,
        obj: Any,
        *,
        running: str = "running",
        done: str = "done",
        failed: str = "failed",
        timeout: float | None = None,
        settle_time: float | None = None,
    ) -> None:
        self._words = (running, done, failed)
        super().__init__(obj, timeout=timeout, settle_time=settle_time or 0)

    def watch(self, func: Any) -> None:
        """Nothing can be watched; there are hooks that ask every status they wait for."""

    def follow(self, work: Callable[[], None], thread_name: str) -> threading.Thread:
        """Do ``work`` in a thread; the status ends with it, as it does."""

        def run() -> None:
            try:
                work()
            except Exception as error:
                self.set_exception(error)
            else:
                self.set_finished()

        thread = threading.Thread(target=run, name=thread_name, daemon=True)
        thread.start()
        return thread

    def __str__(self) -> str:
        running, done, failed = self._words
        error = self.exception(timeout=0) if self.done else None
        if error is None:
            return f"{self.obj.name} {done if self.done else running}"
        return f"{self.obj.name} {failed}: {error}" if failed else str(error)

    __repr__ = __str__


class RasterStatus(TellingStatus):
    """Status of a trigger or a movie; reports frames to progress bars."""

    def __init__(self, device: Any) -> None:
        super().__init__(device)
        self._progress_watchers: list[Any] = []
        self._started = time.monotonic()

    def watch(self, func: Any) -> None:
        """Call ``func`` with the progress, as bluesky's progress bars expect; with ``rate`` (Hz) if it takes that."""
        parameters = inspect.signature(func).parameters.values()
        takes_rate = any(p.name == "rate" or p.kind is p.VAR_KEYWORD for p in parameters)
        self._progress_watchers.append((func, takes_rate))

    def report(self, progress: Progress) -> None:
        """Tell the watchers; runs in the engine client's thread."""
        done, expected = progress.frames_received, progress.frames_expected
        elapsed = time.monotonic() - self._started
        for watcher, takes_rate in list(self._progress_watchers):
            rate = {"rate": progress.rate_hz} if takes_rate else {}
            watcher(
                name=self.obj.name,
                current=done,
                initial=0,
                target=expected,
                unit="frames",
                precision=0,
                # bluesky's progress bar wants what is left, 0 at the end
                fraction=1 - done / expected if expected else None,
                time_elapsed=elapsed,
                time_remaining=elapsed * (expected - done) / done if done else None,
                **rate,
            )
