"""RasterClock: how far the raster that runs is, in time and frames.

In: the status of a trigger or a movie, which reports in the engine client's thread. Out: `Progress`, in the GUI's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Of one raster, or of a movie."""

    frames: int
    expected: int
    elapsed: float  #: s
    remaining: float | None  #: s, None before the first frame
    rate: float | None  #: frames/s

    @property
    def fraction(self) -> float:
        return self.frames / self.expected if self.expected else 0.0

    def __str__(self) -> str:
        parts = [f"{self.frames:,} of {self.expected:,} frames".replace(",", " ")]
        if self.rate:
            parts.append(f"{self.rate / 1e3:.3g} kHz" if self.rate >= 1e3 else f"{self.rate:.3g} Hz")
        parts.append(f"{clock(self.elapsed)} elapsed")
        if self.remaining is not None:
            parts.append(f"{clock(self.remaining)} remaining")
        return ", ".join(parts)


class RasterClock:
    """Watches one status at a time."""

    def __init__(self) -> None:
        self._status: Any = None
        self._began = 0.0
        self._said: tuple[float, float, float | None] = (0, 0, None)

    def watch(self, status: Any) -> None:
        """A raster began; ``status`` is done when it is over."""
        self._status, self._began, self._said = status, time.monotonic(), (0, 0, None)
        if hasattr(status, "watch"):
            status.watch(partial(self._heard, status))

    def now(self) -> Progress | None:
        """How far it is; None where none runs."""
        status, (frames, expected, rate) = self._status, self._said
        if status is None or status.done:
            return None
        elapsed = time.monotonic() - self._began
        remaining = elapsed * (expected - frames) / frames if frames else None
        return Progress(int(frames), int(expected), elapsed, remaining, rate)

    def _heard(
        self, status: Any, *, current: Any = None, target: Any = None, rate: Any = None, **others: Any
    ) -> None:
        if status is self._status and current is not None and target is not None:
            self._said = (current, target, rate)


def clock(seconds: float) -> str:
    """Minutes and seconds, rounded: ``1:05``; with hours from one on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
