"""Gather: compressed frames of a batch, close together in other memory."""

from __future__ import annotations

import numpy as np
from numba import int64, njit

from live4d_ophyd.frames.memory import NOGIL, copy_bytes


@njit(**NOGIL)
def gather(source, offsets, sizes, first, destination, at):
    """Copy pieces of ``source`` from number ``first`` on to ``destination`` from ``at`` on, as many as fit.

    ``source`` and ``destination`` are uint8, ``offsets`` and ``sizes`` (n,) int64, in bytes. Returns the number of the
    first piece that does not fit, and where the next would begin.
    """
    source_at, destination_at = int64(source.ctypes.data), int64(destination.ctypes.data)
    piece = first
    while piece < len(offsets):
        size, offset = sizes[piece], offsets[piece]
        if at + size > len(destination) or size < 0 or offset < 0 or offset + size > len(source):
            break
        copy_bytes(destination_at + at, source_at + offset, size)
        at += size
        piece += 1
    return piece, at


def warm_up() -> None:
    """Compile it, or load it from the cache."""
    none = np.zeros(1, np.int64)
    gather(np.zeros(1, np.uint8), none, none, 0, np.zeros(1, np.uint8), 0)
