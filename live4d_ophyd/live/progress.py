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

from bluesky.utils import ProgressBarBase, ProgressBarManager
from tqdm import tqdm

FRAMES = "frames"
REDRAW_PERIOD = 0.1  # s


class ScanProgressBar(ProgressBarManager):
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
        super().__init__(partial(_Lines, delay=delay, file=file))

    def __call__(self, status_objs_or_none: Collection[Any] | None) -> None:
        """What the RunEngine calls: with the statuses when a wait begins, with None when it is over."""
        # A wait with a time-out that failed or was interrupted has no end; Bluesky would warn of it.
        if self.pbar is not None:
            super().__call__(None)
        if status_objs_or_none is not None:
            super().__call__(status_objs_or_none)


class _Lines(ProgressBarBase):
    """The lines of one wait, one a status that can be watched."""

    def __init__(self, statuses: Collection[Any], delay: float, file: TextIO | None) -> None:
        self._file = file or sys.stdout
        self._lock = threading.RLock()  # of what follows: statuses report in threads of theirs
        self._lines: list[tqdm | None] = []
        self._not_before: list[float] = []
        self._closed = False
        if not self._file.isatty():
            return
        for status in statuses:
            if hasattr(status, "watch") and not status.done:
                self._lines.append(None)
                self._not_before.append(time.monotonic() + delay)
                status.watch(partial(self.update, len(self._lines) - 1))

    def update(
        self,
        pos: int,
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
            now, line = time.monotonic(), self._lines[pos]
            # The end of a line that is there is drawn at once.
            early = now < self._not_before[pos] and (line is None or done < total)
            if self._closed or total == 0 or early:
                return
            self._not_before[pos] = now + REDRAW_PERIOD
            if line is None:
                line = self._lines[pos] = self._new_line(pos, name, total)
            if unit == FRAMES:
                text = f"{int(done)}/{int(total)} frames"
                rate = rate or (done / time_elapsed if time_elapsed else None)
                text += f", {_frequency(rate)}" if rate else ""
                if time_elapsed is not None:
                    text += f", {_clock(time_elapsed)}"
                    text += f" and {_clock(time_elapsed * (total - done) / done)} to go" if done else ""
            else:
                text = f"{float(current):.4g}/{float(target):.4g} {unit or ''}".rstrip()
            line.postfix[0] = text
            line.n = min(done, total)
            line.refresh()

    def _new_line(self, pos: int, name: str | None, total: float) -> tqdm:
        columns, lines = shutil.get_terminal_size()  # with a default where a terminal says 0; tqdm has none
        return tqdm(
            total=total,
            desc=name,
            position=pos,
            file=self._file,
            leave=False,
            ncols=columns,
            nrows=lines,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix[0]}",
            postfix=[""],
        )

    def clear(self) -> None:
        """Remove the lines; what is reported later draws nothing."""
        with self._lock:
            self._closed = True
            for line in self._lines:
                if line is not None:
                    line.close()


def _clock(seconds: float) -> str:
    """Minutes and seconds, rounded: ``1:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _frequency(rate: float) -> str:
    for factor, unit in ((1e6, "MHz"), (1e3, "kHz")):
        if rate >= factor:
            return f"{rate / factor:.3g} {unit}"
    return f"{rate:.3g} Hz"
