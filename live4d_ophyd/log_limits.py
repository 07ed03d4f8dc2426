"""Limits of a log that strangers can write to: how often one place logs, how long a line is, and which characters.

In: log records. Out: fewer of them, in lines that a terminal shows as text. Any thread; logging's own locks order it.
"""

from __future__ import annotations

import logging
import time

from live4d_ophyd.checks import printable

#: a place in the code may log so many records at once, and so many a second in the long run
BURST, RATE_HZ = 50, 1.0
#: characters of a line
LONGEST = 2000


class NotTooOften(logging.Filter):
    """Lets each place in the code log `BURST` records at once and `RATE_HZ` a second; says how many were left out.

    Errors count like everything else: what strangers send may cause them, too.
    """

    def __init__(self, burst: int = BURST, rate: float = RATE_HZ) -> None:
        super().__init__()
        self._burst, self._rate = burst, rate
        #: by place: records that it may still log, when that was so, records left out since the last
        self._places: dict[tuple[str, int], tuple[float, float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place, now = (record.pathname, record.lineno), time.monotonic()
        credit, since, left_out = self._places.get(place, (float(self._burst), now, 0))
        credit = min(self._burst, credit + (now - since) * self._rate)
        if credit < 1:
            self._places[place] = credit, now, left_out + 1
            return False
        self._places[place] = credit - 1, now, 0
        record.left_out = left_out
        return True


def message_of(record: logging.LogRecord) -> str:
    """The record's text in one line of at most `LONGEST` characters, with control characters escaped."""
    text = printable(record.getMessage(), LONGEST)
    left_out = getattr(record, "left_out", 0)
    return f"{text} ({left_out} more of these were left out)" if left_out else text


class SafeFormatter(logging.Formatter):
    """A record as one line of text, whatever is in it; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = message_of(record)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        lines = super().formatException(ei).splitlines()  # type: ignore[arg-type]
        return "\n".join(printable(line, LONGEST) for line in lines[-100:])
