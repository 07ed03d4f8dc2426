"""A clock that a test sets, for one module: the process's own goes on.

An event loop of another thread that looks at a clock set back would sleep for as long as it was set back.
"""

from __future__ import annotations

import time
from types import SimpleNamespace


def set_clock(monkeypatch, module: str, monotonic) -> None:
    """``module``, by name, sees ``monotonic`` as that of its ``time``."""
    monkeypatch.setattr(f"{module}.time", SimpleNamespace(**{**vars(time), "monotonic": monotonic}))
