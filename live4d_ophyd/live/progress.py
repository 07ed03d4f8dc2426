"""A RunEngine waiting hook: a progress bar in the terminal for what the plan waits for.

Comes in: the status objects of a ``wait``, whose ``watch`` reports frames received of frames expected (or the
position of a motor). Goes out: one line each on stdout, removed when the wait is over. The lines are drawn by
whatever thread reports progress, and by none of their own.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Collection
from functools import partial
from typing import Any, TextIO

from tqdm import tqdm

FRAMES = "frames"
REDRAW_PERIOD = 0.1  # s


class ScanProgressBar:
    """``RE.waiting_hook = ScanProgressBar()``.

    Silent when stdout is no terminal, and for waits shorter than ``delay`` seconds: those would only flicker.

    Parameters
    ----------
    delay
        Seconds before a bar is drawn.
    file
        Stream to draw on; default: ``sys.stdout`` as it is when the wait begins.
    """

    def __init__(self, delay: float = 0.2, file: TextIO | None = None) -> None:
        self._delay = delay
        self._file = file
        self._bars: list[_Bar] = []
        self._lock = threading.RLock()

    def __call__(self, statuses: Collection[Any] | None) -> None:
        """What the RunEngine calls: with the statuses when a wait begins, with None when it is over."""
        # A wait that failed or was interrupted may have no end: the next one clears what it left.
        with self._lock:
            for bar in self._bars:
                bar.close()
            self._bars = []
        file = self._file or sys.stdout
        if statuses is None or not file.isatty():
            return
        for status in statuses:
            if hasattr(status, "watch") and not status.done:
                bar = _Bar(len(self._bars), self._delay, file, self._lock)
                self._bars.append(bar)
                status.watch(partial(bar.update))


class _Bar:
    """One status' line."""

    def __init__(self, position: int, delay: float, file: TextIO, lock: threading.RLock) -> None:
        self._position = position
        self._file = file
        self._lock = lock
        self._not_before = time.monotonic() + delay
        self._next_redraw = self._not_before
        self._line: tqdm | None = None
        self._closed = False

    def update(
        self,
        *,
        name: str | None = None,
        current: Any = None,
        initial: Any = None,
        target: Any = None,
        unit: str | None = None,
        time_elapsed: float | None = None,
        rate: float | None = None,
        **others: Any,
    ) -> None:
        """The callback for ``status.watch``: bluesky's progress protocol, and ``rate`` [Hz] if known."""
        try:
            total, done = abs(float(target) - float(initial)), abs(float(current) - float(initial))
        except (TypeError, ValueError):
            return  # nothing to draw a length of
        with self._lock:
            now = time.monotonic()
            if (
                self._closed
                or total == 0
                or now < self._not_before
                or (done < total and now < self._next_redraw)
            ):
                return
            self._next_redraw = now + REDRAW_PERIOD
            if self._line is None:
                columns, lines = (
                    shutil.get_terminal_size()
                )  # with a default where a terminal says 0; tqdm has none
                self._line = tqdm(
                    total=total,
                    desc=name,
                    position=self._position,
                    file=self._file,
                    leave=False,
                    ncols=columns,
                    nrows=lines,
                    bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix[0]}",
                    postfix=[""],
                )
            if unit == FRAMES:
                text = f"{int(done)}/{int(total)} frames"
                rate = rate or (done / time_elapsed if time_elapsed else None)
                text += f", {_frequency(rate)}" if rate else ""
                if time_elapsed is not None:
                    text += f", {_clock(time_elapsed)}"
                    text += f" and {_clock(time_elapsed * (total - done) / done)} to go" if done else ""
            else:
                text = f"{float(current):.4g}/{float(target):.4g} {unit or ''}".rstrip()
            self._line.postfix[0] = text
            self._line.n = min(done, total)
            self._line.refresh()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._line is not None:
                self._line.close()


def _clock(seconds: float) -> str:
    """Minutes and seconds, rounded: ``1:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _frequency(rate: float) -> str:
    for factor, unit in ((1e6, "MHz"), (1e3, "kHz")):
        if rate >= factor:
            return f"{rate / factor:.3g} {unit}"
    return f"{rate:.3g} Hz"
