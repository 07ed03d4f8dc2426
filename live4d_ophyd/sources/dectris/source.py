"""DectrisSource: a DECTRIS detector as a source of frames, its stream and, where it is controlled, its control unit."""

from __future__ import annotations

from dataclasses import dataclass

from live4d_ophyd import checks
from live4d_ophyd.frames.batch import BatchMemory
from live4d_ophyd.sources.dectris import arming
from live4d_ophyd.sources.dectris.arming import SimplonControl
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.series import DectrisSeries
from live4d_ophyd.sources.dectris.stream import DectrisStream
from live4d_ophyd.sources.source import SeriesRequest

#: PULL connections in all; each has a thread of its own
MAX_CONNECTIONS = 16


@dataclass(frozen=True)
class DectrisSource:
    """The frames of a detector's stream v2.

    Parameters
    ----------
    endpoint : stream v2 of the detector, ``tcp://dcu:31001``; several addresses of it with commas between
    connections : PULL connections to each address, each with its own receive loop
    channel : data channel to use, empty for the first that the series names; frames without it are bad
    simplon : arms and disarms the detector; None listens passively to the next series
    """

    endpoint: str
    connections: int = 1
    channel: str = ""
    simplon: Simplon | None = None

    def __post_init__(self) -> None:
        most = MAX_CONNECTIONS // len(self.addresses)
        if not most:
            raise ValueError(
                f"endpoint has {len(self.addresses)} addresses; expected at most {MAX_CONNECTIONS} connections"
            )
        object.__setattr__(self, "connections", checks.whole("connections", self.connections, 1, most))
        checks.text("channel", self.channel)

    @property
    def addresses(self) -> list[str]:
        """Of the stream, one by one."""
        return checks.addresses("endpoint", self.endpoint)

    @property
    def name(self) -> str:
        return self.endpoint

    @property
    def address(self) -> tuple[str, int]:
        return self.endpoint, self.connections

    @property
    def armed_here(self) -> bool:
        return self.simplon is not None

    def check(self, series: SeriesRequest) -> None:
        """Raise ValueError for a series that the detector's trigger mode cannot take."""
        if self.simplon is not None:
            arming.check(self.simplon, series)

    def open(self, memory: BatchMemory) -> DectrisStream:
        """Connect. Raises ValueError for an address that cannot be one."""
        return DectrisStream(self.addresses, self.connections, memory)

    def next_series(self, opened: DectrisStream) -> DectrisSeries:
        """The next series: the one that is armed from here, else the next that begins."""
        return DectrisSeries(self.endpoint, opened, channel=self.channel, armed=self.armed_here)

    def control(self) -> SimplonControl | None:
        return None if self.simplon is None else SimplonControl(self.simplon)
