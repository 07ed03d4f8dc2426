"""CalibrationOrigin: where a calibration came from, a text that is no longer believed once the calibration changes.

In: the text that a plan sets, with the calibration as it is then. Out: that text, and `CHANGED` behind it when one of
the values, the mask or the gain is another. Threads: the callers'.
"""

from __future__ import annotations

from typing import Any

from live4d_ophyd.device.signals import Text

#: behind the origin of a calibration that was changed since
CHANGED = ", changed"


class CalibrationOrigin(Text):
    """A text about the calibration of the device that it belongs to; "" is none. ``get()`` is the text as read."""

    def __init__(self, *args: Any, value: str = "", **kwargs: Any) -> None:
        self._of = ""
        super().__init__(*args, value=value, **kwargs)

    def put(self, value: Any, **kwargs: Any) -> None:
        """Set the text, of the calibration as it is now. Equal texts are set, too: the calibration may be another."""
        self._of = self._calibration()
        super().put(value, **{**kwargs, "force": True})

    def get(self, **kwargs: Any) -> str:
        text = super().get(**kwargs)
        return text + CHANGED if text and self._of != self._calibration() else text

    def _calibration(self) -> str:
        return "" if self.parent is None else self.parent.calibration_in_words()
