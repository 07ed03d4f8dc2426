"""Errors of the window that must stay in the window.

While a plan runs, Bluesky takes any exception that Qt sees for one of the plan's callbacks, and halts the plan. A
picture that cannot be drawn must not do that. In: exceptions of slots and events, in the GUI's thread. Out: those
from the window, or from pyqtgraph, to the log and the operator; all others to whoever had them before.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

#: modules whose exceptions are the window's
_OURS = ("live4d_ophyd.window", "pyqtgraph")


#: how the windows that are open tell their operators
_open: list[Callable[[str], None]] = []


class Contained:
    """Looks at `sys.excepthook`, which Bluesky replaces for each plan: `watch` is called again and again."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        _open.append(say)

    def watch(self) -> None:
        """Take the exceptions of windows out of what goes to the hook that is there now."""
        if not isinstance(sys.excepthook, _Hook):
            sys.excepthook = _Hook(sys.excepthook)

    def end(self) -> None:
        """This window is closed. With the last one what was there before is put back."""
        _open.remove(self._say)
        if not _open and isinstance(sys.excepthook, _Hook):
            sys.excepthook = sys.excepthook.before


class _Hook:
    """In front of the hook ``before``. Bluesky puts back, after a plan, the one that it had found, maybe after all
    windows were closed: it passes everything on then.
    """

    def __init__(self, before: Any) -> None:
        self.before = before

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(trace)]
        ours = isinstance(error, Exception) and any(name.startswith(_OURS) for name in modules)
        if not _open or not ours:
            self.before(kind, error, trace)
            return
        log.error("the live window: %s: %s", kind.__name__, error, exc_info=(kind, error, trace))
        for say in _open:
            say(f"the window could not do that, {kind.__name__}: {error}; the plan goes on")
