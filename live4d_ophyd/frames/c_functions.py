"""C functions that compiled loops call by address: tables of where they are, and the clock and the sleep in each table.

In: a library and names. Out: a table, ``(2 + n,) int64``, and functions for numba that run without the GIL.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numba import int64, njit

from live4d_ophyd.frames.memory import NOGIL, call_int_int, call_int_int_ptr

#: every table begins with these
_FIRST = ("clock_gettime", "usleep")
_CLOCK_GETTIME, _USLEEP = range(2)
#: where what was asked for begins
OTHERS = len(_FIRST)

_CLOCK_MONOTONIC = 1


def addresses(library: ctypes.CDLL, names: tuple[str, ...]) -> np.ndarray:
    """A table of these functions of a library or of what it links, from `OTHERS` on. Raises AttributeError."""
    found = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in _FIRST + names]
    return np.array(found, np.int64)


@njit(**NOGIL)
def monotonic_ns(table, scratch):
    """CLOCK_MONOTONIC in ns, the clock of ``time.monotonic``; ``scratch`` is ``(>= 2,) int64``."""
    call_int_int_ptr(table[_CLOCK_GETTIME], _CLOCK_MONOTONIC, int64(scratch.ctypes.data))
    return scratch[0] * 1_000_000_000 + scratch[1]


@njit(**NOGIL)
def nap(table, us):
    """Sleep."""
    call_int_int(table[_USLEEP], us)
