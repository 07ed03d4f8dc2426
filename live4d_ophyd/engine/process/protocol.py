"""The wire between session and engine: versioned CBOR messages over ZMQ, arrays as bytes, nothing executable.

Every message is a map with ``v`` (the version) and ``kind``. From the session: ``hello``, ``acquire``
(generation, request), ``cancel`` (generation), ``preview``, ``release``. From the engine: ``ready``, ``refused``
(reason), ``released``, ``alive``, ``log`` (level, text), ``armed`` (generation), ``progress`` (generation, progress,
outputs), ``raster`` (generation, raster), ``done`` (generation), ``failed`` (generation, error, reason). ``refused``,
too, says which error it is, and of which generation if it is of one. What an acquisition's messages must be is in
`conversation`.
"""

from __future__ import annotations

import errno
import os
from typing import Any

import cbor2
import numpy as np
import zmq

VERSION = 4
#: no message between session and engine is larger (a 4096 x 4096 scan with one detector is 134 MB)
MAX_MESSAGE_BYTES = 1 << 30

#: libzmq's own heartbeat runs in its I/O thread: it works while Python is busy, ms
HEARTBEAT_MS = 250
HEARTBEAT_TIMEOUT_MS = 900


#: what the kernel takes as the name of a socket in the file system
MAX_IPC_PATH_BYTES = 107


class WireError(ValueError):
    """A message that is not one of ours, or of another version."""


def encode(kind: str, **values: Any) -> bytes:
    """The message as bytes."""
    return cbor2.dumps({"v": VERSION, "kind": kind, **values}, default=_encode_special)


def decode(raw: bytes) -> dict[str, Any]:
    """The message of these bytes. Raises WireError."""
    try:
        message = cbor2.loads(raw, object_hook=_decode_special)
    except Exception as error:  # cbor2 and the hook raise many kinds
        raise WireError(f"not a message of the engine's protocol: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise WireError(f"not a message of the engine's protocol: {str(message)[:80]}")
    version = message.get("v")
    if type(version) is not int or version != VERSION:  # comparing an array would raise something else
        raise WireError(
            f"the other side speaks version {str(version)[:20]} of the engine's protocol, this one {VERSION}: "
            "install the same live4d-ophyd on both"
        )
    return message


def field(message: dict[str, Any], name: str, kind: type) -> Any:
    """A field of a message, if it is exactly of this type. Raises WireError."""
    value = message.get(name)
    if type(value) is not kind:
        raise WireError(f"{message['kind']}: {name} is {str(value)[:80]!r}; expected {kind.__name__}")
    return value


def _encode_special(encoder: cbor2.CBOREncoder, value: Any) -> None:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        encoder.encode({"__array__": [array.dtype.str, list(value.shape), array.tobytes()]})
    elif isinstance(value, np.generic):
        encoder.encode(value.item())
    else:
        raise cbor2.CBOREncodeTypeError(f"cannot send a {type(value).__name__}")


def _decode_special(values: Any, *_: Any) -> Any:
    if "__array__" in values:
        kind, shape, data = values["__array__"]
        dtype = np.dtype(kind)
        if dtype.hasobject:
            raise WireError(f"an array of {dtype} is not allowed on the wire")
        return np.frombuffer(data, dtype).reshape(shape).copy()
    return values


def prepare(socket: zmq.Socket, endpoint: str) -> None:
    """Options both sides set before bind or connect."""
    socket.linger = 200
    if not endpoint.startswith("ipc:"):
        # On one machine the operating system tells who ended; a process that is only stopped may go on later.
        socket.heartbeat_ivl = HEARTBEAT_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
    socket.maxmsgsize = MAX_MESSAGE_BYTES


def why_refused(endpoint: str, error: zmq.ZMQError) -> str:
    """Why ZMQ did not take the address, and what it should look like."""
    if error.errno == errno.ENAMETOOLONG:
        size = len(os.fsencode(endpoint.removeprefix("ipc://")))
        return f"the path of a socket has at most {MAX_IPC_PATH_BYTES} bytes, this one has {size}: choose a shorter one"
    reason = os.strerror(error.errno or 0)
    malformed = error.errno in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.ENODEV)
    return f"{reason}; it looks like tcp://gpu-host:31100" if malformed else reason
