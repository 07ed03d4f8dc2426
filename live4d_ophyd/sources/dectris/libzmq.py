"""Where the C functions of pyzmq's own libzmq (and of the C library) are, to be called without the GIL."""

from __future__ import annotations

import ctypes

import numpy as np
import zmq
from numba import int64, njit
from zmq.backend.cython import _zmq

from live4d_ophyd.frames.memory import NOGIL, call_int_int_ptr

#: order of the addresses in :func:`addresses`
FUNCTIONS = (
    "zmq_msg_init",
    "zmq_msg_recv",
    "zmq_msg_data",
    "zmq_msg_size",
    "zmq_msg_more",
    "zmq_msg_close",
    "zmq_errno",
    "zmq_send",
    "clock_gettime",
    "usleep",
)
MSG_INIT, MSG_RECV, MSG_DATA, MSG_SIZE, MSG_MORE, MSG_CLOSE, ERRNO, SEND, CLOCK_GETTIME, USLEEP = range(10)

#: bytes of a zmq_msg_t (fixed by libzmq's ABI)
MESSAGE_BYTES = 64

EAGAIN, EINTR, ETERM = zmq.EAGAIN, 4, zmq.ETERM
DONTWAIT = int(zmq.DONTWAIT)


def addresses() -> np.ndarray:
    """Addresses of :data:`FUNCTIONS`, ``(10,) int64``.

    They are looked up in pyzmq's extension module (and what it links): a second libzmq on the machine would
    not know pyzmq's sockets.
    """
    library = ctypes.CDLL(_zmq.__file__)
    found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in FUNCTIONS]
    return np.array(found, np.int64)


@njit(**NOGIL)
def monotonic_ns(functions, timespec):
    """CLOCK_MONOTONIC in ns, the clock of ``time.monotonic``; ``timespec`` is scratch, ``(2,) int64``."""
    call_int_int_ptr(functions[CLOCK_GETTIME], 1, int64(timespec.ctypes.data))
    return timespec[0] * 1_000_000_000 + timespec[1]
