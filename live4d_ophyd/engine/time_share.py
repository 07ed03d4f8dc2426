"""A share of the time: work that is done again and again, and leaves the processor to the frames meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Share:
    """Of the time of ``clock`` (s), what is done within `work` takes ``part`` at most, if `wait` is waited for."""

    def __init__(self, part: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._part, self._clock = part, clock
        self._next = -float("inf")

    @property
    def wait(self) -> float:
        """How long until it may be done again, s."""
        return max(0.0, self._next - self._clock())

    @contextmanager
    def work(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self._next = began + (self._clock() - began) / self._part
