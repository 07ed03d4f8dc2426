"""Sockets between session and engine: the options of both ends, and why ZMQ does not take an address."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket as sockets
import stat

import zmq

#: no message is larger (a 4096 x 4096 scan with one detector is 134 MB)
MAX_MESSAGE_BYTES = 1 << 30
#: libzmq's own heartbeat runs in its I/O thread: it works while Python is busy, ms
HEARTBEAT_MS = 250
HEARTBEAT_TIMEOUT_MS = 2000
#: what the kernel takes as the name of a socket in the file system
MAX_IPC_PATH_BYTES = 107


def prepare(socket: zmq.Socket, endpoint: str) -> None:
    """Options both sides set before bind or connect."""
    socket.linger = 200
    # Of one connection: what is behind waits with its sender. Each may have `MAX_MESSAGE_BYTES`.
    socket.rcvhwm = 64
    if not endpoint.startswith("ipc:"):
        # On one machine the operating system tells who ended; a process that is only stopped may go on later.
        socket.heartbeat_ivl = HEARTBEAT_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
    socket.maxmsgsize = MAX_MESSAGE_BYTES


def is_for_this_machine(endpoint: str) -> bool:
    """Whether only processes of this machine reach the address."""
    if endpoint.startswith(("ipc://", "inproc://")):
        return True
    host = endpoint.removeprefix("tcp://").rpartition(";")[2].rpartition(":")[0].strip("[]")
    try:
        return endpoint.startswith("tcp://") and ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, an interface, or all of them
        return host in ("localhost", "lo")


def check_free(endpoint: str) -> None:
    """Raise ValueError unless the path of an ``ipc://`` address is free, or a socket that nobody listens at.

    ZMQ itself deletes whatever file has that path.
    """
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@"):
        return
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ValueError(f"{path} is there, and is no socket: choose another path")
        with sockets.socket(sockets.AF_UNIX) as trial, contextlib.suppress(ConnectionRefusedError):
            trial.connect(path)
            raise ValueError(f"another process listens at {path}: end it, or choose another path")


def why_refused(endpoint: str, error: zmq.ZMQError) -> str:
    """Why ZMQ did not take the address, and what it should look like."""
    if error.errno == errno.ENAMETOOLONG:
        size = len(os.fsencode(endpoint.removeprefix("ipc://")))
        return f"the path of a socket has at most {MAX_IPC_PATH_BYTES} bytes, this one has {size}: choose a shorter one"
    reason = os.strerror(error.errno or 0)
    malformed = error.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.ENODEV)
    return f"{reason}; it looks like tcp://gpu-host:31100" if malformed else reason
