"""Claim and mark: how engines that want the same detector keep out of each other's way.

One engine of a machine claims it at a time; and what another session armed meanwhile, from wherever, is told by the
mark that whoever arms leaves in the header of the stream.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import struct
import uuid

from live4d_ophyd.checks import from_json

#: what this process is called in the header of the streams it arms
ENGINE_ID = uuid.uuid4().hex


def marked_by(header: str | None) -> str | None:
    """The process that a stream's header names; None where it names none."""
    try:
        return str(from_json(header or "")["engine"])
    except (ValueError, KeyError, TypeError):
        return None


class Claim:
    """A name that the kernel keeps for a process (an abstract Unix socket) and frees when it ends, however it ends."""

    def __init__(self, url: str) -> None:
        self._name = "\0live4d-" + hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:32]
        self._held: socket.socket | None = None

    def acquire(self) -> bool:
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

    def release(self) -> None:
        """Let the next have it; harmless when it was not acquired."""
        if self._held is not None:
            self._held.close()
            self._held = None
