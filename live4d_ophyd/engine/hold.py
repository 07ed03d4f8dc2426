"""Hold: an engine's hold on a detector, from before it is configured until it is left idle.

One engine of a machine has it at a time; and what another session armed meanwhile, from wherever, is not ended.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import socket
import struct
import time
import uuid
from collections.abc import Callable

from live4d_ophyd.engine.errors import DetectorInUse
from live4d_ophyd.sources.dectris.control import Simplon
from live4d_ophyd.sources.dectris.rest import SimplonError

log = logging.getLogger(__name__)

#: how long to wait for another engine on this machine that has the detector, s
TIMEOUT_S = 120.0
#: what this process is called in the header of the streams it arms
ENGINE_ID = uuid.uuid4().hex


class Hold:
    """Of the detector that ``control`` arms. One thread."""

    def __init__(self, control: Simplon) -> None:
        self._control = control
        self._claim = Claim(control.url)
        self._header: str | None = None

    def take(self, pause: Callable[[], None]) -> None:
        """Wait until no other engine on this machine has it; ``pause`` waits a little, or raises to give up.

        An engine that its session left behind, waiting for a slow control unit, is waited for.
        """
        deadline, told = time.monotonic() + TIMEOUT_S, False
        while not self._claim.take():
            who = (
                f"the detector at {self._control.url} is used by another engine on this machine (process "
                f"{self._claim.holder()})"
            )
            if time.monotonic() > deadline:
                raise DetectorInUse(
                    f"{who}, for more than {TIMEOUT_S:g} s", remedy="end its scan, or that process"
                )
            if not told:
                log.warning("%s: waiting for it", who)
                told = True
            pause()

    def give_up(self) -> None:
        self._claim.give_up()

    def mark(self) -> None:
        """The detector was configured with a header that names this process: see `is_ours`."""
        # As it is there: what is to be put back is noted in it, too. Devices that have no header, or refuse it, cannot
        # tell later either.
        there = self._header_there()
        self._header = there if _engine_of(there) == ENGINE_ID else None

    def is_ours(self) -> bool:
        """Whether the detector is still armed for this process, as far as it tells."""
        if self._header is None or self._header_there() in (None, self._header):
            return True
        log.warning("%s has been armed by another session meanwhile: it is left alone", self._control.url)
        return False

    def _header_there(self) -> str | None:
        try:
            return str(self._control.get("stream", "config", "header_appendix"))
        except SimplonError:
            return None


def _engine_of(header: str | None) -> str | None:
    """The process that a header names; None where it names none."""
    try:
        return str(json.loads(header or "")["engine"])
    except (ValueError, KeyError, TypeError):
        return None


class Claim:
    """A name that the kernel keeps for a process (an abstract Unix socket) and frees when it ends, however it ends."""

    def __init__(self, url: str) -> None:
        self._name = "\0live4d-" + hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:32]
        self._held: socket.socket | None = None

    def take(self) -> bool:
        """False while another has it."""
        held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            held.bind(self._name)
            held.listen()
        except OSError as error:
            held.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._held = held
        return True

    def holder(self) -> int | None:
        """The process that has it; None if that is over, or cannot be told."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)
            try:
                asking.connect(self._name)
            except OSError:
                return None
            pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return int(pid)

    def give_up(self) -> None:
        """Let the next have it; harmless when it was not taken."""
        if self._held is not None:
            self._held.close()
            self._held = None
