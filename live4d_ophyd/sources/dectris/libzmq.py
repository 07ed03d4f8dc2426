"""Where the functions of pyzmq's own libzmq are, to be called without the GIL, and what they take and give."""

from __future__ import annotations

import ctypes

import numpy as np
import zmq
from zmq.backend.cython import _zmq

from live4d_ophyd.frames import c_functions

_FUNCTIONS = (
    "zmq_msg_init",
    "zmq_msg_recv",
    "zmq_msg_data",
    "zmq_msg_size",
    "zmq_msg_more",
    "zmq_msg_close",
    "zmq_errno",
    "zmq_send",
)
#: of the table of :func:`addresses`
MSG_INIT, MSG_RECV, MSG_DATA, MSG_SIZE, MSG_MORE, MSG_CLOSE, ERRNO, SEND = range(
    c_functions.OTHERS, c_functions.OTHERS + len(_FUNCTIONS)
)

#: bytes of a zmq_msg_t (fixed by libzmq's ABI)
MESSAGE_BYTES = 64

EAGAIN, EINTR, ETERM = zmq.EAGAIN, 4, zmq.ETERM
DONTWAIT = int(zmq.DONTWAIT)


def addresses() -> np.ndarray:
    """A table of `frames.c_functions`.

    They are looked up in pyzmq's extension module (and what it links): a second libzmq on the machine would
    not know pyzmq's sockets.
    """
    return c_functions.addresses(ctypes.CDLL(_zmq.__file__), _FUNCTIONS)
