"""Outage: an engine that cannot be reached for a while, or says nothing that means something. The session's end.

No sockets of the session's own are used; `Outage.why_over` tries a connection of its own now and then. One thread.
"""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

from live4d_ophyd.engine.process.protocol import Armed, Done, Failed, ProgressMade, RasterDone
from live4d_ophyd.engine.results import Progress

#: how often it is tried whether somebody listens at the engine's address, and for how long, s
_TRY_S, _TRY_TIMEOUT_S = 0.4, 0.2
#: refusals in a row that say that the engine's process is gone: a service that is started again refuses for a moment
_REFUSALS = 2
#: how long an engine may take from a request until the detector is armed: it waits for another engine, initializes a
#: detector that was restarted, and arms, s
ARM_S = 600.0
#: and how much longer than the stream's silence may last it may say nothing new afterwards: the last fit over a whole
#: raster is made in this time, s
GRACE_S = 300.0


class Outage:
    """From the moment when the connection to ``endpoint`` broke."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = urlsplit(endpoint)
        self._address: tuple | None = None  # once it is known: names are looked up once, as that may last
        self._began = time.monotonic()
        self._tried = 0.0
        self._refused = 0

    def why_over(self, patience: float) -> str:
        """Why the engine is not waited for any more; "" while it is, for up to ``patience`` s."""
        now = time.monotonic()
        if now - self._tried >= _TRY_S:
            self._tried = now
            self._refused = self._refused + 1 if self._is_refused() else 0
        if self._refused >= _REFUSALS:
            return "its process is gone"
        if now - self._began > patience:
            return f"its host cannot be reached, for more than {patience:g} s"
        return ""

    def _is_refused(self) -> bool:
        if self._endpoint.scheme != "tcp" or not self._endpoint.hostname:
            return True  # on this machine
        try:
            if self._address is None:
                host, port = self._endpoint.hostname, self._endpoint.port or 0
                self._address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            family, kind, protocol, _, address = self._address
            with socket.socket(family, kind, protocol) as trying:
                trying.settimeout(_TRY_TIMEOUT_S)
                trying.connect(address)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


class SignsOfLife:
    """What an engine has said of the acquisition that runs: whether something new comes in time.

    Only what brings the acquisition on counts, so that no engine keeps it alive for ever: there are so many frames,
    so many rasters and so many parts of their results, and no more.
    """

    def __init__(self) -> None:
        self.begin(0.0, 0)

    def begin(self, timeout: float, parts: int) -> None:
        """An acquisition was asked for, whose stream may be silent for ``timeout`` s; its results have ``parts``."""
        self._timeout = timeout
        self._last = time.monotonic()
        self._armed = False
        self._frames = self._raster = 0  # the highest that progress has told
        self._parts = parts

    def of(self, event: Armed | ProgressMade | RasterDone | Done | Failed) -> None:
        """The engine said this. Progress that is none is no sign of life."""
        if isinstance(event, ProgressMade) and not self._advances(event.progress):
            return
        self._armed = self._armed or isinstance(event, Armed)
        self._last = time.monotonic()

    def _advances(self, progress: Progress) -> bool:
        # Before, with stay_armed, it may be of the last raster, whose frames are all there.
        if not self._armed:
            return False
        advances = progress.frames_received > self._frames or progress.raster > self._raster
        self._frames = max(self._frames, progress.frames_received)
        self._raster = max(self._raster, progress.raster)
        return advances

    def of_the_result(self) -> None:
        """A part of what must arrive came. None of a result comes before the detector is armed."""
        if self._armed and self._parts > 0:
            self._parts -= 1
            self._last = time.monotonic()

    def too_silent(self) -> str:
        """What it has not said for too long; "" while there is time."""
        silent = time.monotonic() - self._last
        if not self._armed:
            return f"did not arm within {ARM_S:g} s" if silent > ARM_S else ""
        longest = self._timeout + GRACE_S
        return f"has said nothing new of the scan for {longest:g} s" if silent > longest else ""
